"""What workers send back, in memory; it behaves as that on the bus, and fails on demand."""

from collections.abc import Sequence
from typing import Any

from callboard_contracts.chat import ChatFrame, ChatResult
from callboard_contracts.embedding import EmbeddingFrame, EmbeddingResult
from callboard_contracts.errors import ErrorInfo
from callboard_contracts.interest import EdgeHeartbeat, ResumeReply
from callboard_contracts.speech import AudioSegment, SegmentInfo
from callboard_contracts.transcription import (
    TranscriptionFrame,
    TranscriptionResult,
)
from callboard_edge.backends.inbox import RequestInbox
from callboard_edge.domain.ports import RequestState


class FakeReplyRouter:
    """Frames and segments in memory; `send`, `send_vectors`, `write_down`, `say` and `resume` are the worker's side."""

    edge = "edge0"

    def __init__(self, max_messages: int = 1024, max_bytes: int = 1024 * 1024) -> None:
        self.lose_next = 0
        """How many of the next messages are stored but never delivered."""
        self.results: dict[str, ChatResult] = {}
        self.embedding_results: dict[str, EmbeddingResult] = {}
        self.transcription_results: dict[str, TranscriptionResult] = {}
        self.stored: dict[str, list[ChatFrame]] = {}
        self.stored_vectors: dict[str, list[EmbeddingFrame]] = {}
        self.stored_transcripts: dict[str, list[TranscriptionFrame]] = {}
        self.stored_audio: dict[str, list[AudioSegment]] = {}
        self.replays = 0
        self._limits = (max_messages, max_bytes)
        self._chats: dict[str, RequestInbox[ChatFrame, ChatFrame]] = {}
        self._embeddings: dict[str, RequestInbox[EmbeddingFrame, EmbeddingFrame]] = {}
        self._transcripts: dict[str, RequestInbox[TranscriptionFrame, TranscriptionFrame]] = {}
        self._audio: dict[str, RequestInbox[AudioSegment, AudioSegment]] = {}
        self._states: dict[str, RequestState] = {}

    @property
    def open_requests(self) -> int:
        """How many requests are open."""
        return len(self._states)

    def open_text(self, request_id: str, state: RequestState) -> RequestInbox[ChatFrame, ChatFrame]:
        """Starts to collect the frames of a chat request."""
        inbox = self._chats[request_id] = RequestInbox[ChatFrame, ChatFrame](lambda frame: frame, *self._limits)
        self._states[request_id] = state
        return inbox

    def open_embedding(self, request_id: str, state: RequestState) -> RequestInbox[EmbeddingFrame, EmbeddingFrame]:
        """Starts to collect the frames of an embedding request."""
        inbox = self._embeddings[request_id] = RequestInbox[EmbeddingFrame, EmbeddingFrame](
            lambda frame: frame, *self._limits
        )
        self._states[request_id] = state
        return inbox

    def open_transcription(
        self, request_id: str, state: RequestState
    ) -> RequestInbox[TranscriptionFrame, TranscriptionFrame]:
        """Starts to collect the frames of a transcription request."""
        inbox = self._transcripts[request_id] = RequestInbox[TranscriptionFrame, TranscriptionFrame](
            lambda frame: frame, *self._limits
        )
        self._states[request_id] = state
        return inbox

    def open_audio(self, request_id: str, state: RequestState) -> RequestInbox[AudioSegment, AudioSegment]:
        """Starts to collect the segments of a speech request."""
        inbox = self._audio[request_id] = RequestInbox[AudioSegment, AudioSegment](
            lambda segment: segment, *self._limits
        )
        self._states[request_id] = state
        return inbox

    def close_request(self, request_id: str) -> None:
        """Forgets a request."""
        self._chats.pop(request_id, None)
        self._embeddings.pop(request_id, None)
        self._transcripts.pop(request_id, None)
        self._audio.pop(request_id, None)
        self._states.pop(request_id, None)

    async def replay_text(self, request_id: str) -> list[ChatFrame]:
        """Reads all frames of a request back."""
        self.replays += 1
        return list(self.stored.get(request_id, ()))

    async def replay_embedding(self, request_id: str) -> list[EmbeddingFrame]:
        """Reads all frames of an embedding request back."""
        self.replays += 1
        return list(self.stored_vectors.get(request_id, ()))

    async def replay_audio(self, request_id: str, from_n: int) -> list[AudioSegment]:
        """Reads the next few segments back."""
        self.replays += 1
        return [segment for segment in self.stored_audio.get(request_id, ()) if segment.n >= from_n][:32]

    async def replay_transcription(self, request_id: str) -> list[TranscriptionFrame]:
        """Reads all frames of a transcription request back."""
        self.replays += 1
        return list(self.stored_transcripts.get(request_id, ()))

    async def transcription_result(self, request_id: str) -> TranscriptionResult | None:
        """The finished transcript, if it is there."""
        return self.transcription_results.get(request_id)

    async def result(self, request_id: str) -> ChatResult | None:
        """The finished reply, if it is there."""
        return self.results.get(request_id)

    async def embedding_result(self, request_id: str) -> EmbeddingResult | None:
        """The finished vectors, if they are there."""
        return self.embedding_results.get(request_id)

    def send(self, request_id: str, frame: ChatFrame) -> None:
        """Publishes a frame."""
        self.stored.setdefault(request_id, []).append(frame)
        if self.lose_next:
            self.lose_next -= 1
        elif request_id in self._chats:
            self._chats[request_id].put_nowait(frame, len(frame.text) + len(frame.thinking))

    def send_vectors(self, request_id: str, frame: EmbeddingFrame) -> None:
        """Publishes a frame of vectors."""
        self.stored_vectors.setdefault(request_id, []).append(frame)
        if self.lose_next:
            self.lose_next -= 1
        elif request_id in self._embeddings:
            self._embeddings[request_id].put_nowait(frame, sum(map(len, frame.vectors)))

    def write_down(self, request_id: str, frame: TranscriptionFrame) -> None:
        """Publishes a frame of a transcript."""
        self.stored_transcripts.setdefault(request_id, []).append(frame)
        if self.lose_next:
            self.lose_next -= 1
        elif request_id in self._transcripts:
            self._transcripts[request_id].put_nowait(frame, sum(len(segment.text) for segment in frame.segments))

    def say(self, request_id: str, n: int, info: SegmentInfo, pcm: bytes) -> None:
        """Publishes a segment."""
        segment = AudioSegment(n, info, pcm)
        self.stored_audio.setdefault(request_id, []).append(segment)
        if self.lose_next:
            self.lose_next -= 1
        elif request_id in self._audio:
            self._audio[request_id].put_nowait(segment, len(pcm))

    def heartbeat(self) -> EdgeHeartbeat:
        """What a heartbeat would say now."""
        attempts = {request_id: state.attempt() for request_id, state in self._states.items()}
        repeated = {request_id: attempt for request_id, attempt in attempts.items() if attempt > 1}
        return EdgeHeartbeat(edge=self.edge, open=tuple(attempts), attempts=repeated)

    def resume(self, request_id: str, attempt: int) -> ResumeReply:
        """Asks how far a reply has come, as a worker that takes it over does."""
        state = self._states.get(request_id)
        return state.resume(attempt) if state else ResumeReply(open=False, attempt=attempt)

    def forget(self) -> None:
        """Loses everything that was stored, as a memory stream does when the server restarts."""
        self.stored.clear()
        self.stored_vectors.clear()
        self.stored_transcripts.clear()
        self.stored_audio.clear()

    def reconnect(self) -> None:
        """Tells every request that messages may have passed unseen."""
        for inbox in self._inboxes:
            inbox.mark_lost()

    def fail_all(self, error: ErrorInfo) -> None:
        """Ends every open request's waiting with an error."""
        for inbox in self._inboxes:
            inbox.fail(error)

    @property
    def _inboxes(self) -> Sequence[RequestInbox[Any, Any]]:
        by_kind = self._chats, self._embeddings, self._transcripts, self._audio
        return [inbox for inboxes in by_kind for inbox in inboxes.values()]
