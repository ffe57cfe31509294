"""A bus that only remembers, for a handler that is to be watched alone."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, cast

from callboard_contracts import subjects
from callboard_contracts.errors import ErrorCode, ErrorInfo
from callboard_contracts.headers import SEGMENT
from callboard_contracts.interest import EdgeHeartbeat, ResumeReply, ResumeRequest
from callboard_contracts.jobs import JOB_VERSION
from callboard_contracts.quota import (
    Hold,
    HoldEntry,
    Rates,
    ReleaseReply,
    ReleaseRequest,
    ReserveReply,
    ReserveRequest,
    UsageEvent,
    Work,
)
from callboard_contracts.speech import SegmentInfo, SpeechEnd, SpeechJob, SpeechRequest
from callboard_kit.bus import Bus, BusUnavailable, NoResponders, Stored
from callboard_kit.bus_clock import BusClock
from callboard_kit.payload_cipher import PayloadCipher
from callboard_kit.stream_reads import StoredMessage
from callboard_worker.pull import Delivery

TEXT = (
    "The first sentence of it is this one here. The second one comes right after the first, as second ones do. "
    "Then the third sentence follows, longer than the ones before it, because nothing else is left to be said now."
)


UNITS_PER_S = 100_000
LIMIT = ErrorInfo(
    code=ErrorCode.QUOTA_EXCEEDED, message="Enough for today.", limit="key.tokens_per_day", retry_after_s=600
)


def hold_for(audio_ms: int, name: str = "h0", rate: int = UNITS_PER_S) -> Hold:
    """A hold of so much sound, as quota would grant it."""
    units = -(-audio_ms * rate // 1000)
    return Hold(
        id=name,
        request_id="r1",
        tenant="t1",
        kind="speech",
        model="kokoro",
        entries=(HoldEntry(tenant="t1", metric="units", bucket="h2026112103", amount=units),),
        rates=Rates(audio_units_per_s=rate),
        expires_at=time.time() + 60,
    )


@dataclass
class FakeQuota:
    """Grants further holds as long as there is room for their sound."""

    room_ms: int = 10**9
    asked_ms: list[int] = field(default_factory=list)
    granted: list[Hold] = field(default_factory=list)
    released: list[str] = field(default_factory=list)
    away: int = 0
    """So many of the next questions meet nobody."""
    silent: bool = False
    """Questions are heard and answered only when `answer` is set."""
    answer: asyncio.Event = field(default_factory=asyncio.Event)
    error: ErrorInfo | None = None

    async def reserve(self, request: ReserveRequest) -> ReserveReply:
        """Decides on a extension."""
        assert request.extends is not None
        assert (request.key_digest, request.address, request.request_id) == (None, None, "r1")
        if self.away:
            self.away -= 1
            raise NoResponders("quota.reserve")
        self.asked_ms.append(request.work.audio_ms)
        if self.silent:
            await self.answer.wait()
        if self.error is not None:
            return ReserveReply(error=self.error)
        if request.work.audio_ms > self.room_ms:
            return ReserveReply(error=LIMIT)
        self.room_ms -= request.work.audio_ms
        hold = hold_for(request.work.audio_ms, f"h{len(self.granted) + 1}")
        self.granted.append(hold)
        return ReserveReply(tenant="t1", hold=hold)

    def release(self, request: ReleaseRequest) -> ReleaseReply:
        """Notes what comes back."""
        self.released.append(request.hold.id)
        return ReleaseReply(settled=True)


async def _never() -> float:
    raise BusUnavailable("no clock")


@dataclass
class Message:
    """What a subscriber gets."""

    subject: str
    data: bytes = b""


@dataclass
class FakeBus:
    """Keeps what is published; `reply` answers those who take a job over, an exception is raised."""

    clock: BusClock = field(default_factory=lambda: BusClock(_never))
    connected: bool = True
    segments: list[StoredMessage] = field(default_factory=list)
    usage: list[UsageEvent] = field(default_factory=list)
    usage_ids: list[str | None] = field(default_factory=list)
    order: list[str] = field(default_factory=list)
    questions: list[ResumeRequest] = field(default_factory=list)
    reply: ResumeReply | Exception = field(default_factory=lambda: ResumeReply(open=True, attempt=1))
    quota: FakeQuota = field(default_factory=FakeQuota)
    refuse_publish: bool = False
    subscribers: dict[str, Callable[[Any], Awaitable[None]]] = field(default_factory=dict)
    still_open: tuple[str, ...] = ("r1",)
    attempts: dict[str, int] = field(default_factory=dict)
    checks: list[Callable[[], None]] = field(default_factory=list)
    recorded: Work | None = None
    open_holds: tuple[Hold, ...] = ()

    @property
    def cipher(self) -> PayloadCipher:
        """Reads the plain jobs of the tests."""
        return PayloadCipher(self.as_bus())

    async def time_passes(self) -> None:
        """Has the worker look at the clock, and its edge say what is open, again and again."""
        while True:
            if listener := self.subscribers.get("ctl.interest.*"):
                heartbeat = EdgeHeartbeat(edge="edge1", open=self.still_open, attempts=self.attempts)
                await listener(Message(subjects.interest("edge1"), heartbeat.encoded()))
            for check in self.checks:
                check()
            await asyncio.sleep(0.02)

    def on_reconnect(self, callback: Callable[[], None]) -> None:
        """Remembers whom to tell when the connection is restored."""
        self.reconnected = callback

    async def subscribe(self, subject: str, callback: Callable[[Any], Awaitable[None]], queue: str = "") -> None:
        """Takes the subscriptions that a worker makes."""
        assert not queue
        self.subscribers[subject] = callback

    async def cancel_request(self, request_id: str) -> None:
        """Tells the worker that a request is cancelled."""
        await self.subscribers["ctl.cancel.*"](Message(subjects.cancel(request_id)))

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
        """Keeps a segment or a usage event."""
        assert timeout_s > 0
        assert sync_within_s >= 0
        if subject.startswith("audio."):
            return self._keep_segment(subject, payload, headers or {})
        event = UsageEvent.model_validate_json(payload)
        assert subject == subjects.usage(event.tenant)
        self.order.append("usage")
        self.usage.append(event)
        self.usage_ids.append(msg_id)
        return Stored("USAGE", 1, False, None)

    def _keep_segment(self, subject: str, pcm: bytes, headers: dict[str, str]) -> Stored:
        if self.refuse_publish:
            raise BusUnavailable("gone")
        self.order.append("end" if '"end"' in headers[SEGMENT] else "segment")
        self.segments.append(StoredMessage(subject, len(self.segments) + 1, pcm, headers))
        return Stored("AUDIO", len(self.segments), False, None)

    async def request(
        self,
        subject: str,
        payload: bytes,
        timeout_s: float,
        on_late: Callable[[bytes], None] | None = None,
        late_s: float = 0.0,
        wait_s: float = 0.0,
    ) -> bytes:
        """Answers a worker that takes a job over, or one that asks quota."""
        del wait_s
        if subject == subjects.QUOTA_RESERVE:
            assert on_late is not None
            assert late_s > 0
            asking = asyncio.ensure_future(self.quota.reserve(ReserveRequest.model_validate_json(payload)))
            done, _ = await asyncio.wait({asking}, timeout=timeout_s)
            if not done:
                asking.add_done_callback(lambda late: on_late(late.result().model_dump_json().encode()))
                raise BusUnavailable("no answer in time")
            return asking.result().model_dump_json().encode()
        if subject == subjects.QUOTA_RELEASE:
            return self.quota.release(ReleaseRequest.model_validate_json(payload)).model_dump_json().encode()
        assert subject == subjects.resume("edge1", "r1")
        assert timeout_s > 0
        self.questions.append(ResumeRequest.model_validate_json(payload))
        if isinstance(self.reply, Exception):
            raise self.reply
        return self.reply.model_dump_json().encode()

    async def read_subject(self, _bus: Bus, stream: str, subject: str) -> list[StoredMessage]:
        """Returns the segments kept so far."""
        assert stream == "AUDIO"
        assert subject == "audio.edge1.r1.*"
        return list(self.segments)

    async def recorded_progress(self, _bus: Bus, request_id: str) -> Work | None:
        """What a worker that was killed had recorded."""
        assert request_id == "r1"
        return self.recorded

    async def open_extensions(self, _bus: Bus, job: SpeechJob) -> tuple[Hold, ...]:
        """The holds that a worker that was killed had taken."""
        assert job.request_id == "r1"
        return self.open_holds

    def as_bus(self) -> Bus:
        """The same object where a bus is asked for."""
        return cast("Bus", self)

    @property
    def infos(self) -> list[SegmentInfo]:
        """What each segment says of itself."""
        return [SegmentInfo.model_validate_json(message.headers[SEGMENT]) for message in self.segments]

    @property
    def numbers(self) -> list[int]:
        """The number of each segment."""
        return [int(message.subject.rsplit(".", 1)[1]) for message in self.segments]

    @property
    def pcm(self) -> bytes:
        """All sound sent."""
        return b"".join(message.data for message in self.segments)

    @property
    def end(self) -> SpeechEnd | None:
        """The end, once it was sent."""
        return self.infos[-1].end if self.segments else None

    async def hears(self, count: int) -> None:
        """Waits until that many segments were published."""
        async with asyncio.timeout(20):
            while len(self.segments) < count:
                await asyncio.sleep(0.005)


def nobody_listens() -> Exception:
    return NoResponders("ctl.resume")


def make_job(
    text: str = TEXT,
    *,
    voice: str = "af_sky",
    model: str = "kokoro",
    speed: float = 1.0,
    deadline_s: float = 60,
    hold: Hold | None = None,
    word_times: bool = False,
) -> SpeechJob:
    return SpeechJob(
        version=JOB_VERSION,
        request_id="r1",
        edge="edge1",
        tenant="t1",
        room="edge1",
        utterance="r1",
        request=SpeechRequest(model=model, text=text, voice=voice, speed=speed, word_times=word_times),
        hold=hold,
        created_at=time.time(),
        deadline_at=time.time() + deadline_s,
    )


def deliver(job: SpeechJob, attempt: int = 1, job_class: str = "live") -> Delivery:
    return Delivery(job.model_dump_json().encode(), f"job.tts.main.{job_class}.t1", attempt, 1)
