"""What a server on this machine still has after simulated power cuts, and that these lose what nobody synced."""

import asyncio
import os
import random
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from callboard_contracts.config import NatsSection
from callboard_contracts.streams import StreamSpec
from callboard_kit.bus import Bus
from callboard_kit.stream_reads import read_subject
from tests.support.nats_server import NatsServer
from tests.support.power_cut import PowerCut, kill_at_once
from tests.support.sync_journal import SyncJournal

pytestmark = pytest.mark.integration

SYNCED, UNSYNCED = "SYNCED", "UNSYNCED"
SEEDS = range(int(os.environ.get("CALLBOARD_POWER_CUTS", "4")))


@pytest.fixture
def journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The journal of this process's own syncs."""
    journal = tmp_path / "journal"
    monkeypatch.setattr(os, "fdatasync", SyncJournal(journal, "test").wrapped(os.fdatasync))
    return journal


@asynccontextmanager
async def connected(server: NatsServer, *, syncs: bool) -> AsyncGenerator[Bus]:
    store = server.folder / "store" if syncs else None
    bus = await Bus.connect(NatsSection(url=server.url, store_dir=store), "test", lambda: None)
    try:
        yield bus
    finally:
        await bus.close()


async def store(bus: Bus, stream: str, numbers: range) -> None:
    for number in numbers:
        await bus.publish_stored(f"{stream.lower()}.{number % 7}", b"%d" % number, f"{stream}-{number}")


async def stored(bus: Bus, stream: str) -> list[int]:
    return [int(message.data) for message in await read_subject(bus, stream, f"{stream.lower()}.>", limit=10_000)]


@pytest.mark.parametrize("seed", SEEDS)
async def test_what_was_synced_is_there_after_cuts_and_the_rest_a_part(
    seed: int, server: NatsServer, journal: Path
) -> None:
    cut = PowerCut(server.folder / "store", journal, random.Random(seed))
    async with connected(server, syncs=True) as bus:
        for name in (SYNCED, UNSYNCED):
            await bus.api(f"STREAM.CREATE.{name}", StreamSpec(name, (f"{name.lower()}.*",)).config(1))
    missing = 0
    for turn in range(4):
        if turn == 1:
            # One that was stopped in order has an index.
            await asyncio.to_thread(server.stop)
            await asyncio.to_thread(server.start)
        await asyncio.to_thread(cut.begin)
        numbers, more = range(turn * 200, turn * 200 + 100), range(turn * 200 + 100, turn * 200 + 120)
        async with connected(server, syncs=True) as syncing, connected(server, syncs=False) as other:
            before = {name: await stored(other, name) for name in (SYNCED, UNSYNCED)}
            await asyncio.gather(store(syncing, SYNCED, numbers), store(other, UNSYNCED, numbers))
            await store(other, SYNCED, more)
        assert server.child is not None
        await asyncio.to_thread(kill_at_once, {"nats": server.child}, random.Random(seed))
        done = await asyncio.to_thread(cut.cut)
        await asyncio.to_thread(server.start)
        async with connected(server, syncs=False) as bus:
            kept = await stored(bus, SYNCED)
            synced = [*before[SYNCED], *numbers]
            assert kept == [*synced, *more][: max(len(kept), len(synced))], done
            rest = await stored(bus, UNSYNCED)
            wanted = [*before[UNSYNCED], *numbers]
            assert rest == wanted[: len(rest)], done
            missing += len(wanted) - len(rest)
    assert missing > 0
