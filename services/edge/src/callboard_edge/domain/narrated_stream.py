"""A chat reply and its speech, which is made while the reply is written, as one stream."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from callboard_contracts.chat import ChatFrame
from callboard_contracts.errors import CallboardError
from callboard_contracts.speech import AudioSegment
from callboard_edge.domain.job_stream import FailedAfterOutput
from callboard_edge.domain.speech_stream import SpeechStream, failed_speech
from callboard_edge.domain.text_stream import TextStream, failure, has_output


@dataclass(frozen=True, slots=True)
class Arrived:
    """What arrived together: frames of the reply, segments of its speech, or nothing after a silence."""

    frames: Sequence[ChatFrame] = ()
    segments: Sequence[AudioSegment] = ()


class NarratedStream:
    """Two jobs with one reader; use it as an async context manager. Leaving it early cancels both."""

    def __init__(self, text: TextStream, speech: SpeechStream) -> None:
        self.text = text
        self.speech = speech
        self._reading_text: asyncio.Task[Sequence[ChatFrame]] | None = None
        self._reading_speech: asyncio.Task[Sequence[AudioSegment]] | None = None
        self._has_output = False

    @property
    def ended(self) -> bool:
        """Whether both ends have been taken."""
        return self.text.ended and self.speech.ended

    @property
    def waking(self) -> bool:
        """Whether a job waits for a worker of a pool that has none at this moment."""
        return self.text.waking or self.speech.waking

    async def take(self, wait_s: float) -> Arrived:
        """What comes next of either, as soon as there is something; nothing when the wait is over first.

        Raises:
            FailedAfterOutput: the reply or its speech failed after a part of the reply was written, which is charged.
            CallboardError: it failed before, the deadline has passed, or this edge stops.
        """
        if self._reading_text is None and not self.text.ended:
            self._reading_text = asyncio.ensure_future(self.text.take(wait_s))
        if self._reading_speech is None and not self.speech.ended:
            self._reading_speech = asyncio.ensure_future(self.speech.take(wait_s))
        reading = {task for task in (self._reading_text, self._reading_speech) if task is not None}
        if reading:
            await asyncio.wait(reading, return_when=asyncio.FIRST_COMPLETED)
        try:
            return self._taken()
        except CallboardError as error:
            raise FailedAfterOutput.of(error.info) if self._has_output else error from None

    def _taken(self) -> Arrived:
        frames: Sequence[ChatFrame] = ()
        segments: Sequence[AudioSegment] = ()
        if self._reading_text is not None and self._reading_text.done():
            done, self._reading_text = self._reading_text, None
            frames = done.result()
            self._has_output = self._has_output or any(map(has_output, frames))
            end = frames[-1].end if frames else None
            if end is not None and (error := failure(end)) is not None:
                raise CallboardError.of(error)
        if self._reading_speech is not None and self._reading_speech.done():
            spoken, self._reading_speech = self._reading_speech, None
            segments = spoken.result()
            end_of_speech = segments[-1].info.end if segments else None
            if end_of_speech is not None and (error := failed_speech(end_of_speech)) is not None:
                raise CallboardError.of(error)
        return Arrived(frames, segments)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        reading = {task for task in (self._reading_text, self._reading_speech) if task is not None}
        for task in reading:
            task.cancel()
        try:
            # A stream has one reader at a time, also while it is closed.
            if reading:
                await asyncio.wait(reading)
        finally:
            self.text.close()
            self.speech.close()
