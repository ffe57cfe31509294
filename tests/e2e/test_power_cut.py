"""A whole set whose processes bring to the disk what they store, and the power fails again and again."""

import asyncio
import json
import os
import random
import sys
import time
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from callboard_admin.accounts import Accounts
from callboard_contracts.config import NatsSection
from callboard_contracts.quota import UNITS_PER_TOKEN
from callboard_kit.bus import Bus
from tests.e2e.power_cut_load import WORDS, Callers, Told, session
from tests.support.deployment import Deployment, stub_config
from tests.support.power_cut import PowerCut, kill_at_once
from tests.support.processes import merged
from tests.support.store_order import read_store
from tests.support.stub_chat import StubChat, numbered
from tests.support.stub_speech import StubSpeech
from tests.support.sync_journal import SyncJournal

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(3600)]

ROUNDS = int(os.environ.get("CALLBOARD_POWER_ROUNDS", "0"))
SEED = int(os.environ.get("CALLBOARD_POWER_SEED", "0")) or random.SystemRandom().randrange(1, 10**6)
LONGEST_SYNC_S = 0.03
LOAD_S = (0.7, 1.8)
COPY_INTERVAL_S = 0.1
COUNTED_AFTER_S = 0.5
"""A reply's end reaches its client a little before its usage is on the disk; after so long it must be."""
TIERS = {"busy": {"tokens_per_day": 10_000_000, "jobs_at_once": 3}, "tiny": {"tokens_per_day": 1000}}
OVER: dict[str, Any] = {
    "edge": {"request_timeout_s": 7},
    "chat": {"models": {"owl": {"context_tokens": 512, "max_output_tokens": 256}}},
    "quota": {"tiers": TIERS, "lease_margin_s": 1.0, "reap_interval_s": 0.5},
}


@dataclass(frozen=True, slots=True)
class Round:
    """What callers were told before a cut, when that was by `time.monotonic`, and what it took from the disk."""

    told: Told
    cut_at: float
    cut: list[str]

    def __str__(self) -> str:
        told = self.told
        ended = sum(reply.ended_at is not None for reply in told.streamed)
        return (
            f"{len(told.streamed)} replies, {ended} ended, {len(told.kept)} kept, {len(told.keys)} keys, "
            f"{told.refused} refused, {len(self.cut)} files cut"
        )


class PoweredSet:
    """A set on a machine whose power fails; the methods block where they are not coroutines."""

    def __init__(self, folder: Path, engine_url: str, speech_url: str, seed: int) -> None:
        self.chance = random.Random(seed)
        self.store = folder / "set" / "nats" / "store"
        self.journal = folder / "journal"
        self.power = PowerCut(self.store, self.journal, self.chance)
        self.deployment = Deployment(
            folder / "set",
            merged(stub_config(engine_url, speech_url), OVER),
            sync="processes",
            forked=True,
            environ=self.power.environ(LONGEST_SYNC_S),
        )
        self.keys: list[str] = []

    def start(self) -> None:
        """Starts the set, and makes a key of each tier."""
        self.deployment.start(speakers=0)
        self.keys = [self.deployment.create_key(tier) for tier in ("standard", "busy", "tiny")]

    @asynccontextmanager
    async def bus(self, *, syncs: bool = False) -> AsyncGenerator[Bus]:
        """A connection of an operator's."""
        settings = NatsSection(url=self.deployment.nats.url, store_dir=self.store if syncs else None)
        bus = await Bus.connect(settings, "test", lambda: None)
        try:
            # The first request starts the client's own task for answers, which is not the test's to clean up.
            await bus.api("INFO", {})
            yield bus
        finally:
            await bus.close()

    async def run_until_cut(self, bus: Bus) -> Round:
        """Has callers ask, and an operator make keys over a connection of its own, until the power fails."""
        keys = self.keys
        async with session() as clients:
            callers = Callers(clients, self.deployment.root_url(), self.chance)
            asking = [asyncio.ensure_future(callers.keep_streaming(key)) for key in keys for _ in range(4)]
            asking += [asyncio.ensure_future(callers.keep_polling(key)) for key in keys[:1] for _ in range(3)]
            making = asyncio.ensure_future(callers.keep_making_keys(bus))
            until = time.monotonic() + self.chance.uniform(*LOAD_S)
            while time.monotonic() < until:
                await asyncio.sleep(COPY_INTERVAL_S)
                await asyncio.to_thread(self.power.copy_consumers)
            cut_at = time.monotonic()
            await asyncio.to_thread(kill_at_once, self.deployment.children, self.chance)
            making.cancel()
            await asyncio.gather(*asking, making, return_exceptions=True)
            return Round(callers.told, cut_at, await asyncio.to_thread(self.power.cut))

    def start_again(self) -> None:
        """Starts all services, on the bus that runs."""
        assert self.deployment.streams is not None
        self.deployment.streams.start()
        for service in self.deployment.services:
            service.start()
        for service in self.deployment.services:
            service.wait_ready()

    def stop_in_order(self) -> None:
        """Has the server write its index as it does when a machine is shut down."""
        self.deployment.nats.stop()
        self.deployment.nats.start()
        for service in self.deployment.services:
            service.wait_ready()


@pytest.fixture
def make_set(
    tmp_path: Path, chat_engine: StubChat, speech_engine: StubSpeech, monkeypatch: pytest.MonkeyPatch
) -> Generator[Callable[[int], PoweredSet]]:
    """Makes one set, and kills it afterwards; this process notes its own syncs too."""
    sets: list[PoweredSet] = []

    def make(seed: int) -> PoweredSet:
        powered = PoweredSet(tmp_path, chat_engine.url, speech_engine.url, seed)
        sets.append(powered)
        monkeypatch.setattr(os, "fdatasync", SyncJournal(powered.journal, "test").wrapped(os.fdatasync))
        return powered

    chat_engine.plays(numbered(WORDS, delay_s=0.008))
    yield make
    for powered in sets:
        powered.deployment.abandon()


Check = Callable[[PoweredSet, Round], Awaitable[None]]


def repair(deployment: Deployment) -> None:
    """Corrects the counters, as `callboard up` does on a machine that was restarted."""
    deployment.command("usage", "verify", "--repair")


async def served(powered: PoweredSet, keys: Sequence[str]) -> None:
    """Checks that the holders of some keys are served."""
    async with session() as clients:
        callers = Callers(clients, powered.deployment.root_url(), powered.chance)
        new = await asyncio.gather(*map(callers.stream, keys))
        assert [reply is not None and reply.ended_at is not None for reply in new] == [True] * len(keys), new


async def kept_are_there(powered: PoweredSet, told: Told) -> None:
    """Checks that polled replies whose end was told read as they did."""
    async with session() as clients:
        callers = Callers(clients, powered.deployment.root_url(), powered.chance)
        for kept in told.kept:
            if kept.text is not None:
                assert await callers.poll(kept.job_id) == kept.text


async def counted(deployment: Deployment, round_: Round) -> None:
    """Checks the usage of all that clients were told of."""
    found = await deployment.usage()
    events = {event.request_id: event for event in found}
    times = Counter(event.request_id for event in found)
    assert {name: count for name, count in times.items() if count > 1} == {}
    for reply in round_.told.streamed:
        assert reply.request_id in events, reply
        if reply.ended_at is None:
            continue
        if events[reply.request_id].work.completion_tokens != reply.words:
            assert round_.cut_at - reply.ended_at < COUNTED_AFTER_S, (reply, events[reply.request_id])
    charged = await deployment.charged_units()
    sums: dict[str, int] = {}
    for event in events.values():
        tokens = event.work.prompt_tokens + event.work.completion_tokens
        sums[event.tenant] = sums.get(event.tenant, 0) + tokens * UNITS_PER_TOKEN
    counted_units = {tenant: {units for name, units in charged.items() if name.split()[0] == tenant} for tenant in sums}
    assert counted_units == {tenant: {units} for tenant, units in sums.items()}


async def check_disk(powered: PoweredSet, round_: Round) -> None:
    """Starts the bus on what is left, and checks what is on the disk; then nothing is taken from that any more."""
    await asyncio.to_thread(powered.deployment.nats.start)
    await asyncio.to_thread(powered.power.begin)
    async with powered.bus() as bus:
        stored = await read_store(bus)
        for key in round_.told.keys:
            assert (await Accounts.on(bus).find(key))[1] is not None
    assert stored.faults() == []
    assert stored.lost(reply.request_id for reply in round_.told.streamed) == []
    assert stored.lost_groups(kept.job_id for kept in round_.told.kept) == []
    assert stored.without_result(kept.job_id for kept in round_.told.kept if kept.text is not None) == []


async def check_service(powered: PoweredSet, round_: Round) -> None:
    """Starts everything on what is left, and checks that all goes on and that all is charged in the end."""
    await check_disk(powered, round_)
    deployment, keys = powered.deployment, powered.keys
    await asyncio.to_thread(powered.start_again)
    await asyncio.to_thread(repair, deployment)
    await served(powered, [keys[0], *round_.told.keys[-3:]])
    await asyncio.to_thread(deployment.wait_idle, 30)
    # Until then what runs as far as anybody knows leaves no room.
    await served(powered, keys[1:2])
    await kept_are_there(powered, round_.told)
    await asyncio.to_thread(deployment.wait_idle)
    report = json.loads(await asyncio.to_thread(deployment.command, "usage", "verify", "--json"))
    assert (report["drift_count"], report["open_holds"]) == (0, 0), report
    await counted(deployment, round_)


async def check_order(powered: PoweredSet, round_: Round) -> None:
    """Checks what is on the disk, and starts everything on it."""
    await check_disk(powered, round_)
    await asyncio.to_thread(powered.start_again)


@pytest.mark.parametrize(("check", "rounds"), [(check_order, 2), (check_service, 1)], ids=["disk", "service"])
async def test_power_cuts_lose_nothing_that_anybody_was_told(
    check: Check, rounds: int, make_set: Callable[[int], PoweredSet]
) -> None:
    """`CALLBOARD_POWER_ROUNDS=40 CALLBOARD_POWER_SEED=<seed>` runs more rounds, and nearly the same way again."""
    powered = make_set(SEED)
    await asyncio.to_thread(powered.start)
    # It stays open, since a client that is closed while it looks for its server leaves a task behind.
    async with powered.bus(syncs=True) as bus:
        for number in range(ROUNDS or rounds):
            if powered.chance.random() < 0.5:
                await asyncio.to_thread(powered.stop_in_order)
            round_ = await powered.run_until_cut(bus)
            try:
                await check(powered, round_)
            except Exception as error:
                found = "\n".join([f"seed {SEED}, round {number}: {error}", *round_.cut])
                raise AssertionError(found) from error
            sys.stdout.write(f"seed {SEED}, round {number}: {round_}\n")
    await asyncio.to_thread(powered.deployment.stop)
