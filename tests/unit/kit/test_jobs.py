"""Jobs on their way into a queue while the bus has no leader."""

from typing import Any, cast

import pytest

from callboard_contracts.errors import CallboardError, ErrorCode
from callboard_contracts.jobs import Job
from callboard_kit.bus import Bus, BusUnavailable, Stored
from callboard_kit.jobs import enqueue

pytestmark = pytest.mark.unit

JOB = Job(request_id="r1", edge="edge1", tenant="k_a", created_at=0, deadline_at=60)


class LeaderlessBus:
    """Has no key for the first payloads, as while the stream of keys has no leader."""

    def __init__(self, failures: int) -> None:
        self.failures = failures
        self.cipher = self
        self.stored: list[tuple[str, bytes, str]] = []

    async def encrypt(self, payload: bytes) -> bytes:
        self.failures -= 1
        if self.failures >= 0:
            raise BusUnavailable("no server keeps streams")
        return payload

    async def publish_stored(
        self, subject: str, payload: bytes, msg_id: str, timeout_s: float, *_: Any, **__: Any
    ) -> Stored:
        assert timeout_s > 0
        self.stored.append((subject, payload, msg_id))
        return Stored("CHAT", 7, False, None)


async def test_key_that_is_due_while_the_bus_has_no_leader_is_waited_for() -> None:
    bus = LeaderlessBus(failures=3)
    assert await enqueue(cast("Bus", bus), JOB, "chat", "main", "live", 20.0) == 7
    assert bus.stored == [("job.chat.main.live.k_a", JOB.compact(), "r1")]


async def test_bus_without_a_leader_for_too_long_is_told() -> None:
    bus = LeaderlessBus(failures=1000)
    with pytest.raises(CallboardError) as caught:
        await enqueue(cast("Bus", bus), JOB, "chat", "main", "live", 0.3)
    assert caught.value.info.code is ErrorCode.BUS_UNAVAILABLE
    assert bus.stored == []
