"""A spoken text as its reader sees it: one continuous stream of audio segments."""

from collections.abc import Awaitable, Callable, Sequence

from callboard_contracts.errors import CallboardError, ErrorCode, ErrorInfo
from callboard_contracts.speech import AudioSegment, SpeechEnd
from callboard_edge.domain.job_stream import KEEP_ALIVE_S, FailedAfterOutput, JobStream, StreamSource
from callboard_edge.domain.ports import Inbox, ReplyRouter, RequestState
from callboard_edge.domain.reorder import SpeechReorderBuffer
from callboard_edge.domain.speech_text import nothing_to_speak


class SpeechSource(StreamSource[AudioSegment]):
    """The segments of one speech request."""

    def __init__(self, replies: ReplyRouter, request_id: str) -> None:
        self._replies = replies
        self._request_id = request_id
        self._reorder = SpeechReorderBuffer()
        super().__init__(self._reorder)

    def open(self, state: RequestState) -> Inbox[AudioSegment]:
        """Begins to collect segments."""
        return self._replies.open_audio(self._request_id, state)

    async def replay(self) -> Sequence[AudioSegment]:
        """Reads the next few segments back."""
        return await self._replies.replay_audio(self._request_id, self._reorder.next_n)


class SpeechStream(JobStream[AudioSegment]):
    """A speech job; the last segment has the end and no PCM."""

    async def opening(self, on_silence: Callable[[], Awaitable[None]]) -> list[AudioSegment]:
        """The segments up to the first sound; `on_silence` is called after each long silence.

        Raises:
            CallboardError: the utterance failed, or ended without a sound.
        """
        segments: list[AudioSegment] = []
        while not any(segment.pcm for segment in segments):
            end = segments[-1].info.end if segments else None
            if end is not None and end.reason == "limit":
                raise CallboardError.of(end.error or unexplained(end))
            if end is not None:
                raise nothing_to_speak()
            arrived = await self.next_segments()
            if not arrived:
                await on_silence()
            segments += arrived
        return segments

    async def next_segments(self) -> Sequence[AudioSegment]:
        """The next segments; none after a long silence.

        Raises:
            FailedAfterOutput: the utterance failed after a sound, which is charged. Its last sounds are left out, so
                that it never looks whole.
            CallboardError: it failed before.
        """
        segments = await self.take(KEEP_ALIVE_S)
        end = segments[-1].info.end if segments else None
        if end is not None and (error := failed_speech(end)) is not None:
            raise (FailedAfterOutput if end.audio_ms else CallboardError).of(error)
        return segments


def failed_speech(end: SpeechEnd) -> ErrorInfo | None:
    """The error of an end that is neither the text's own nor a limit's."""
    return None if end.reason in {"stop", "limit"} else end.error or unexplained(end)


def unexplained(end: SpeechEnd) -> ErrorInfo:
    """The error of an end that names none."""
    if end.reason == "limit":
        return ErrorInfo(code=ErrorCode.QUOTA_EXCEEDED, message="A limit ended the speech.")
    if end.reason == "cancelled":
        return ErrorInfo(code=ErrorCode.INTERRUPTED, message="The speech was stopped before its end.")
    return ErrorInfo(code=ErrorCode.ENGINE_FAILED, message="The speech engine failed.")
