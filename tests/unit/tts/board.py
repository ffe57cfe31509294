"""A bus that only remembers, for a handler that is to be watched alone."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, cast

from callboard_contracts import subjects
from callboard_contracts.chat import CreditReply, CreditRequest
from callboard_contracts.headers import SEGMENT
from callboard_contracts.quota import UsageEvent
from callboard_contracts.speech import SegmentInfo, SpeechEnd, SpeechJob, SpeechRequest
from callboard_kit.bus import Bus, BusUnavailable, NoResponders, Stored
from callboard_kit.direct import StoredMessage
from callboard_kit.pull import Delivery

TEXT = (
    "The first sentence of it is this one here. The second one comes right after the first, as second ones do. "
    "Then the third sentence follows, longer than the ones before it, because nothing else is left to be said now."
)


@dataclass
class Message:
    """What a subscriber gets."""

    subject: str


@dataclass
class FakeBus:
    """Keeps what is published; `replies` answers credit questions, an exception is raised."""

    connected: bool = True
    segments: list[StoredMessage] = field(default_factory=list)
    usage: list[UsageEvent] = field(default_factory=list)
    usage_ids: list[str | None] = field(default_factory=list)
    order: list[str] = field(default_factory=list)
    questions: list[CreditRequest] = field(default_factory=list)
    reply: CreditReply | Exception = field(default_factory=lambda: CreditReply(open=True, attempt=1))
    refuse_publish: bool = False
    cancel: Callable[[Any], Awaitable[None]] | None = None

    def on_reconnect(self, callback: Callable[[], None]) -> None:
        """Remembers whom to tell when the connection is restored."""
        self.reconnected = callback

    async def subscribe(self, subject: str, callback: Callable[[Any], Awaitable[None]], queue: str = "") -> None:
        """Takes the one subscription that a worker makes."""
        assert (subject, queue) == ("ctl.cancel.*", "")
        self.cancel = callback

    async def cancel_request(self, request_id: str) -> None:
        """Tells the worker that a request is cancelled."""
        assert self.cancel is not None
        await self.cancel(Message(subjects.cancel(request_id)))

    async def publish_stored(
        self,
        subject: str,
        payload: bytes,
        msg_id: str | None,
        timeout_s: float = 10.0,
        headers: dict[str, str] | None = None,
    ) -> Stored:
        """Keeps a segment or a usage event."""
        assert timeout_s > 0
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

    async def request(self, subject: str, payload: bytes, timeout_s: float) -> bytes:
        """Answers a question about credit."""
        assert subject == subjects.credit("edge1", "r1")
        assert timeout_s > 0
        self.questions.append(CreditRequest.model_validate_json(payload))
        if isinstance(self.reply, Exception):
            raise self.reply
        return self.reply.model_dump_json().encode()

    async def read_subject(self, _bus: Bus, stream: str, subject: str) -> list[StoredMessage]:
        """Returns the segments kept so far."""
        assert stream == "AUDIO"
        assert subject == "audio.edge1.r1.*"
        return list(self.segments)

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
        async with asyncio.timeout(5):
            while len(self.segments) < count:
                await asyncio.sleep(0.005)


def nobody_listens() -> Exception:
    return NoResponders("ctl.credit")


def make_job(text: str = TEXT, *, voice: str = "af_sky", model: str = "kokoro", deadline_s: float = 60) -> SpeechJob:
    return SpeechJob(
        request_id="r1",
        edge="edge1",
        tenant="t1",
        room="edge1",
        utterance="r1",
        request=SpeechRequest(model=model, text=text, voice=voice),
        hold=None,
        created_at=time.time(),
        deadline_at=time.time() + deadline_s,
    )


def deliver(job: SpeechJob, attempt: int = 1, job_class: str = "live") -> Delivery:
    return Delivery(job.model_dump_json().encode(), f"job.tts.main.{job_class}.t1", attempt, 1)
