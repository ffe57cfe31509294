"""What is heard in a sound, as it comes from its workers."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from callboard_contracts.errors import CallboardError, ErrorCode, ErrorInfo
from callboard_contracts.transcription import (
    TranscribedSegment,
    TranscriptionEnd,
    TranscriptionFrame,
    TranscriptionResult,
    order_of_transcription_frames,
    text_of,
)
from callboard_edge.domain.frame_buffer import FrameBuffer
from callboard_edge.domain.job_stream import KEEP_ALIVE_S, FailedAfterOutput, JobStream, StreamSource
from callboard_edge.domain.ports import Inbox, ReplyRouter, RequestState
from callboard_edge.domain.submission import Dependencies
from callboard_edge.domain.workers import WorkerWait


@dataclass(frozen=True, slots=True)
class Transcript:
    """What was heard in a whole sound."""

    segments: tuple[TranscribedSegment, ...]
    end: TranscriptionEnd

    @property
    def text(self) -> str:
        """The whole text."""
        return text_of(self.segments)


class TranscriptionBuffer(FrameBuffer[TranscriptionFrame, TranscribedSegment, TranscriptionEnd]):
    """The segments of one request."""

    def __init__(self) -> None:
        super().__init__(order_of_transcription_frames())

    def read(self, frame: TranscriptionFrame) -> tuple[Sequence[TranscribedSegment], TranscriptionEnd | None]:
        """The segments of a frame, and its end."""
        return frame.segments, frame.end

    def complete(self, result: TranscriptionResult) -> TranscriptionFrame:
        """Ends the request with its kept result, which has all segments."""
        seq, attempt = self.finish(result.end, result.segments)
        return TranscriptionFrame(seq=seq, attempt=attempt, end=result.end)


class TranscriptionSource(StreamSource[TranscriptionFrame]):
    """The frames of one request; its kept result ends them when they are gone."""

    def __init__(self, replies: ReplyRouter, request_id: str) -> None:
        self._replies = replies
        self._request_id = request_id
        self.frames = TranscriptionBuffer()
        super().__init__(self.frames)

    def open(self, state: RequestState) -> Inbox[TranscriptionFrame]:
        """Begins to collect frames."""
        return self._replies.open_transcription(self._request_id, state)

    async def replay(self) -> Sequence[TranscriptionFrame]:
        """Reads all frames back."""
        return await self._replies.replay_transcription(self._request_id)

    async def complete(self) -> Sequence[TranscriptionFrame]:
        """The end, from the kept result."""
        result = await self._replies.transcription_result(self._request_id)
        arrived = self.frames.feed(self.inbox.drain())
        return [*arrived, self.frames.complete(result)] if result is not None and not self.frames.ended else arrived


class TranscriptionStream(JobStream[TranscriptionFrame]):
    """A transcription job; the last frame has the end. What is stored of its sound is deleted when it closes."""

    def __init__(
        self, deps: Dependencies, request_id: str, life_s: float, source: TranscriptionSource, wait: WorkerWait
    ) -> None:
        super().__init__(deps, request_id, life_s, source, wait)
        self._frames = source.frames
        self._deleting = False

    @property
    def text(self) -> str:
        """The text so far."""
        return text_of(self._frames.content)

    @property
    def transcript(self) -> Transcript:
        """What was heard in the whole sound.

        Raises:
            FailedAfterOutput: it failed after a part of the sound had been heard, which is charged.
            CallboardError: it failed before.
        """
        end = self._frames.end
        assert end is not None
        if (error := _failed(end)) is not None:
            raise (FailedAfterOutput if end.heard_ms else CallboardError).of(error)
        return Transcript(tuple(self._frames.content), end)

    async def collect(self, on_silence: Callable[[], Awaitable[None]]) -> Transcript:
        """Waits for the end; `on_silence` is called after each long silence. Raises as `transcript`."""
        async for arrived in self.batches(KEEP_ALIVE_S):
            if not arrived:
                await on_silence()
        return self.transcript

    def close(self) -> None:
        """Ends the stream; see `JobStream.close`."""
        super().close()
        if not self._deleting:
            self._deleting = True
            self._deps.background.start(self._delete_sound(), "delete-sound")

    async def _delete_sound(self) -> None:
        if self._submitting is not None:
            # Parts may still be on their way.
            await asyncio.wait([self._submitting])
        await self._deps.jobs.delete_sound(self._deps.replies.edge, self.request_id)


def _failed(end: TranscriptionEnd) -> ErrorInfo | None:
    if end.reason == "error":
        return end.error or ErrorInfo(code=ErrorCode.ENGINE_FAILED, message="The engine failed.")
    if end.reason == "cancelled":
        return ErrorInfo(code=ErrorCode.INTERRUPTED, message="The request was interrupted.")
    return None
