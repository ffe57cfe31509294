"""The ledger under kill -9 of everything around it."""

import asyncio
import json
import os
import random
import sys
import time
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from callboard_contracts.streams import QUOTA, USAGE
from callboard_kit.bus import Bus, BusError
from callboard_kit.stream_reads import read_subject
from tests.integration.quota.deployment import (
    QuotaDeployment,
    audit,
    counters,
    event_of,
    eventually,
    hold_of,
    no_leases,
    report,
    request,
    reserve,
    settled,
)
from tests.support.children import Child
from tests.support.nats_server import NatsServer

pytestmark = [pytest.mark.integration, pytest.mark.timeout(400)]

DAY_LIMIT = 400
"""Tokens of each address in the crash run: so few that every address is at its limit much of the time."""
JOBS_LIMIT = 3
CRASH_S = float(os.environ.get("CALLBOARD_CRASH_S", "15"))
CRASH_SEED = int(os.environ.get("CALLBOARD_CRASH_SEED", "0")) or random.SystemRandom().randrange(1, 10**9)


async def test_holds_of_a_killed_quota_process_end_with_their_leases(own_deployment: QuotaDeployment) -> None:
    await asyncio.to_thread(own_deployment.start, 2)
    async with own_deployment.bus() as bus:
        requests = [request(f"job-{n}", 100, life_s=1.0) for n in range(300)]
        asked = [asyncio.ensure_future(_try(bus, wanted.request_id, 100, 1.0)) for wanted in requests]
        await asyncio.sleep(0.05)
        await asyncio.to_thread(own_deployment.quotas[0].running.kill)
        await asyncio.gather(*asked)
        replacement = await asyncio.to_thread(own_deployment.add)
        await asyncio.to_thread(replacement.wait_ready)
        await no_leases(bus)
        assert all(value == 0 for value in (await counters(bus)).values())


async def test_usage_that_arrives_while_no_quota_runs_is_settled_later(own_deployment: QuotaDeployment) -> None:
    await asyncio.to_thread(own_deployment.start, 1)
    async with own_deployment.bus() as bus:
        holds = [await hold_of(bus, request(f"job-{n}", 100)) for n in range(20)]
        await asyncio.to_thread(own_deployment.quotas[0].running.kill)
        for n, hold in enumerate(holds):
            await report(bus, event_of(hold, n))
        replacement = await asyncio.to_thread(own_deployment.add)
        await asyncio.to_thread(replacement.wait_ready)
        await settled(bus)
        assert (await counters(bus))[holds[0].tenant, "units"] == sum(range(20)) * 1000


async def test_work_reported_after_its_hold_expired_is_charged_once(own_deployment: QuotaDeployment) -> None:
    await asyncio.to_thread(own_deployment.start, 1)
    async with own_deployment.bus() as bus:
        hold = await hold_of(bus, request("slow", 100, life_s=0.2))
        await no_leases(bus)
        assert (await counters(bus))[hold.tenant, "units"] == 0
        for name in ("first", "second"):
            await report(bus, event_of(hold, 30), msg_id=name)
        await settled(bus)
        assert (await counters(bus))[hold.tenant, "units"] == 30_000
        assert [event.kind for event in await audit(bus, "slow")].count("expired") == 1


async def test_killed_bus_loses_no_settlement(own_deployment: QuotaDeployment) -> None:
    await asyncio.to_thread(own_deployment.start, 1)
    async with own_deployment.bus() as bus:
        holds = [await hold_of(bus, request(f"job-{n}", 100)) for n in range(200)]
        reports = [asyncio.ensure_future(report(bus, event_of(hold, 1), timeout_s=30)) for hold in holds]
        await asyncio.sleep(0.02)
        await asyncio.to_thread(own_deployment.nats.kill)
        await asyncio.sleep(0.5)
        await asyncio.to_thread(own_deployment.nats.start)
        await asyncio.gather(*reports)
        await settled(bus)
        await no_leases(bus)
        assert (await counters(bus))[holds[0].tenant, "units"] == 200_000


async def test_stopping_process_answers_what_it_took(own_deployment: QuotaDeployment) -> None:
    await asyncio.to_thread(own_deployment.start, 2)
    async with own_deployment.bus() as bus:
        asked = [asyncio.ensure_future(reserve(bus, request(f"job-{n}", 1))) for n in range(400)]
        await asyncio.sleep(0.02)
        assert await asyncio.to_thread(own_deployment.quotas[0].running.stop) == 0
        replies = await asyncio.gather(*asked)
        assert all(reply.hold for reply in replies)


async def test_changed_tier_counts_without_a_restart(own_deployment: QuotaDeployment) -> None:
    await asyncio.to_thread(own_deployment.start, 1)
    async with own_deployment.bus() as bus:
        await hold_of(bus, request("before", 5000))
        service = own_deployment.quotas[0]
        service.config["quota"]["tiers"]["anonymous"]["tokens_per_day"] = 6000
        await asyncio.to_thread(service.write_config)

        async def refused() -> bool:
            reply = await reserve(bus, request("after", 1001))
            return reply.error is not None and reply.error.limit == "address.tokens_per_day"

        await eventually(refused, "the new limit counts")
        assert (await reserve(bus, request("over", 6001, address="198.51.100.77"))).hold is None
        assert (await reserve(bus, request("fits", 6000, address="198.51.100.77"))).hold is not None


@pytest.mark.slow
async def test_stream_that_forgets_ids_too_soon_stops_the_process(own_deployment: QuotaDeployment) -> None:
    await asyncio.to_thread(own_deployment.start, 1)
    async with own_deployment.bus() as bus:
        config = (await bus.api(f"STREAM.INFO.{QUOTA}", {}))["config"]
        await bus.api(f"STREAM.UPDATE.{QUOTA}", {**config, "duplicate_window": 60 * 10**9})
        await asyncio.to_thread(own_deployment.quotas[0].running.stop)
        wrong = await asyncio.to_thread(own_deployment.add)
        assert await asyncio.to_thread(wrong.running.wait, 60) == 1
        assert "remembers ids for 60 s" in wrong.running.output()
        own_deployment.quotas.remove(wrong)


async def _try(bus: Bus, name: str, tokens: int, life_s: float) -> None:
    try:
        await reserve(bus, request(name, tokens, life_s=life_s), timeout_s=2)
    except BusError:
        return


@pytest.fixture(params=["default", "processes"])
async def crash_deployment(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncGenerator[QuotaDeployment]:
    """A set with tight limits and short leases; nobody waits for the disk, or the processes do."""
    tiers = {"anonymous": {"tokens_per_day": DAY_LIMIT, "jobs_at_once": JOBS_LIMIT}, "standard": {}}
    nats = NatsServer(tmp_path / "crash" / "nats", sync=request.param)
    deployment = QuotaDeployment(tmp_path / "crash", {"quota": {"tiers": tiers, "lease_margin_s": 1.0}}, nats)
    try:
        yield deployment
        await asyncio.to_thread(deployment.stop)
    finally:
        await asyncio.to_thread(deployment.abandon)


@pytest.mark.slow
async def test_random_kills_of_everything_leave_the_counters_right(crash_deployment: QuotaDeployment) -> None:
    """`CALLBOARD_CRASH_S=60 CALLBOARD_CRASH_SEED=<seed>` runs it longer, and the same way again."""
    deployment = crash_deployment
    sys.stdout.write(f"seed {CRASH_SEED}, {CRASH_S} s\n")
    chance = random.Random(CRASH_SEED)
    await asyncio.to_thread(deployment.start, 3)
    grants = deployment.folder / "grants"
    load_processes = [_load_process(deployment, n, chance, grants) for n in range(3)]
    kills = {"quota": 0, "load_process": 0, "nats": 0}
    try:
        until = time.monotonic() + CRASH_S
        while time.monotonic() < until:
            await asyncio.sleep(chance.uniform(0.3, 1.2))
            what = chance.choices(["quota", "load_process", "nats"], [5, 5, 1])[0]
            kills[what] += 1
            if what == "quota":
                victim = chance.choice([service for service in deployment.quotas if service.alive])
                await asyncio.to_thread(victim.running.kill)
                await asyncio.to_thread(deployment.add)
            elif what == "load_process":
                place = chance.randrange(len(load_processes))
                await asyncio.to_thread(load_processes[place].kill)
                load_processes[place] = _load_process(deployment, len(grants.read_text().splitlines()), chance, grants)
            else:
                await asyncio.to_thread(deployment.nats.kill)
                await asyncio.sleep(chance.uniform(0.0, 0.5))
                await asyncio.to_thread(deployment.nats.start)
    finally:
        for load_process in load_processes:
            await asyncio.to_thread(load_process.kill)
    for service in deployment.quotas:
        if service.alive:
            await asyncio.to_thread(service.wait_ready)
    async with deployment.bus() as bus:
        await settled(bus)
        await no_leases(bus)
        events = (await bus.api(f"STREAM.INFO.{USAGE}", {}))["state"]["messages"]
        verdict = await asyncio.to_thread(deployment.command, "usage", "verify", "--since", "3h", "--json")
        report = json.loads(verdict)
        sys.stdout.write(f"kills {kills}, {events} usage events, {report['counters']} counters\n")
        assert report["drift_count"] == 0, verdict
        assert report["open_holds"] == 0
        await _assert_never_over(bus, {line for line in grants.read_text().splitlines() if line})


def _load_process(deployment: QuotaDeployment, number: int, chance: random.Random, grants: Path) -> Child:
    name = f"load_process{number}-{chance.randrange(10**6)}"
    arguments = [deployment.nats.url, name, str(chance.randrange(10**9)), "200", str(grants)]
    argv = [sys.executable, "-m", "tests.integration.quota.load_process", *arguments]
    grants.touch()
    return Child(argv, deployment.folder / f"{name}.log")


async def _assert_never_over(bus: Bus, granted: set[str]) -> None:
    """Replays the counter stream: at no message did the granted holds of a tenant add up to more than its limit.

    Charges of work whose hold had ended before are left out: they admit nothing.
    """
    messages = await read_subject(bus, QUOTA, "q.used.>", limit=5_000_000, timeout_s=20)
    held: dict[tuple[str, str], dict[str, int]] = {}
    sums: dict[tuple[str, str], int] = {}
    seen = 0
    for message in messages:
        _, _, tenant, metric, bucket = message.subject.split(".")
        hold_id, _, step = message.headers.get("Nats-Msg-Id", "").rpartition(".")
        if hold_id not in granted or step[0] == "l":
            continue
        amount = int(message.headers["Nats-Incr"])
        key = (tenant, metric)
        held.setdefault(key, {})[hold_id] = held.get(key, {}).get(hold_id, 0) + amount
        sums[key] = sums.get(key, 0) + amount
        seen += 1
        limit = DAY_LIMIT * 1000 if metric == "units" else JOBS_LIMIT
        assert sums[key] <= limit, (message.seq, tenant, metric, bucket, held[key])
    assert seen > 0
