"""A bus that only remembers, for a handler that is to be watched alone."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, cast

from callboard_contracts import subjects
from callboard_contracts.errors import ErrorCode, ErrorInfo
from callboard_contracts.interest import ResumeReply
from callboard_contracts.jobs import JOB_VERSION
from callboard_contracts.quota import Hold, HoldEntry, Rates, ReserveReply, ReserveRequest, UsageEvent
from callboard_contracts.transcription import (
    TranscriptionEnd,
    TranscriptionFrame,
    TranscriptionJob,
    TranscriptionRequest,
    TranscriptionResult,
    text_of,
)
from callboard_kit.bus import Bus, BusUnavailable, Stored
from callboard_kit.bus_clock import BusClock
from callboard_kit.stream_reads import StoredMessage

UNITS_PER_S = 100_000
LIMIT = ErrorInfo(code=ErrorCode.QUOTA_EXCEEDED, message="Enough for today.", limit="key.tokens_per_day")


def hold_for(audio_ms: int, name: str = "h0") -> Hold:
    """A hold of so much sound, as quota would grant it."""
    return Hold(
        id=name,
        request_id="r1",
        tenant="t1",
        kind="transcription",
        model="whisper",
        entries=(HoldEntry(tenant="t1", metric="units", bucket="h1", amount=audio_ms * UNITS_PER_S // 1000),),
        rates=Rates(audio_units_per_s=UNITS_PER_S),
        expires_at=time.time() + 60,
    )


async def _never() -> float:
    raise BusUnavailable("no clock")


class PlainCipher:
    """Leaves payloads as they are."""

    async def encrypt(self, payload: bytes) -> bytes:
        return payload

    async def decrypt(self, payload: bytes) -> bytes:
        return payload


@dataclass
class FakeBus:
    """Keeps what is published, and has the sound of one request."""

    sound: bytes | None = None
    clock: BusClock = field(default_factory=lambda: BusClock(_never))
    connected: bool = True
    cipher: PlainCipher = field(default_factory=PlainCipher)
    frames: list[TranscriptionFrame] = field(default_factory=list)
    usage: list[UsageEvent] = field(default_factory=list)
    results: list[TranscriptionResult] = field(default_factory=list)
    asked_ms: list[int] = field(default_factory=list)
    room_ms: int = 10**9
    subscribers: dict[str, Callable[[Any], Awaitable[None]]] = field(default_factory=dict)
    resume: ResumeReply = field(default_factory=lambda: ResumeReply(open=True, attempt=2))

    def as_bus(self) -> Bus:
        """The same object where a bus is asked for."""
        return cast("Bus", self)

    def on_reconnect(self, callback: Callable[[], None]) -> None:
        """Never reconnects."""

    async def subscribe(self, subject: str, callback: Callable[[Any], Awaitable[None]], queue: str = "") -> None:
        """Takes the subscriptions that a worker makes."""
        assert not queue
        self.subscribers[subject] = callback

    async def publish(self, subject: str, payload: bytes = b"", *, flush: bool = False) -> None:
        """Keeps a frame."""
        del flush
        assert subject == subjects.out("edge1", "r1")
        self.frames.append(TranscriptionFrame.model_validate_json(payload))

    async def publish_stored(
        self, subject: str, payload: bytes, msg_id: str | None, timeout_s: float = 10, *, sync_within_s: float = 0.0
    ) -> Stored:
        """Keeps a result or a usage event."""
        assert timeout_s > 0
        assert sync_within_s >= 0
        if subject == subjects.result("r1"):
            self.results.append(TranscriptionResult.model_validate_json(payload))
        else:
            assert (subject, msg_id) == (subjects.usage("t1"), "r1.transcription")
            self.usage.append(UsageEvent.model_validate_json(payload))
        return Stored("S", 1, False, None)

    async def request(self, subject: str, payload: bytes, *_: Any, **__: Any) -> bytes:
        """Answers as quota, and as the edge."""
        if subject == subjects.resume("edge1", "r1"):
            return self.resume.encoded()
        assert subject == subjects.QUOTA_RESERVE
        request = ReserveRequest.model_validate_json(payload)
        self.asked_ms.append(request.work.audio_ms)
        if request.work.audio_ms > self.room_ms:
            return ReserveReply(error=LIMIT).encoded()
        return ReserveReply(tenant="t1", hold=hold_for(request.work.audio_ms, "h1")).encoded()

    async def read_sound(self, _bus: Bus, job: TranscriptionJob) -> bytes | None:
        """What the edge stored."""
        assert job.request_id == "r1"
        return self.sound

    async def read_subject(self, _bus: Bus, stream: str, subject: str, limit: int) -> list[StoredMessage]:
        """The frames kept so far."""
        assert (stream, subject, limit > 0) == ("OUT", "out.*.r1", True)
        return [StoredMessage(subject, n, frame.compact(), {}) for n, frame in enumerate(self.frames)]

    async def open_extensions(self, _bus: Bus, _job: TranscriptionJob) -> tuple[Hold, ...]:
        """None were taken before."""
        return ()

    @property
    def end(self) -> TranscriptionEnd:
        """How the request ended."""
        (end,) = [frame.end for frame in self.frames if frame.end is not None]
        return end

    @property
    def text(self) -> str:
        """What a listener who follows all frames has."""
        return text_of(segment for frame in self.frames for segment in frame.segments)

    async def hears(self, count: int) -> None:
        """Waits until so many frames were published."""
        async with asyncio.timeout(20):
            while len(self.frames) < count:
                await asyncio.sleep(0.005)


def make_job(hold: Hold | None = None, deadline_s: float = 60, **request: Any) -> TranscriptionJob:
    return TranscriptionJob(
        version=JOB_VERSION,
        request_id="r1",
        edge="edge1",
        tenant="t1",
        hold=hold,
        created_at=time.time(),
        deadline_at=time.time() + deadline_s,
        request=TranscriptionRequest.model_validate({"model": "whisper", **request}),
        parts=1,
        sound_bytes=1,
    )
