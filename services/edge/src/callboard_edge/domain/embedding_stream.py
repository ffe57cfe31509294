"""The vectors of an embedding request as they come from its workers."""

from base64 import b64decode
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

from callboard_contracts.embedding import (
    EmbeddingEnd,
    EmbeddingFrame,
    EmbeddingResult,
    order_of_embedding_frames,
    packed,
)
from callboard_contracts.errors import CallboardError, ErrorCode, ErrorInfo
from callboard_edge.domain.frame_buffer import FrameBuffer
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


class EmbeddingBuffer(FrameBuffer[EmbeddingFrame, bytes, EmbeddingEnd]):
    """The vectors of one request."""

    def __init__(self) -> None:
        super().__init__(order_of_embedding_frames())

    def read(self, frame: EmbeddingFrame) -> tuple[list[bytes], EmbeddingEnd | None]:
        """The vectors of a frame, and its end."""
        return [b64decode(vector) for vector in frame.vectors], frame.end

    @property
    def size_bytes(self) -> int:
        """How much the vectors so far take."""
        return sum(map(len, self.content))

    def complete(self, result: EmbeddingResult) -> EmbeddingFrame:
        """Ends the request with its kept result, which may lack the vectors."""
        error = result.error or (None if result.vectors else INTERRUPTED)
        end = EmbeddingEnd(reason="error" if error else "stop", usage=result.usage, error=error)
        seq, attempt = self.finish(end, [packed(vector) for vector in result.vectors])
        return EmbeddingFrame(seq=seq, attempt=attempt, end=end)


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
        end, vectors = self._frames.end, self._frames.content
        assert end is not None
        if end.reason == "cancelled":
            raise CallboardError(ErrorCode.INTERRUPTED, "The request was interrupted.")
        if end.reason == "error" or len(vectors) != self._count:
            raise CallboardError.of(end.error or MALFORMED)
        return Vectors(end, vectors)
