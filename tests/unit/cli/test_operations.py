"""Commands of operations: what they refuse before they reach a bus, and how they show what they found."""

from pathlib import Path

import pytest

from callboard_admin import backups
from callboard_cli import status
from callboard_cli.__main__ import main, parser
from callboard_cli.failures import ExitCode
from callboard_contracts.config import Config

pytestmark = pytest.mark.unit


@pytest.fixture(autouse=True)
def _nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("CALLBOARD_CONFIG", raising=False)


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["drain"], "drain: name pools or workers, or --all"),
        (["drain", "chat/main", "--all"], "drain: name pools or workers, or --all"),
        (["drain", "--all", "--timeout", "0"], "--timeout: found a time that is not positive"),
        (["dlq", "drop"], "dlq drop: name dead letters, or --all, or --before"),
        (["dlq", "drop", "7", "--all"], "dlq drop: name dead letters, or --all, or --before"),
        (["dlq", "drop", "--before", "soon"], "--before: "),
        (["backup", "nowhere/site.backup"], "nowhere: no such folder"),
        (["backup", "."], ".: exists already; a backup is never overwritten"),
    ],
)
def test_wrong_arguments_are_one_line(words: list[str], reason: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == ExitCode.USAGE
    error = capsys.readouterr().err
    assert error.startswith(f"callboard: {reason}")
    assert error.count("\n") == 1


def test_missing_backup_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["restore", "none.backup"]) == ExitCode.FAILED
    assert capsys.readouterr().err == "callboard: none.backup: no such file or directory\n"


@pytest.mark.parametrize("command", ["status", "dlq", "drain", "backup", "restore", "models"])
def test_help_says_what_a_command_does(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        parser().parse_args([command, "--help"])
    assert ended.value.code == 0
    assert len(capsys.readouterr().out.splitlines()) > 5


def test_backup_holds_what_lives_long_and_no_keys() -> None:
    names = backups.backed_up(Config())
    assert {"USAGE", "QUOTA", "KUDOS", "TRANSFERS", "LEASE", "AUDIT", "KV_ACCOUNTS", "KV_ROOMS", "TURNS"} <= set(names)
    assert {"KV_CHARACTERS", "SAVES"} <= set(names)
    assert not {"CHAT", "TTS", "RESULT", "KEYS", "KV_WORKERS", "OUT", "ATTEMPTS", "AUDIO", "ROOM_AUDIO"} & set(names)
    assert (names[0], names[-1]) == ("LEASE", "USAGE")
    assert names.index("KUDOS") < names.index("TRANSFERS")
    assert names.index("QUOTA") < names.index("AUDIT")
    recorded = Config.model_validate({"rooms": {"recording_life_s": 3600}})
    assert "ROOM_AUDIO" in backups.backed_up(recorded)
    assert not {"KV_ROOMS", "ROOM_AUDIO", "TURNS"} & set(backups.backed_up(recorded, rooms=False))


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(None, "-"), (0.04, "0.0 s"), (119.0, "119.0 s"), (600, "10 min"), (36_000, "10 h"), (864_000, "10 d")],
)
def test_ages_are_short(seconds: float | None, shown: str) -> None:
    assert status.age(seconds) == shown
