"""A burst against a cluster of three whose leader dies in the middle of it."""

import asyncio
import sys
import time
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from callboard_contracts.errors import ErrorCode
from callboard_contracts.quota import Hold
from callboard_contracts.streams import LEASE, QUOTA
from callboard_kit.background_tasks import BackgroundTasks
from callboard_kit.bus import Bus, BusError
from callboard_kit.quota_rpc import QuotaRpc
from callboard_kit.stream_reads import read_subject
from tests.integration.quota.deployment import (
    QuotaDeployment,
    counters,
    event_of,
    eventually,
    no_leases,
    report,
    request,
    reserve,
    settled,
)
from tests.support.cluster import Cluster

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(400)]

MAX_JOBS = 20
CALLERS = 15
BURST = 200
PATIENCE_S = 60.0


@pytest.fixture
async def cluster_deployment(tmp_path: Path) -> AsyncGenerator[QuotaDeployment]:
    """Two quota processes on a cluster of three."""
    tiers = {"anonymous": {"jobs_at_once": MAX_JOBS, "tokens_per_day": 100_000}, "standard": {}}
    deployment = QuotaDeployment(
        tmp_path / "deployment",
        {"nats": {"replicas": 3}, "quota": {"tiers": tiers}},
        nats=Cluster(tmp_path / "cluster"),
    )
    try:
        await asyncio.to_thread(deployment.start, 2)
        yield deployment
        await asyncio.to_thread(deployment.stop)
    finally:
        await asyncio.to_thread(deployment.abandon)


async def test_burst_with_the_leader_killed_admits_exactly_what_fits(cluster_deployment: QuotaDeployment) -> None:
    async with cluster_deployment.bus() as bus:
        holds: list[Hold] = []
        asked = [asyncio.ensure_future(_ask(bus, f"burst-{n}", holds)) for n in range(BURST)]
        await asyncio.sleep(0.02)
        leader = (await bus.api(f"STREAM.INFO.{QUOTA}", {}))["cluster"]["leader"]
        cluster = cluster_deployment.nats
        assert isinstance(cluster, Cluster)
        await asyncio.to_thread(cluster.node(leader).kill)
        await asyncio.gather(*asked)
        assert len(holds) <= MAX_JOBS

        # Attempts that were cut off hold room until they are taken back; then the rest of the room is given out.
        await _fill(bus, "more", holds, MAX_JOBS)
        tenant = holds[0].tenant

        async def only_these() -> bool:
            return (await counters(bus))[tenant, "jobs"] == MAX_JOBS

        # An attempt that was refused counts until it has been taken back.
        await eventually(only_these, "only what was admitted counts", PATIENCE_S)
        for hold in holds[:5]:
            await report(bus, event_of(hold, 1), timeout_s=60)
        await settled(bus)
        freed: list[Hold] = []
        await _fill(bus, "freed", freed, 5)
        await asyncio.gather(*(_ask(bus, f"last-{n}", freed) for n in range(40)))
        assert len(freed) == 5
        await asyncio.to_thread(cluster.start)
        for hold in [*holds[5:], *freed]:
            await report(bus, event_of(hold, 1), timeout_s=60)
        await settled(bus)
        await no_leases(bus)
        assert (await counters(bus))[tenant, "units"] == (MAX_JOBS + 5) * 1000
        assert (await counters(bus))[tenant, "jobs"] == 0


async def test_requests_outwait_the_election_of_a_leader_and_each_takes_one_hold(
    cluster_deployment: QuotaDeployment,
) -> None:
    """Each caller fills its limit exactly, so that one hold too many anywhere would refuse a request."""
    longest_s = 0.0
    background = BackgroundTasks()
    async with cluster_deployment.bus() as bus, cluster_deployment.bus() as other:
        lines = [QuotaRpc(one, 2.0, background.start, 30.0) for one in (bus, other)]
        holds: dict[str, Hold] = {}

        async def ask(n: int) -> None:
            nonlocal longest_s
            began = time.monotonic()
            wanted = request(f"job-{n}", 1, address=f"198.51.100.{n % CALLERS}")
            reply = await lines[n % 2].reserve(wanted)
            longest_s = max(longest_s, time.monotonic() - began)
            assert reply is not None, n
            assert reply.hold is not None, reply.error
            holds[wanted.request_id] = reply.hold

        async with asyncio.TaskGroup() as group:
            for n in range(CALLERS * MAX_JOBS):
                group.create_task(ask(n))
                if n == CALLERS * MAX_JOBS // 6:
                    leader = (await bus.api(f"STREAM.INFO.{QUOTA}", {}))["cluster"]["leader"]
                    cluster = cluster_deployment.nats
                    assert isinstance(cluster, Cluster)
                    await asyncio.to_thread(cluster.node(leader).kill)
                await asyncio.sleep(0.02)
        sys.stdout.write(f"the longest decision took {longest_s:.1f} s\n")
        assert len(holds) == CALLERS * MAX_JOBS

        async def only_these() -> bool:
            leases = await read_subject(bus, LEASE, "lease.*.*", limit=100_000)
            open_ids = sorted(Hold.model_validate_json(one.data).id for one in leases if one.data)
            return open_ids == sorted(hold.id for hold in holds.values())

        await eventually(only_these, "each request has one hold", PATIENCE_S)
        assert {value for (_, metric), value in (await counters(bus)).items() if metric == "jobs"} == {MAX_JOBS}
        for hold in holds.values():
            await report(bus, event_of(hold, 1), timeout_s=60)
        await settled(bus)
        await no_leases(bus)
        found = await counters(bus)
        assert sum(value for (_, metric), value in found.items() if metric == "units") == CALLERS * MAX_JOBS * 1000
        assert {value for (_, metric), value in found.items() if metric == "jobs"} == {0}
        await asyncio.to_thread(cluster_deployment.nats.start)
    await background.close(5)


async def _ask(bus: Bus, name: str, holds: list[Hold]) -> None:
    """Asks until there is a decision; without one nobody knows, so the next attempt is a new request."""
    until = time.monotonic() + PATIENCE_S
    attempt = 0
    while time.monotonic() < until:
        attempt += 1
        try:
            reply = await reserve(bus, request(f"{name}-{attempt}", 1), timeout_s=5)
        except BusError:
            continue
        if reply.hold:
            holds.append(reply.hold)
            return
        assert reply.error is not None
        if reply.error.code != ErrorCode.QUOTA_UNAVAILABLE:
            assert reply.error.limit == "address.jobs_at_once", reply.error
            return
        await asyncio.sleep(0.1)
    raise TimeoutError(name)


async def _fill(bus: Bus, name: str, holds: list[Hold], size: int) -> None:
    number = 0

    async def full() -> bool:
        nonlocal number
        number += 1
        await _ask(bus, f"{name}{number}", holds)
        assert len(holds) <= size
        return len(holds) == size

    await eventually(full, f"{size} are admitted", PATIENCE_S)
