"""Numbers segments so that none is used twice, also when a cancellation comes while the bus answers."""

import asyncio

import pytest

from callboard_contracts.speech import SpeechEnd
from callboard_kit.bus import Stored
from callboard_tts.domain.segments import Progress, Segment
from callboard_tts.handlers.segment_writer import SegmentWriter
from tests.unit.tts.fake_bus import FakeBus, make_job

pytestmark = pytest.mark.unit


class SlowBus(FakeBus):
    """Takes a message at once and answers only when it is let."""

    def __init__(self) -> None:
        super().__init__()
        self.answers = asyncio.Event()

    async def publish_stored(
        self,
        subject: str,
        payload: bytes,
        msg_id: str | None,
        timeout_s: float = 10.0,
        headers: dict[str, str] | None = None,
        *,
        sync_within_s: float = 0.0,
    ) -> Stored:
        """Keeps the message and waits."""
        stored = await super().publish_stored(subject, payload, msg_id, timeout_s, headers, sync_within_s=sync_within_s)
        await self.answers.wait()
        return stored


async def test_segment_whose_answer_was_not_awaited_keeps_its_number_and_counts() -> None:
    bus = SlowBus()
    writer = SegmentWriter(bus.as_bus(), make_job(), 1, Progress())
    sending = asyncio.ensure_future(writer.send(Segment(0, 0, bytes(4800))))
    await bus.hears(1)
    sending.cancel()
    await asyncio.gather(sending, return_exceptions=True)
    bus.answers.set()
    await writer.end(SpeechEnd(reason="cancelled", audio_ms=writer.audio_ms), 0)
    assert bus.numbers == [0, 1]
    assert bus.end is not None
    assert bus.end.audio_ms == 100
