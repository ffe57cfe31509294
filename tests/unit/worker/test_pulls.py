"""How many pulls a worker keeps open, over a bus that only takes note of them."""

import asyncio
import json
from types import SimpleNamespace
from typing import Any, cast

import pytest

from callboard_kit.bus import Bus
from callboard_kit.lifecycle import Shutdown
from callboard_worker.pull import MAX_WAITING_PULLS, Delivery, PullLoop

pytestmark = pytest.mark.unit

SLOTS = 512
LIVE, BATCH = "$JS.API.CONSUMER.MSG.NEXT.CHAT.live", "$JS.API.CONSUMER.MSG.NEXT.CHAT.batch"


class PulledBus:
    """Takes pulls; `open` are the inboxes of those that wait for live jobs, and `probes` of those for batch jobs."""

    def __init__(self) -> None:
        self.connected = True
        self.connection = self
        self.inboxes: dict[str, Any] = {}
        self.open: list[str] = []
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
            self.open.append(reply)

    def fill(self, pulls: list[str], name: str) -> None:
        """Has one of the open pulls bring a job."""
        inbox = pulls.pop()
        metadata = SimpleNamespace(num_delivered=1, sequence=SimpleNamespace(stream=1))
        message = SimpleNamespace(data=name.encode(), subject="job", headers=None, reply="ack", metadata=metadata)
        self.inboxes[inbox](message)


async def test_worker_with_many_slots_keeps_few_pulls_open_and_takes_none_back_for_a_batch_job() -> None:
    bus, stop, started = PulledBus(), Shutdown(), list[bytes]()

    async def handle(delivery: Delivery) -> None:
        started.append(delivery.data)
        await stop.wait()

    async def come(count: int) -> None:
        async with asyncio.timeout(10):
            while len(started) < count or len(bus.open) < MAX_WAITING_PULLS or not bus.probes:
                await asyncio.sleep(0)

    loop = PullLoop(cast("Bus", bus), "CHAT", "live", "batch", SLOTS, handle)
    running = asyncio.ensure_future(loop.run(stop.wait))
    await come(0)
    inboxes = len(bus.inboxes)
    for n in range(4 * MAX_WAITING_PULLS):
        bus.fill(bus.open, f"live{n}")
        bus.fill(bus.probes, f"batch{n}")
        await come(2 * n + 2)
        assert len(bus.open) <= MAX_WAITING_PULLS
    # Pulls are withdrawn by leaving their inbox.
    assert (loop.running, len(bus.inboxes)) == (8 * MAX_WAITING_PULLS, inboxes)
    stop.request_stop("end of test")
    await asyncio.gather(running, loop.drain(5))
