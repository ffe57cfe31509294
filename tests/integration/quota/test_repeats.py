"""Requests that a quota process took along into silence: asked of another, and never held for twice."""

import asyncio
import signal

import pytest

from callboard_contracts.quota import Hold
from callboard_contracts.streams import LEASE
from callboard_kit.background_tasks import BackgroundTasks
from callboard_kit.bus import Bus
from callboard_kit.quota_rpc import QuotaRpc
from callboard_kit.stream_reads import read_subject
from tests.integration.quota.deployment import QuotaDeployment, counters, eventually, request

pytestmark = pytest.mark.integration

CALLERS = 20
ONE_JOB = {"quota": {"tiers": {"anonymous": {"jobs_at_once": 1}, "standard": {}}}}


async def open_holds(bus: Bus) -> list[str]:
    """The ids of the holds whose lease is open."""
    leases = await read_subject(bus, LEASE, "lease.*.*", limit=100_000)
    return sorted(Hold.model_validate_json(one.data).id for one in leases if one.data)


@pytest.mark.parametrize("comes_back", [True, False], ids=["comes back", "dies"])
async def test_request_whose_process_falls_silent_is_decided_by_another_and_takes_one_hold(
    own_deployment: QuotaDeployment, comes_back: bool
) -> None:
    own_deployment.table = {**own_deployment.table, "quota": {**own_deployment.table["quota"], **ONE_JOB["quota"]}}
    await asyncio.to_thread(own_deployment.start, 2)
    background = BackgroundTasks()
    async with own_deployment.bus() as bus:
        line = QuotaRpc(bus, 0.5, background.start, 40.0)
        asked = [request(f"r{n}", 1, address=f"198.51.100.{n}") for n in range(CALLERS)]
        deciding = [asyncio.ensure_future(line.reserve(one)) for one in asked]
        # Some of them are in the middle of their decision.
        own_deployment.quotas[0].running.signal(signal.SIGSTOP)
        replies = await asyncio.gather(*deciding)
        holds = sorted(reply.hold.id for reply in replies if reply is not None and reply.hold is not None)
        assert len(holds) == CALLERS, replies
        if comes_back:
            # What it decides now comes too late, and is given back by whoever asked.
            own_deployment.quotas[0].running.signal(signal.SIGCONT)
        else:
            await asyncio.to_thread(own_deployment.quotas[0].running.kill)

        async def only_these() -> bool:
            jobs = {value for (_, metric), value in (await counters(bus)).items() if metric == "jobs"}
            return jobs == {1} and await open_holds(bus) == holds

        # What is refused or given back counts until it has been taken back.
        await eventually(only_these, "each request has one hold", 30.0)
        await asyncio.sleep(1.0)
        await eventually(only_these, "each request still has one hold", 30.0)
    await background.close(5)
