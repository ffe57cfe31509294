"""What ends a job goes out in one write: the client's last word first, then the usage and the result."""

import asyncio
import time
from typing import cast

import pytest

from callboard_contracts.chat import ChatEnd, ChatResult
from callboard_contracts.jobs import Job
from callboard_contracts.quota import Work
from callboard_kit.bus import Bus, BusUnavailable
from callboard_kit.bus_clock import BusClock
from callboard_worker.outcomes import keep_outcome

pytestmark = pytest.mark.unit

RESULT = ChatResult(request_id="r1", model="owl", text="Hoot.", end=ChatEnd(reason="stop"))


async def now() -> float:
    return time.time()


class WritingBus:
    """Writes what was published in a turn of the event loop at its end, as a connection does."""

    def __init__(self, *, refuses: str = "") -> None:
        self.clock = BusClock(now)
        self.cipher = self
        self.writes: list[list[str]] = []
        self._pending: list[str] = []
        self._refuses = refuses

    async def encrypt(self, data: bytes) -> bytes:
        return data

    async def publish(self, subject: str) -> None:
        if not self._pending:
            asyncio.get_running_loop().call_soon(self._write)
        self._pending.append(subject)

    async def publish_stored(self, subject: str, _payload: bytes, _msg_id: str, *, sync_within_s: float) -> None:
        assert sync_within_s > 0, "outcomes are brought to the disk together"
        await self.publish(subject)
        await asyncio.sleep(0.01)
        if subject == self._refuses:
            raise BusUnavailable("no acknowledgement in time")

    def _write(self) -> None:
        self.writes.append(self._pending)
        self._pending = []


async def keep(bus: WritingBus) -> None:
    job = Job(request_id="r1", edge="e1", tenant="t1", created_at=0, deadline_at=9e9)
    await keep_outcome(
        cast("Bus", bus),
        job,
        kind="chat",
        model="owl",
        pool="main",
        work=Work(),
        outcome="stop",
        result=RESULT,
        send_end=lambda: bus.publish("out.e1.r1"),
    )


async def test_end_usage_and_result_go_out_in_one_write() -> None:
    bus = WritingBus()
    await keep(bus)
    assert bus.writes == [["out.e1.r1", "usage.t1", "result.r1"]]


@pytest.mark.parametrize("subject", ["usage.t1", "result.r1"])
async def test_job_is_not_done_before_usage_and_result_are_stored(subject: str) -> None:
    with pytest.RaisesGroup(BusUnavailable):
        await keep(WritingBus(refuses=subject))
