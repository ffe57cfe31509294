"""The vectors of an embedding request as they come from its workers."""

from base64 import b64decode
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field

from callboard_contracts.embedding import (
    EmbeddingEnd,
    EmbeddingFrame,
    EmbeddingResult,
    order_of_embedding_frames,
    packed,
)
from callboard_contracts.errors import CallboardError, ErrorCode, ErrorInfo
from callboard_contracts.interest import ResumeReply
from callboard_edge.domain.job_stream import KEEP_ALIVE_S, JobStream, StreamSource
from callboard_edge.domain.ports import Inbox, ReplyRouter, RequestState
from callboard_edge.domain.submission import Dependencies
from callboard_edge.domain.workers import WorkerWait

INTERRUPTED = ErrorInfo(code=ErrorCode.INTERRUPTED, message="The vectors were lost on their way; try again.")
MALFORMED = ErrorInfo(code=ErrorCode.ENGINE_FAILED, message="The engine made other vectors than it was asked for.")


@dataclass(slots=True)
class Vectors:
    """The vectors of some texts, each as little-endian floats of 32 bits, and how the work on them ended."""

    end: EmbeddingEnd
    vectors: list[bytes] = field(default_factory=list[bytes])


class EmbeddingBuffer:
    """The frames of one request in order; a newer attempt replaces what an older one wrote under the same numbers."""

    def __init__(self) -> None:
        self.end: EmbeddingEnd | None = None
        self._order = order_of_embedding_frames()
        self._vectors: list[list[bytes]] = []

    @property
    def ended(self) -> bool:
        """Whether the end is here."""
        return self.end is not None

    @property
    def missing(self) -> bool:
        """Whether a later frame is here while an earlier one is not."""
        return self._order.missing and not self.ended

    @property
    def attempt(self) -> int:
        """The newest attempt seen."""
        return self._order.attempt

    @property
    def size_bytes(self) -> int:
        """How much the vectors so far take."""
        return sum(len(vector) for vectors in self._vectors for vector in vectors)

    @property
    def vectors(self) -> list[bytes]:
        """All vectors so far."""
        return [vector for vectors in self._vectors for vector in vectors]

    def announce(self, attempt: int) -> None:
        """Notes that an attempt has begun, so that what older ones still send is left aside."""
        self._order.announce(attempt)

    def resume(self) -> ResumeReply:
        """How far the vectors have come, for a worker that takes the job over."""
        return ResumeReply(open=not self.ended, attempt=self.attempt, next_seq=self._order.next_number)

    def feed(self, frames: Iterable[EmbeddingFrame]) -> list[EmbeddingFrame]:
        """Takes frames in any order and returns those that come next, in order."""
        ready: list[EmbeddingFrame] = []
        for frame in frames:
            if self.ended:
                break
            ordered = self._order.take(frame)
            if ordered.rewound_to is not None:
                del self._vectors[ordered.rewound_to :]
            for accepted in ordered.pieces:
                self._vectors.append([b64decode(vector) for vector in accepted.vectors])
                ready.append(accepted)
                self.end = accepted.end or self.end
        return ready

    def complete(self, result: EmbeddingResult) -> EmbeddingFrame:
        """Ends the request with its kept result, which may lack the vectors."""
        error = result.error or (None if result.vectors else INTERRUPTED)
        self.end = EmbeddingEnd(reason="error" if error else "stop", usage=result.usage, error=error)
        self._vectors = [[packed(vector) for vector in result.vectors]]
        self._order.clear()
        return EmbeddingFrame(seq=self._order.next_number, attempt=max(1, self.attempt), end=self.end)


class EmbeddingSource(StreamSource[EmbeddingFrame]):
    """The frames of one embedding request; its kept result ends them when they are gone."""

    def __init__(self, replies: ReplyRouter, request_id: str) -> None:
        self._replies = replies
        self._request_id = request_id
        self.frames = EmbeddingBuffer()
        super().__init__(self.frames)

    def open(self, state: RequestState) -> Inbox[EmbeddingFrame]:
        """Begins to collect frames."""
        return self._replies.open_embedding(self._request_id, state)

    async def replay(self) -> Sequence[EmbeddingFrame]:
        """Reads all frames back."""
        return await self._replies.replay_embedding(self._request_id)

    async def complete(self) -> Sequence[EmbeddingFrame]:
        """The end, from the kept result."""
        result = await self._replies.embedding_result(self._request_id)
        arrived = self.frames.feed(self.inbox.drain())
        return [*arrived, self.frames.complete(result)] if result is not None and not self.frames.ended else arrived


class EmbeddingStream(JobStream[EmbeddingFrame]):
    """An embedding job for `count` texts; the last frame has the end."""

    def __init__(
        self, deps: Dependencies, request_id: str, life_s: float, source: EmbeddingSource, wait: WorkerWait, count: int
    ) -> None:
        super().__init__(deps, request_id, life_s, source, wait)
        self._frames = source.frames
        self._count = count

    async def collect(self, on_silence: Callable[[], Awaitable[None]], on_growth: Callable[[int], None]) -> Vectors:
        """Waits for all vectors; `on_silence` is called after each long silence, `on_growth` with the bytes so far.

        Raises:
            CallboardError: there are none.
        """
        async for arrived in self.batches(KEEP_ALIVE_S):
            if not arrived:
                await on_silence()
            on_growth(self._frames.size_bytes)
        end, vectors = self._frames.end, self._frames.vectors
        assert end is not None
        if end.reason == "cancelled":
            raise CallboardError(ErrorCode.INTERRUPTED, "The request was interrupted.")
        if end.reason == "error" or len(vectors) != self._count:
            raise CallboardError.of(end.error or MALFORMED)
        return Vectors(end, vectors)
