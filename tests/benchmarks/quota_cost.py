"""What a hold costs: the time of a decision, holds a second, the lag of settlement, memory over many tenants."""

import asyncio
import itertools
import time
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import uvloop

from callboard_contracts.config import QuotaSection
from callboard_contracts.quota import Hold, Rates
from callboard_kit.bus import Bus
from callboard_quota.backends.acknowledged import AcknowledgedPublisher
from callboard_quota.backends.clock import SteadyClock
from callboard_quota.backends.jetstream_ledger import JetStreamLedger
from callboard_quota.domain.decision import Granted, HoldRequest
from callboard_quota.domain.ledger import Ledger
from callboard_quota.domain.limit_kinds import TOKENS_PER_DAY, UNITS
from callboard_quota.domain.limits import Limit
from callboard_quota.domain.tenants import Secret
from tests.benchmarks.figures import Figure, percentile
from tests.integration.quota.deployment import QuotaDeployment, event_of, report, request, reserve, settled
from tests.support.nats_server import NatsServer, Sync

DECISION_P50_MS = 0.5
DECISION_P99_MS = 3.0
PAIRS_A_SECOND = 4000.0
LAG_P99_S = 1.0
QUOTA_MIB = 90.0
IN_FLIGHT = 16
EVENTS_A_SECOND = 500
AMPLE = {
    "quota": {
        "tiers": {"anonymous": {"tokens_per_day": 10**12}, "standard": {}},
        "lease_margin_s": 30,
        # As installations have it; tests look far more often.
        "reap_interval_s": QuotaSection().reap_interval_s,
    }
}

NOTES = """\
One quota process, callers known by their address, each with a daily limit. What is measured through the bus goes the
whole way of an edge and a worker: a decision is the request for a hold and its answer, with the lease and the counter
stored in between; a pair is a hold and the usage event that settles it. The ledger alone is the same code inside the
process that measures, talking to the bus directly: what is left out there are the hop to the quota process, the looking
up of who asks, the audit of admissions and the usage event.
"""

GROUPED_NOTES = """\
The same on one machine, as `callboard up` runs it: usage events, holds and their ends are on the disk first, brought
there by the quota process, those of many callers at once; counters need not be:
"""

STRICT_NOTES = """\
The same with `sync_interval: always`, as a cluster's nodes do: every acknowledged message is on the disk first, so
these figures are those of the disk as much as of the ledger:
"""


@dataclass(frozen=True, slots=True)
class QuotaCost:
    """What was measured."""

    figures: list[Figure]


@dataclass(frozen=True, slots=True)
class Effort:
    """How much is measured."""

    decisions: int = 9000
    pairs: int = 20_000
    lag_s: float = 10.0
    tenants: int = 100_000


QUICK = Effort(decisions=600, pairs=2000, lag_s=3.0, tenants=3000)


def strict(effort: Effort) -> Effort:
    """What is worth measuring again where the disk is waited for: decisions and pairs."""
    return replace(effort, pairs=max(1, effort.pairs // 4), lag_s=0.0, tenants=0)


def measure(folder: Path, effort: Effort, sync: Sync) -> QuotaCost:
    """Starts a bus and one quota process, measures them, and stops them."""
    deployment = QuotaDeployment(folder, AMPLE, nats=NatsServer(folder / "nats", sync=sync), forked=False)
    try:
        deployment.start(1)
        figures = uvloop.run(_measure(deployment, effort))
        deployment.stop()
    finally:
        deployment.abandon()
    return QuotaCost(figures)


async def _measure(deployment: QuotaDeployment, effort: Effort) -> list[Figure]:
    process = deployment.quotas[0]
    async with deployment.bus() as bus:
        numbers = itertools.count()

        async def decide(callers: int = 50) -> Hold:
            n = next(numbers)
            caller = n % callers
            wanted = request(f"bench-{n}", 300, address=f"10.{caller >> 16}.{caller >> 8 & 255}.{caller & 255}")
            reply = await reserve(bus, wanted)
            if reply.hold is None:
                raise RuntimeError(f"not granted: {reply.error}")
            return reply.hold

        async def pair(callers: int = 50) -> None:
            await report(bus, event_of(await decide(callers), 100))

        # A shared machine is slower at times, for a tenth of a second or for half a minute: many, spread over the run.
        times = await _times(effort.decisions // 3, decide)
        in_ledger = await _ledger_pairs(bus, effort.pairs)
        times += await _times(effort.decisions // 3, decide)
        end_to_end = await _rate(effort.pairs, pair, lambda: settled(bus))
        times += await _times(effort.decisions // 3, decide)
        figures = [
            Figure("through the bus: decision, one in flight, p50", percentile(times, 0.5), "ms", DECISION_P50_MS),
            Figure("through the bus: decision, one in flight, p99", percentile(times, 0.99), "ms", DECISION_P99_MS),
            Figure(f"the ledger alone: pairs, {IN_FLIGHT} in flight", in_ledger, "/s", PAIRS_A_SECOND, "higher"),
            Figure(f"through the bus: pairs, {IN_FLIGHT} in flight", end_to_end, "/s"),
        ]
        if effort.lag_s:
            lag_s = await _lag(deployment, bus, effort.lag_s, pair)
            name = f"through the bus: settlement lag at {EVENTS_A_SECOND} events a second, p99 at most"
            figures.append(Figure(name, lag_s, "s", LAG_P99_S))
        if effort.tenants:
            before_mb = process.running.resident_mb
            await _rate(effort.tenants, lambda: pair(effort.tenants), lambda: settled(bus))
            after_mb = process.running.resident_mb
            figures.append(Figure("resident memory before many tenants", before_mb, "MB", QUOTA_MIB))
            figures.append(Figure(f"resident memory after {effort.tenants:,} tenants", after_mb, "MB", QUOTA_MIB))
    return figures


async def _times(count: int, act: Callable[[], Coroutine[Any, Any, object]]) -> list[float]:
    times: list[float] = []
    for n in range(count + 200):
        begun = time.perf_counter()
        await act()
        if n >= 200:
            times.append((time.perf_counter() - begun) * 1000)
    return times


async def _rate(
    count: int, act: Callable[[], Coroutine[Any, Any, object]], finish: Callable[[], Awaitable[None]]
) -> float:
    """How often an act can be done in a second with a fixed number of actors, until all its effects are there."""
    left = count

    async def actor() -> None:
        nonlocal left
        while left > 0:
            left -= 1
            await act()

    begun = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for _ in range(IN_FLIGHT):
            group.create_task(actor())
    await finish()
    return count / (time.perf_counter() - begun)


async def _ledger_pairs(bus: Bus, count: int) -> float:
    publisher = AcknowledgedPublisher(bus)
    await publisher.start()
    repeating = asyncio.ensure_future(publisher.run())
    clock = SteadyClock()
    ledger = Ledger(JetStreamLedger(bus, publisher), clock, Secret(b"bench").signed)
    numbers = itertools.count()

    async def pair() -> None:
        n = next(numbers)
        tenant = f"i_{n % 50:016d}"
        limit = Limit("address", tenant, TOKENS_PER_DAY, 10**15)
        hold_request = HoldRequest(
            request_id=f"ledger-{n}",
            tenant=tenant,
            kind="chat",
            model="owl",
            amounts=((tenant, UNITS, 300_000),),
            limits=(limit,),
            rates=Rates(),
            expires_at=clock.now() + 60,
        )
        outcome = await ledger.reserve(hold_request)
        assert isinstance(outcome, Granted)
        await ledger.settle(outcome.hold, 100_000)

    async def done() -> None:
        return

    try:
        return await _rate(count, pair, done)
    finally:
        repeating.cancel()
        await asyncio.gather(repeating, return_exceptions=True)


async def _lag(
    deployment: QuotaDeployment, bus: Bus, seconds: float, act: Callable[[], Coroutine[Any, Any, None]]
) -> float:
    """The bound of the process's own histogram under which 99 of 100 settlements lie, at a steady rate of events."""
    before = await asyncio.to_thread(deployment.quotas[0].metrics)
    until = time.perf_counter() + seconds
    tick_s = 0.02
    due = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        while time.perf_counter() < until:
            for _ in range(int(EVENTS_A_SECOND * tick_s)):
                group.create_task(act())
            due += tick_s
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
    await settled(bus)
    after = await asyncio.to_thread(deployment.quotas[0].metrics)
    name = "callboard_quota_settlement_lag_seconds"
    total = after[f"{name}_count"] - before[f"{name}_count"]
    for key in sorted((key for key in after if key.startswith(f"{name}_bucket")), key=_bound):
        if after[key] - before[key] >= 0.99 * total:
            return _bound(key)
    return float("inf")


def _bound(key: str) -> float:
    return float(key.partition('le="')[2].partition('"')[0])
