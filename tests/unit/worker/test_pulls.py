"""How many pulls a worker keeps open, over a bus that only takes note of them."""

import asyncio
import json
from types import SimpleNamespace
from typing import Any, cast

import pytest

from callboard_kit.bus import Bus
from callboard_kit.lifecycle import Shutdown
from callboard_worker.pull import MAX_WAITING_JOBS, Delivery, PullLoop

pytestmark = pytest.mark.unit

SLOTS = 512
LIVE, BATCH = "$JS.API.CONSUMER.MSG.NEXT.CHAT.live", "$JS.API.CONSUMER.MSG.NEXT.CHAT.batch"


class PulledBus:
    """Takes pulls; `open` has the inbox of each live job that is asked for, `probes` those of pulls for batch jobs."""

    def __init__(self) -> None:
        self.connected = True
        self.connection = self
        self.inboxes: dict[str, Any] = {}
        self.open: list[str] = []
        self.asked: list[int] = []
        """How many jobs each pull asked for that waits for live jobs."""
        self.probes: list[str] = []

    def on_reconnect(self, _callback: Any) -> None:
        return

    def new_inbox(self) -> str:
        return f"inbox{len(self.inboxes)}"

    async def subscribe_now(self, subject: str, on_message: Any) -> object:
        self.inboxes[subject] = on_message
        return object()

    async def unsubscribe(self, _subscription: object) -> None:
        return

    async def publish(self, subject: str, payload: bytes, reply: str = "") -> None:
        if subject == BATCH:
            self.probes.append(reply)
        elif subject == LIVE and json.loads(payload).get("no_wait"):
            # No live job is there at this moment.
            ended = SimpleNamespace(headers={"Status": "404"})
            asyncio.get_running_loop().call_soon(self.inboxes[reply], ended)
        elif subject == LIVE:
            self.asked.append(json.loads(payload)["batch"])
            self.open += [reply] * self.asked[-1]

    async def drain(self, _subscription: object) -> None:
        return

    def end(self, count: int, headers: dict[str, str]) -> None:
        """Ends a pull that still asks for so many jobs."""
        inbox = self.open[-1]
        del self.open[-count:]
        self.inboxes[inbox](SimpleNamespace(headers=headers))

    def fill(self, pulls: list[str], name: str) -> None:
        """Has one of the open pulls bring a job."""
        inbox = pulls.pop()
        reply = "$JS.ACK.CHAT.live.1.1.1.1795800000123456789.0"
        message = SimpleNamespace(data=name.encode(), subject="job", headers=None, reply=reply)
        self.inboxes[inbox](message)


async def test_worker_with_many_slots_keeps_few_pulls_open_and_takes_none_back_for_a_batch_job() -> None:
    bus, stop, started = PulledBus(), Shutdown(), list[bytes]()

    async def handle(delivery: Delivery) -> None:
        started.append(delivery.data)
        await stop.wait()

    async def come(count: int) -> None:
        async with asyncio.timeout(10):
            while len(started) < count or len(bus.open) <= MAX_WAITING_JOBS // 2 or not bus.probes:
                await asyncio.sleep(0)

    loop = PullLoop(cast("Bus", bus), "CHAT", "live", "batch", SLOTS, handle)
    running = asyncio.ensure_future(loop.run(stop.wait))
    await come(0)
    inboxes = len(bus.inboxes)
    for n in range(4 * MAX_WAITING_JOBS):
        bus.fill(bus.open, f"live{n}")
        bus.fill(bus.probes, f"batch{n}")
        await come(2 * n + 2)
        assert len(bus.open) <= MAX_WAITING_JOBS
    # Pulls are withdrawn by leaving their inbox.
    assert (loop.running, len(bus.inboxes)) == (8 * MAX_WAITING_JOBS, inboxes)
    assert len(bus.asked) < len(started) // MAX_WAITING_JOBS * 2
    stop.request_stop("end of test")
    await asyncio.gather(running, loop.drain(5))


@pytest.mark.parametrize("slots", [2, 3, 9])
async def test_jobs_that_a_pull_did_not_bring_are_asked_for_again_and_never_more_than_there_are_slots(
    slots: int,
) -> None:
    bus, stop = PulledBus(), Shutdown()
    free = slots - 1

    async def handle(_delivery: Delivery) -> None:
        await stop.wait()

    async def asked(count: int) -> None:
        async with asyncio.timeout(10):
            while len(bus.open) != count:
                await asyncio.sleep(0)

    loop = PullLoop(cast("Bus", bus), "CHAT", "live", "batch", slots, handle)
    running = asyncio.ensure_future(loop.run(stop.wait))
    await asked(free)
    assert bus.asked == [free]
    bus.end(free, {"Status": "408", "Nats-Pending-Messages": f"{free}"})
    await asked(free)
    assert (bus.asked, len(bus.inboxes)) == ([free] * 2, 2)
    # The server did not say how many jobs it takes back, so that the pulls begin anew in an inbox of their own.
    bus.end(free, {"Status": "409", "Description": "Leadership Change"})
    async with asyncio.timeout(10):
        while len(bus.open) != free:
            await asyncio.sleep(0.01)
    assert (bus.asked, len(bus.inboxes)) == ([free] * 3, 3)
    for n in range(free):
        bus.fill(bus.open, f"live{n}")
        async with asyncio.timeout(10):
            while loop.running <= n:
                await asyncio.sleep(0)
        assert loop.running + len(bus.open) <= slots
    stop.request_stop("end of test")
    await asyncio.gather(running, loop.drain(5))
