"""A backup restored into a fresh bus: balances, counters, accounts, rooms, use and positions are what they were."""

import asyncio
import errno
import json
import os
import subprocess
import sys
import time
from collections.abc import Generator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from callboard_admin import backups
from callboard_admin.backups import MANIFEST, back_up, describe, read_manifest
from callboard_cli.failures import ExitCode
from callboard_contracts import subjects
from callboard_contracts.accounts import key_digest
from callboard_contracts.kudos import KudosReply
from callboard_contracts.streams import CHAT, KEYS, LEASE, SETTLEMENT, USAGE
from callboard_edge.backends.saved_slots import BusSavedSlots
from callboard_edge.domain.saved_slots import Save
from callboard_kit.bucket import Bucket
from callboard_kit.bus import Bus
from callboard_kit.stream_reads import read_subject
from tests.integration.quota.deployment import (
    QuotaDeployment,
    counters,
    event_of,
    eventually,
    hold_of,
    no_leases,
    report,
    request,
    settled,
)
from tests.support.cluster import Cluster
from tests.support.commands import run_command
from tests.support.ports import free_port

pytestmark = [pytest.mark.integration, pytest.mark.timeout(400)]


@pytest.fixture
def pair(tmp_path: Path) -> Generator[tuple[QuotaDeployment, QuotaDeployment]]:
    """A site that is used, and a fresh one with a bus of its own."""
    used, fresh = QuotaDeployment(tmp_path / "used"), QuotaDeployment(tmp_path / "fresh")
    try:
        yield used, fresh
    finally:
        used.abandon()
        fresh.abandon()


async def command(deployment: QuotaDeployment, *words: str) -> "subprocess.CompletedProcess[str]":
    return await run_command(deployment.folder, deployment.table, *words)


async def kudos(bus: Bus, subject: str, **fields: object) -> KudosReply:
    return KudosReply.model_validate_json(await bus.request(subject, json.dumps(fields).encode(), 10.0))


async def position(bus: Bus) -> tuple[int, int, int]:
    info = await bus.api(f"CONSUMER.INFO.{USAGE}.{SETTLEMENT}", {})
    return info["ack_floor"]["stream_seq"], info["num_ack_pending"], info["num_pending"]


async def leases(bus: Bus) -> list[bytes]:
    return [stored.data for stored in await read_subject(bus, LEASE, "lease.*.*") if stored.data]


async def _at(bus: Bus, wanted: tuple[int, int, int]) -> bool:
    return await position(bus) == wanted


async def states(bus: Bus, names: list[str]) -> dict[str, Any]:
    # The markers of ended leases live for a second.
    found = {name: (await bus.api(f"STREAM.INFO.{name}", {}))["state"] for name in names if name != LEASE}
    return {name: (state["messages"], max(1, state["first_seq"]), state["last_seq"]) for name, state in found.items()}


STORY = Save("A story", "any", b"Once" * 200_000)


def slots(bus: Bus) -> BusSavedSlots:
    return BusSavedSlots(bus, 2**30, 86_400.0, time.time)


async def test_everything_counts_on_from_where_it_was(
    pair: tuple[QuotaDeployment, QuotaDeployment], tmp_path: Path
) -> None:
    used, fresh = pair
    await asyncio.to_thread(used.start)
    created = await asyncio.to_thread(used.command, "keys", "create", "--name", "ada")
    digest = key_digest(next(line for line in created.splitlines() if line.startswith("cb_")))
    (account,) = json.loads(await asyncio.to_thread(used.command, "keys", "list", "--json"))
    file = tmp_path / "site.backup"
    async with used.bus() as bus:
        await kudos(bus, subjects.QUOTA_KUDOS_EARN, id="earned-1", account=account["id"], amount=5_000)
        for n in range(30):
            await report(bus, event_of(await hold_of(bus, request(f"done-{n}", key_digest=digest)), 40 + n))
        await settled(bus)
        # Holds whose events nobody has settled yet: they are settled after the restore, once.
        open_holds = [await hold_of(bus, request(f"open-{n}", key_digest=digest)) for n in range(4)]
        await asyncio.to_thread(used.quotas[0].running.kill)
        for hold in open_holds[:3]:
            await report(bus, event_of(hold, 70))
        await Bucket(bus, "ROOMS").put("0" * 32, b"a room", None)
        await slots(bus).save("someone", 3, STORY)
        await bus.publish_stored("job.chat.main.live.someone", b"a prompt", "job-1")
        await bus.publish_stored(subjects.DATA_KEYS, b"a key", "key-1")
        made = await command(used, "backup", str(file))
        assert made.returncode == ExitCode.OK, made.stderr
        assert "in use" not in made.stdout
        assert file.stat().st_mode & 0o777 == 0o600
        manifest = read_manifest(file)
        names = [one.name for one in manifest.streams]
        assert not {CHAT, KEYS, "KV_WORKERS"} & set(names)
        before, position_before, counters_before = await states(bus, names), await position(bus), await counters(bus)
        leases_before = await leases(bus)
    assert position_before == (30, 0, 3)

    await asyncio.to_thread(fresh.start, 0)
    restored = await command(fresh, "restore", str(file))
    assert restored.returncode == ExitCode.OK, restored.stderr
    assert "restart the bus before you start the services" in restored.stdout
    async with fresh.bus() as bus:
        assert await states(bus, names) == before
        assert await leases(bus) == leases_before
        assert await position(bus) == position_before
        assert await counters(bus) == counters_before
        entry = await Bucket(bus, "ROOMS").get("0" * 32)
        assert entry is not None
        assert entry.value == b"a room"
        assert await slots(bus).load("someone", 3) == STORY
    await asyncio.to_thread(fresh.nats.stop)
    await asyncio.to_thread(fresh.nats.start)
    service = await asyncio.to_thread(fresh.add)
    await asyncio.to_thread(service.wait_ready)
    async with fresh.bus() as bus:
        await settled(bus)
        # The fourth hold has no event: it is released by its client, under the ids of before.
        body = json.dumps({"hold": json.loads(open_holds[3].model_dump_json())}).encode()
        assert json.loads(await bus.request(subjects.QUOTA_RELEASE, body, 10))["settled"]
        await no_leases(bus)
        shown = await kudos(bus, subjects.QUOTA_KUDOS_SHOW, account=account["id"])
        assert shown.balance == 5_000
        assert (
            await kudos(bus, subjects.QUOTA_KUDOS_EARN, id="earned-1", account=account["id"], amount=5_000)
        ).repeated
        # A repeat of what was settled before the backup is remembered.
        await report(bus, event_of(await hold_of(bus, request("later", key_digest=digest)), 10))
        await settled(bus)
        units = (await counters(bus))[account["id"], "units"]
        assert units == 1000 * (sum(40 + n for n in range(30)) + 3 * 70 + 10)
    for what in (("usage", "verify", "--json"), ("kudos", "verify")):
        checked = await command(fresh, *what)
        assert checked.returncode == ExitCode.OK, checked.stdout
    await asyncio.to_thread(fresh.stop)


async def test_restore_refuses_what_it_would_destroy_and_what_is_damaged(
    pair: tuple[QuotaDeployment, QuotaDeployment], tmp_path: Path
) -> None:
    used, _ = pair
    await asyncio.to_thread(used.start, 0)
    file = tmp_path / "site.backup"
    async with used.bus() as bus:
        await bus.publish_stored("usage.someone", b"event", "u1")
        assert (await command(used, "backup", "--without-rooms", str(file))).returncode == ExitCode.OK
        assert "KV_ROOMS" not in {one.name for one in read_manifest(file).streams}

        again = await command(used, "backup", str(file))
        assert again.returncode == ExitCode.USAGE
        assert "never overwritten" in again.stderr

        full = await command(used, "restore", str(file))
        assert full.returncode == ExitCode.FAILED
        assert full.stderr == "callboard: restore: USAGE holds 1 messages; --replace deletes what is there\n"

        await bus.publish_stored("usage.someone", b"lost by the restore", "u2")
        replaced = await command(used, "restore", "--replace", str(file))
        assert replaced.returncode == ExitCode.OK, replaced.stderr
        assert (await states(bus, [USAGE]))[USAGE] == (1, 1, 1)

        quota = await asyncio.to_thread(used.add)
        await asyncio.to_thread(quota.wait_ready)
        busy = await command(used, "restore", "--replace", str(file))
        assert busy.returncode == ExitCode.FAILED
        assert "USAGE is in use; stop all services first" in busy.stderr

    content = bytearray(file.read_bytes())
    for name, data, reason in (
        ("cut", bytes(content[: content.index(MANIFEST.encode())]), "the backup is cut off"),
        ("no backup", b"not a tar file", "not a backup of Callboard"),
        ("damaged", bytes(content[:600]) + bytes([content[600] ^ 1]) + bytes(content[601:]), "is damaged"),
    ):
        bad = tmp_path / name
        bad.write_bytes(data)
        refused = await command(used, "restore", "--check", str(bad))
        assert refused.returncode == ExitCode.FAILED, name
        assert reason in refused.stderr
        assert refused.stderr.count("\n") == 1


async def test_backup_of_a_site_at_work_says_so_and_a_full_disk_leaves_nothing(
    pair: tuple[QuotaDeployment, QuotaDeployment], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    used, fresh = pair
    await asyncio.to_thread(used.start, 0)
    async with used.bus() as bus:
        for n in range(12):
            # More than the server sends before it waits for acknowledgements, and not compressible.
            await bus.publish_stored("usage.someone", os.urandom(900_000), f"u{n}")
        file = tmp_path / "site.backup"
        work = asyncio.ensure_future(_work(bus))
        try:
            manifest = await back_up(bus, [USAGE, "QUOTA"], file)
        finally:
            work.cancel()
            await asyncio.gather(work, return_exceptions=True)
        assert USAGE in manifest.changed
        assert "made while the site was in use: USAGE" in "\n".join(describe(read_manifest(file)))

        await asyncio.to_thread(fresh.start, 0)
        restored = await command(fresh, "restore", str(file))
        assert restored.returncode == ExitCode.OK, restored.stderr

        def full(*_: object) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(backups, "_add", full)
        with pytest.raises(OSError, match="No space left"):
            await back_up(bus, [USAGE], tmp_path / "none.backup")
        assert not [*tmp_path.glob("*none.backup*")]


async def _work(bus: Bus) -> None:
    while True:
        await bus.publish_stored("usage.someone", b"event", None)


def test_site_that_is_stopped_is_restored_and_backed_up_by_its_own_bus(
    pair: tuple[QuotaDeployment, QuotaDeployment], tmp_path: Path
) -> None:
    used, _ = pair
    used.start(0)
    used.command("keys", "create", "--name", "ada")
    used.command("backup", str(tmp_path / "first.backup"))
    used.nats.stop()

    settings = {
        "CALLBOARD__SITE__DATA_DIR": str(tmp_path / "site"),
        "CALLBOARD__NATS__URL": f"nats://127.0.0.1:{free_port()}",
    }

    def run(*arguments: str) -> "subprocess.CompletedProcess[str]":
        argv = [sys.executable, "-m", "callboard_cli", *arguments]
        environ = {**os.environ, **settings}
        return subprocess.run(argv, env=environ, cwd=tmp_path, capture_output=True, text=True, timeout=90, check=False)

    none = run("backup", "none.backup")
    assert none.returncode == ExitCode.FAILED
    assert none.stderr == "callboard: backup: LEASE: stream not found\n"
    assert not [*tmp_path.glob("*none.backup*")]

    restored = run("restore", "first.backup")
    assert restored.returncode == ExitCode.OK, restored.stderr
    assert "the bus was stopped again" in restored.stdout
    assert run("backup", "second.backup").returncode == ExitCode.OK
    # `up` would otherwise say at its start that messages are missing.
    recorded = json.loads((tmp_path / "site" / "nats" / "streams.json").read_text())
    first, second = (read_manifest(tmp_path / f"{name}.backup") for name in ("first", "second"))
    accounts = [next(one for one in each.streams if one.name == "KV_ACCOUNTS") for each in (first, second)]
    assert accounts[0].messages == accounts[1].messages > 0
    assert accounts[0].last_seq == accounts[1].last_seq == recorded["KV_ACCOUNTS"]["last_seq"]


@pytest.mark.slow
async def test_backup_of_one_node_is_restored_into_three_and_back(tmp_path: Path) -> None:
    one, back = QuotaDeployment(tmp_path / "one"), QuotaDeployment(tmp_path / "back")
    three = QuotaDeployment(tmp_path / "three", {"nats": {"replicas": 3}}, nats=Cluster(tmp_path / "cluster"))
    chain = (one, three, back)
    try:
        for deployment in chain:
            await asyncio.to_thread(deployment.start, 0)
        async with one.bus() as bus:
            for n in range(20):
                await bus.publish_stored("usage.someone", b"event", f"u{n}")
            for seq in (3, 20):
                await bus.delete_message(USAGE, seq)
            settling = await bus.connection.jetstream().pull_subscribe_bind(SETTLEMENT, USAGE)
            for message in await settling.fetch(8):
                await message.ack_sync()
            await settling.unsubscribe()
            made = await states(bus, [USAGE])
        for source, target in pairwise(chain):
            file = tmp_path / f"{source.folder.name}.backup"
            assert (await command(source, "backup", str(file))).returncode == ExitCode.OK
            restored = await command(target, "restore", str(file))
            assert restored.returncode == ExitCode.OK, restored.stderr
            async with target.bus() as bus:
                assert await states(bus, [USAGE]) == made
                await eventually(lambda bus=bus: _at(bus, (9, 0, 10)), "the consumer is where it was")
                info = await bus.api(f"STREAM.INFO.{USAGE}", {})
                assert info["config"]["num_replicas"] == (3 if target is three else 1)
    finally:
        for deployment in chain:
            await asyncio.to_thread(deployment.abandon)
