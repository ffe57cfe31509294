"""A wrong clock grants nothing: the bus's time counts, and a process that is not sure of it leaves the queue group."""

import asyncio
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from callboard_contracts.quota import ReserveReply
from callboard_kit.bus import Bus
from tests.integration.quota.deployment import QuotaDeployment, eventually, request, reserve
from tests.support.ports import free_port
from tests.support.processes import Service, merged

pytestmark = [pytest.mark.integration, pytest.mark.timeout(400)]

PER_MINUTE = 20


def add_shifted(deployment: QuotaDeployment, **environ: str) -> Service:
    """Starts a quota process whose clock, or whose bus's clock, is shifted; see `tests.support.shifted_clock`."""
    port = free_port()
    table = merged(deployment.table, {"quota": {"metrics_port": port}})
    service = Service(
        f"shifted{len(deployment.quotas)}",
        "tests.support.shifted_clock",
        table,
        deployment.folder,
        health_port=port,
        environ={"SHIFTED_MODULE": "callboard_quota", **environ},
    )
    service.start()
    deployment.quotas.append(service)
    service.wait_ready()
    return service


async def outcomes(bus: Bus, name: str, count: int, **fields: Any) -> Counter[str]:
    """How many of so many requests at once were admitted, or why not."""

    def word(reply: ReserveReply) -> str:
        return reply.error.code.value if reply.error else "admitted"

    replies = await asyncio.gather(*(reserve(bus, request(f"{name}-{n}", 1, **fields)) for n in range(count)))
    return Counter(map(word, replies))


def decisions(service: Service) -> float:
    return sum(value for name, value in service.metrics().items() if name.startswith("callboard_quota_decisions_total"))


@pytest.mark.parametrize("shift_s", [61, -61, 7200])
async def test_processes_whose_machine_clocks_differ_keep_one_limit(
    own_deployment: QuotaDeployment, shift_s: int
) -> None:
    own_deployment.table = merged(
        own_deployment.table, {"quota": {"tiers": {"anonymous": {"requests_per_minute": PER_MINUTE}}}}
    )
    await asyncio.to_thread(own_deployment.start, 1)
    shifted = await asyncio.to_thread(add_shifted, own_deployment, SHIFT_S=str(shift_s))
    if time.time() % 60 > 45:
        await asyncio.sleep(61 - time.time() % 60)
    async with own_deployment.bus() as bus:
        found = await outcomes(bus, "minute", 3 * PER_MINUTE)
    assert found == {"admitted": PER_MINUTE, "quota_exceeded": 2 * PER_MINUTE}
    assert min(await asyncio.gather(*(asyncio.to_thread(decisions, one) for one in own_deployment.quotas))) > 0
    skew_s = (await asyncio.to_thread(shifted.metrics))["callboard_clock_skew_seconds"]
    assert skew_s == pytest.approx(shift_s, abs=5)


async def test_process_whose_clock_is_wrong_leaves_its_queue_group_and_joins_again(
    own_deployment: QuotaDeployment, tmp_path: Path
) -> None:
    shift = tmp_path / "shift"
    shift.write_text("0", encoding="utf-8")
    await asyncio.to_thread(own_deployment.start, 1)
    unsure = await asyncio.to_thread(add_shifted, own_deployment, BUS_SHIFT_FILE=str(shift))
    async with own_deployment.bus() as bus:
        assert await outcomes(bus, "before", 40) == {"admitted": 40}
        assert await asyncio.to_thread(decisions, unsure) > 0
        shift.write_text("-60", encoding="utf-8")

        async def left() -> bool:
            reason = await asyncio.to_thread(unsure.ready_reason)
            return reason is not None and "ahead of the bus's" in reason

        await eventually(left, "the process says that its clock is wrong")
        await asyncio.sleep(1)
        already = await asyncio.to_thread(decisions, unsure)
        assert await outcomes(bus, "without", 60) == {"admitted": 60}
        assert await asyncio.to_thread(decisions, unsure) == already
        shift.write_text("0", encoding="utf-8")
        await asyncio.to_thread(unsure.wait_ready)

        async def decides_again() -> bool:
            assert set(await outcomes(bus, f"after-{time.monotonic_ns()}", 20)) == {"admitted"}
            return await asyncio.to_thread(decisions, unsure) > already

        await eventually(decides_again, "the process decides again")
    events = [line["event"] for line in unsure.logs() if line.get("level") == "error"]
    assert events == ["queue_group_left"]
    own_deployment.quotas.remove(unsure)
    assert await asyncio.to_thread(unsure.running.stop) == 0
