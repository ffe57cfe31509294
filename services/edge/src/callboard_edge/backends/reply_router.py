"""What workers send back, over one subscription for all requests of this edge."""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from pydantic import TypeAdapter, ValidationError

from callboard_contracts import subjects
from callboard_contracts.chat import ChatFrame, ChatResult
from callboard_contracts.embedding import EmbeddingFrame, EmbeddingResult
from callboard_contracts.errors import ErrorInfo
from callboard_contracts.interest import HEARTBEAT_INTERVAL_S, EdgeHeartbeat, ResumeReply, ResumeRequest
from callboard_contracts.model import Message
from callboard_contracts.speech import AudioSegment
from callboard_contracts.streams import AUDIO, OUT, RESULT
from callboard_contracts.transcription import TranscriptionFrame, TranscriptionResult
from callboard_edge.backends.inbox import RequestInbox
from callboard_edge.backends.segments import read_segment
from callboard_edge.domain.ports import RequestState
from callboard_kit.bus import Bus, BusUnavailable
from callboard_kit.lifecycle import is_set_within
from callboard_kit.payload_cipher import PayloadUnreadable
from callboard_kit.stream_reads import read_last, read_last_of_each, read_subject

log = logging.getLogger(__name__)

R = TypeVar("R")
T = TypeVar("T")
M = TypeVar("M", bound=Message)

MAX_WAITING_FRAMES = 1024
MAX_WAITING_FRAME_BYTES = 1024 * 1024
MAX_WAITING_VECTOR_BYTES = 4 * 1024 * 1024
MAX_WAITING_SEGMENTS = 64
MAX_WAITING_AUDIO_BYTES = 2 * 1024 * 1024
REPLAY_SEGMENTS = 32
"""How many segments one read brings back, 3 MB at most, so that a slow reader does not fill the memory."""


@dataclass(frozen=True, slots=True)
class _Open:
    inbox: RequestInbox[Any, Any]
    state: RequestState


class BusReplyRouter:
    """Sorts frames and segments into the inboxes of open requests, and tells workers which requests are open."""

    def __init__(self, bus: Bus, edge: str, on_dropped: Callable[[], None], on_replay: Callable[[], None]) -> None:
        self.edge = subjects.token(edge)
        self._bus = bus
        self._loop = asyncio.get_running_loop()
        self._frames_at = len(subjects.out(self.edge, ""))
        """Where a request's id begins in the subjects of its frames."""
        self._on_dropped = on_dropped
        self._on_replay = on_replay
        self._open: dict[str, _Open] = {}
        self._idle = asyncio.Event()
        self._idle.set()
        self._subscriptions: list[Subscription] = []

    async def start(self) -> None:
        """Subscribes; messages for requests that are not open are dropped."""
        edge = self.edge
        self._subscriptions = [
            await self._bus.subscribe_now(subjects.out(edge, "*"), self._take_frame),
            await self._bus.subscribe(subjects.audio(edge, "*", "*"), self._take_segment),
            await self._bus.subscribe(subjects.resume(edge, "*"), self._answer_resume),
        ]
        self._bus.on_reconnect(self._reconnected)

    async def close(self) -> None:
        """Ends the subscriptions."""
        for subscription in self._subscriptions:
            await self._bus.unsubscribe(subscription)
        self._subscriptions.clear()

    async def send_heartbeats(self) -> None:
        """Tells workers once a second which requests are open, for as long as the process runs."""
        while True:
            try:
                await self._bus.publish(subjects.interest(self.edge), self._heartbeat().encoded())
            except BusUnavailable:
                log.warning("heartbeat_unsent")
            await asyncio.sleep(HEARTBEAT_INTERVAL_S)

    def _heartbeat(self) -> EdgeHeartbeat:
        attempts = {request_id: entry.state.attempt() for request_id, entry in self._open.items()}
        repeated = {request_id: attempt for request_id, attempt in attempts.items() if attempt > 1}
        return EdgeHeartbeat(edge=self.edge, open=tuple(attempts), attempts=repeated)

    @property
    def open_requests(self) -> int:
        """How many requests are open."""
        return len(self._open)

    async def wait_idle(self, timeout_s: float) -> bool:
        """Returns true when no request is open, or false after the timeout."""
        return await is_set_within(self._idle, timeout_s)

    def fail_all(self, error: ErrorInfo) -> None:
        """Ends every open request's waiting with an error."""
        for entry in self._open.values():
            entry.inbox.fail(error)

    def open_text(self, request_id: str, state: RequestState) -> RequestInbox[bytes, ChatFrame]:
        """Starts to collect the frames of a chat request."""
        inbox = RequestInbox(read_frame, MAX_WAITING_FRAMES, MAX_WAITING_FRAME_BYTES, self._loop)
        return self._opened(request_id, state, inbox)

    def open_embedding(self, request_id: str, state: RequestState) -> RequestInbox[bytes, EmbeddingFrame]:
        """Starts to collect the frames of an embedding request."""
        inbox = RequestInbox(read_embedding_frame, MAX_WAITING_FRAMES, MAX_WAITING_VECTOR_BYTES, self._loop)
        return self._opened(request_id, state, inbox)

    def open_transcription(self, request_id: str, state: RequestState) -> RequestInbox[bytes, TranscriptionFrame]:
        """Starts to collect the frames of a transcription request."""
        inbox = RequestInbox(read_transcription_frame, MAX_WAITING_FRAMES, MAX_WAITING_FRAME_BYTES, self._loop)
        return self._opened(request_id, state, inbox)

    def open_audio(self, request_id: str, state: RequestState) -> RequestInbox[AudioSegment, AudioSegment]:
        """Starts to collect the segments of a speech request."""
        inbox = RequestInbox[AudioSegment, AudioSegment](
            _itself, MAX_WAITING_SEGMENTS, MAX_WAITING_AUDIO_BYTES, self._loop
        )
        return self._opened(request_id, state, inbox)

    def _opened(self, request_id: str, state: RequestState, inbox: "RequestInbox[R, T]") -> "RequestInbox[R, T]":
        if not self._open:
            self._idle.clear()
        self._open[request_id] = _Open(inbox, state)
        return inbox

    def close_request(self, request_id: str) -> None:
        """Forgets a request."""
        self._open.pop(request_id, None)
        if not self._open:
            self._idle.set()

    async def replay_text(self, request_id: str) -> list[ChatFrame]:
        """Reads all frames of a request back from the bus."""
        return await self._replay(request_id, read_frame)

    async def replay_embedding(self, request_id: str) -> list[EmbeddingFrame]:
        """Reads all frames of an embedding request back from the bus."""
        return await self._replay(request_id, read_embedding_frame)

    async def replay_transcription(self, request_id: str) -> list[TranscriptionFrame]:
        """Reads all frames of a transcription request back from the bus."""
        return await self._replay(request_id, read_transcription_frame)

    async def _replay(self, request_id: str, read: Callable[[bytes], M | None]) -> list[M]:
        self._on_replay()
        try:
            messages = await read_subject(self._bus, OUT, subjects.out(self.edge, request_id), limit=65_536)
        except BusUnavailable:
            return []
        return [frame for frame in (read(message.data) for message in messages) if frame is not None]

    async def replay_audio(self, request_id: str, from_n: int) -> list[AudioSegment]:
        """Reads the next few segments from number `from_n` on back from the bus."""
        self._on_replay()
        wanted = [subjects.audio(self.edge, request_id, n) for n in range(from_n, from_n + REPLAY_SEGMENTS)]
        try:
            messages = await read_last_of_each(self._bus, AUDIO, wanted)
        except BusUnavailable:
            return []
        segments = [read_segment(message.subject, message.headers, message.data) for message in messages]
        return [segment for segment in segments if segment is not None]

    async def result(self, request_id: str) -> ChatResult | None:
        """The finished reply, if the bus has it."""
        return await self._result(request_id, ChatResult)

    async def embedding_result(self, request_id: str) -> EmbeddingResult | None:
        """The finished vectors, if the bus has them."""
        return await self._result(request_id, EmbeddingResult)

    async def transcription_result(self, request_id: str) -> TranscriptionResult | None:
        """The finished transcript, if the bus has it."""
        return await self._result(request_id, TranscriptionResult)

    async def _result(self, request_id: str, model: type[M]) -> M | None:
        try:
            message = await read_last(self._bus, RESULT, subjects.result(request_id))
            return model.model_validate_json(await self._bus.cipher.decrypt(message.data)) if message else None
        except (BusUnavailable, PayloadUnreadable, ValidationError):
            return None

    def _take_frame(self, message: Msg) -> None:
        # The next message of every request waits for this callback, so it must never wait itself.
        entry = self._open.get(message.subject[self._frames_at :])
        if entry is not None and not entry.inbox.put_nowait(message.data, len(message.data)):
            self._on_dropped()

    async def _take_segment(self, message: Msg) -> None:
        entry = self._open.get(message.subject.split(".")[2])
        if entry is None:
            return
        segment = read_segment(message.subject, message.headers, message.data)
        if segment is not None and not entry.inbox.put_nowait(segment, len(message.data)):
            self._on_dropped()

    async def _answer_resume(self, message: Msg) -> None:
        entry = self._open.get(message.subject.rpartition(".")[2])
        try:
            attempt = ResumeRequest.model_validate_json(message.data).attempt
        except ValidationError:
            return
        reply = entry.state.resume(attempt) if entry else ResumeReply(open=False, attempt=attempt)
        try:
            await self._bus.publish(message.reply, reply.encoded())
        except BusUnavailable:
            log.warning("resume_unanswered")

    def _reconnected(self) -> None:
        for entry in self._open.values():
            entry.inbox.mark_lost()


def _itself(segment: AudioSegment) -> AudioSegment:
    return segment


def _reader(model: type[M]) -> Callable[[bytes], M | None]:
    """What reads a message as it stands on the bus; None, and a line in the log, for what is none."""
    validate: Callable[[bytes], M] = TypeAdapter(model).validator.validate_json

    def read(data: bytes) -> M | None:
        try:
            return validate(data)
        except ValidationError:
            log.warning("frame_malformed")
            return None

    return read


read_frame = _reader(ChatFrame)
read_embedding_frame = _reader(EmbeddingFrame)
read_transcription_frame = _reader(TranscriptionFrame)
