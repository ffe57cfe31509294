"""When `callboard up` has the counters repaired: after the machine was started again, until it has been done."""

import os
from pathlib import Path
from typing import Any

import pytest

from callboard_admin.usage_records import UsageRecords
from callboard_cli.up import restart_repair
from callboard_cli.up.restart_repair import OPEN_HOURS_S, RestartRepair
from callboard_cli.up.store_check import RECORD
from callboard_contracts.quota import VerifyReply
from callboard_kit.bus import Bus, BusUnavailable

pytestmark = pytest.mark.unit

RECORDED_AT = 1_800_000_000.0


@pytest.fixture
def boot_id(tmp_path: Path) -> Path:
    path = tmp_path / "boot_id"
    path.write_text("first\n")
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "nats"
    folder.mkdir()
    return folder


def recorded(folder: Path, at: float = RECORDED_AT) -> None:
    (folder / RECORD).write_text("{}")
    os.utime(folder / RECORD, (at, at))


def test_new_site_needs_none(folder: Path, boot_id: Path) -> None:
    assert RestartRepair(folder, boot_id).due_since() is None


def test_site_that_is_started_again_on_a_running_machine_needs_none(folder: Path, boot_id: Path) -> None:
    RestartRepair(folder, boot_id).due_since()
    recorded(folder)
    assert RestartRepair(folder, boot_id).due_since() is None


@pytest.mark.parametrize("state", ['{"boot_id": "first", "since": null}', "", "\0\0\0", "[]"])
def test_machine_that_was_started_again_has_it_done_since_the_last_sign_of_life(
    folder: Path, boot_id: Path, state: str
) -> None:
    RestartRepair(folder, boot_id).due_since()
    (folder / restart_repair.STATE).write_text(state)
    recorded(folder)
    boot_id.write_text("second\n")
    assert RestartRepair(folder, boot_id).due_since() == RECORDED_AT


def test_repair_that_was_not_finished_is_due_from_the_same_time(folder: Path, boot_id: Path) -> None:
    RestartRepair(folder, boot_id).due_since()
    recorded(folder)
    boot_id.write_text("second\n")
    RestartRepair(folder, boot_id).due_since()
    recorded(folder, RECORDED_AT + 600)
    assert RestartRepair(folder, boot_id).due_since() == RECORDED_AT
    boot_id.write_text("third\n")
    assert RestartRepair(folder, boot_id).due_since() == RECORDED_AT


def test_machine_that_does_not_tell_its_start_has_it_done_each_time(folder: Path, boot_id: Path) -> None:
    boot_id.unlink()
    recorded(folder)
    assert RestartRepair(folder, boot_id).due_since() == RECORDED_AT


def test_disk_that_takes_nothing_does_not_end_the_site(
    folder: Path, boot_id: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_path: Path, _text: str) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(restart_repair, "write_private", full)
    recorded(folder)
    assert RestartRepair(folder, boot_id).due_since() == RECORDED_AT


async def test_counters_that_still_differ_are_looked_at_again_at_the_next_start(
    folder: Path, boot_id: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def verify(_self: Any, _since: float, *, repair: bool = False) -> VerifyReply:
        assert repair
        return VerifyReply(drift_count=2)

    monkeypatch.setattr(UsageRecords, "verify", verify)
    recorded(folder)
    repair, told = RestartRepair(folder, boot_id), list[str]()
    since = repair.due_since()
    assert since is not None
    await repair.run(Bus.__new__(Bus), since, told.append)
    assert told == ["quota: 2 counters still differ; see callboard usage verify"]
    assert RestartRepair(folder, boot_id).due_since() == RECORDED_AT


async def test_quota_is_asked_until_it_has_done_it_and_the_operator_is_told(
    folder: Path, boot_id: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[float, bool]] = []

    async def verify(_self: Any, since: float, *, repair: bool = False) -> VerifyReply:
        asked.append((since, repair))
        if len(asked) == 1:
            raise BusUnavailable("no answer in time")
        return VerifyReply(corrected_count=3)

    monkeypatch.setattr(UsageRecords, "verify", verify)
    monkeypatch.setattr(restart_repair, "RETRY_S", 0)
    recorded(folder)
    repair, told = RestartRepair(folder, boot_id), list[str]()
    since = repair.due_since()
    assert since is not None
    await repair.run(Bus.__new__(Bus), since, told.append)
    assert asked == [(RECORDED_AT - OPEN_HOURS_S, True)] * 2
    assert told == ["quota: 3 counters corrected after the machine's restart"]
    assert RestartRepair(folder, boot_id).due_since() is None
