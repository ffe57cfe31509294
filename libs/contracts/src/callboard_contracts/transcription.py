"""Transcription jobs: speech in, text out."""

from typing import Literal

from pydantic import Field

from callboard_contracts.errors import ErrorInfo
from callboard_contracts.jobs import Job
from callboard_contracts.model import Message


class TranscriptionRequest(Message):
    """What is to be heard, and how it is to be written down; `language` left out, the engine finds it.

    `hotwords` are words that are likely to be said. With the task `translate` the text is English.
    """

    model: str
    task: Literal["transcribe", "translate"] = "transcribe"
    language: str | None = None
    prompt: str = ""
    hotwords: tuple[str, ...] = ()
    temperature: float | None = Field(default=None, ge=0, le=1)
    word_timestamps: bool = False


class TranscriptionJob(Job):
    """A transcription request in a work queue.

    The sound lies in the stream AUDIO as `segments` numbered segments under `audio.<edge>.<request>.<n>`.
    """

    request: TranscriptionRequest
    segments: int = Field(ge=1)
    audio_ms: int = Field(ge=0)


class TranscribedWord(Message):
    """One word and when it was said, in seconds from the beginning."""

    word: str
    start_s: float
    end_s: float


class TranscribedSegment(Message):
    """A stretch of speech and its text."""

    start_s: float
    end_s: float
    text: str
    words: tuple[TranscribedWord, ...] = ()
    avg_logprob: float | None = None
    no_speech_probability: float | None = None


class TranscriptionResult(Message):
    """The whole text; `error` is set when it could not be written."""

    request_id: str
    text: str = ""
    language: str | None = None
    segments: tuple[TranscribedSegment, ...] = ()
    heard_ms: int = Field(default=0, ge=0)
    error: ErrorInfo | None = None
