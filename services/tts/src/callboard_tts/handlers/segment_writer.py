"""Publishes an utterance's segments in order and knows how much was sent."""

import asyncio
import json

from callboard_contracts.headers import SEGMENT
from callboard_contracts.quota import Hold
from callboard_contracts.speech import BYTES_PER_MS, SegmentInfo, SpeechEnd, SpeechJob
from callboard_kit import tracing
from callboard_kit.bus import Bus
from callboard_tts import metrics
from callboard_tts.domain.segments import Progress, Segment

BYTES_PER_S = BYTES_PER_MS * 1000
OUTAGE_TIMEOUT_S = 30.0
"""How long the bus may be away before a job is left to be handed out again."""


class SegmentWriter:
    """Writes one attempt's segments, going on from what earlier attempts wrote."""

    def __init__(self, bus: Bus, job: SpeechJob, attempt: int, progress: Progress) -> None:
        self._bus = bus
        self._job = job
        self._attempt = attempt
        self._next_n = progress.next_n
        self._sent_bytes = progress.sent_bytes
        self._began_at = asyncio.get_running_loop().time()
        self._first_at: float | None = None
        self._own_bytes = 0

    @property
    def sent_bytes(self) -> int:
        """The sound sent, by all attempts."""
        return self._sent_bytes

    @property
    def audio_ms(self) -> int:
        """The length of all sound sent, by all attempts."""
        return self._sent_bytes // BYTES_PER_MS

    async def send(self, segment: Segment, extensions: tuple[Hold, ...] = ()) -> None:
        """Publishes one segment, and with it the holds that were taken since the one before.

        Raises:
            BusUnavailable: the bus did not keep it in time; the job is to be handed out again.
        """
        now = asyncio.get_running_loop().time()
        if self._first_at is None:
            self._first_at = now
            if self._next_n == 0:
                metrics.TIME_TO_FIRST_AUDIO.observe(now - self._began_at, tracing.ids())
                tracing.annotate({"callboard.time_to_first_audio_s": now - self._began_at})
        elif segment.offset_bytes == 0 and now > self._first_at + self._own_bytes / BYTES_PER_S:
            metrics.UNDERRUN.inc()
        info = SegmentInfo(
            attempt=self._attempt,
            piece=segment.piece,
            offset_bytes=segment.offset_bytes,
            piece_done=segment.piece_done,
            text=segment.text if self._job.in_room else "",
            words=segment.words,
            extensions=extensions,
        )
        await self._publish(info, segment.pcm)
        metrics.AUDIO.inc(len(segment.pcm) / BYTES_PER_S)
        metrics.SEGMENTS.inc()

    async def end(self, end: SpeechEnd, piece: int, extensions: tuple[Hold, ...] = ()) -> None:
        """Publishes the last segment, which has no sound."""
        info = SegmentInfo(attempt=self._attempt, piece=piece, offset_bytes=0, extensions=extensions, end=end)
        await self._publish(info, b"")

    async def _publish(self, info: SegmentInfo, pcm: bytes) -> None:
        # Acknowledged and repeated, because nothing else keeps sound: what a restart of the bus swallowed between here
        # and the edge, the edge reads back from the stream. A cancellation may come while the answer is awaited, so
        # the number counts as used from now on.
        n, self._next_n = self._next_n, self._next_n + 1
        self._sent_bytes += len(pcm)
        self._own_bytes += len(pcm)
        await self._bus.publish_stored(
            self._job.segment_subject(n),
            pcm,
            f"{self._job.request_id}.{self._attempt}.{n}",
            timeout_s=OUTAGE_TIMEOUT_S,
            # Headers are ASCII, as JSON can be.
            headers={SEGMENT: json.dumps(info.model_dump(mode="json", exclude_defaults=True))},
        )
