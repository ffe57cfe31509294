"""Transcription jobs: speech in, text out.

The sound is the file that the client sent, of any container, cut into numbered parts on `sound.<edge>.<request>.<n>`.
They are stored in the memory of the bus before the job is queued, and deleted with the request.
"""

from collections.abc import Iterable
from operator import attrgetter
from typing import Literal

from pydantic import Field

from callboard_contracts.errors import ErrorInfo
from callboard_contracts.jobs import Job
from callboard_contracts.model import Message
from callboard_contracts.ordering import AttemptOrder

SOUND_PART_BYTES = 256 * 1024
"""The most of a sound that one message carries."""
MAX_SOUND_PARTS = 4096
MAX_HOTWORDS = 256
MAX_PROMPT_CHARACTERS = 4096

TranscriptionTask = Literal["transcribe", "translate"]
TranscriptionEndReason = Literal["stop", "cancelled", "error"]


class TranscriptionRequest(Message):
    """What is to be heard, and how it is to be written down.

    `language` is a code such as `en`; left out, the engine finds it. `prompt` is text that comes before, and `hotwords`
    are words that are likely to be said. With the task `translate` the text is English. `voice_activity` has only the
    stretches with speech recognised.
    """

    model: str
    task: TranscriptionTask = "transcribe"
    language: str | None = Field(default=None, pattern=r"^[a-z]{2,3}$")
    prompt: str = Field(default="", max_length=MAX_PROMPT_CHARACTERS)
    hotwords: tuple[str, ...] = Field(default=(), max_length=MAX_HOTWORDS)
    temperature: float | None = Field(default=None, ge=0, le=1)
    word_timestamps: bool = False
    voice_activity: bool = True


class TranscriptionJob(Job):
    """A transcription request in a work queue; its sound has `parts` parts and `sound_bytes` bytes."""

    request: TranscriptionRequest
    parts: int = Field(ge=1, le=MAX_SOUND_PARTS)
    sound_bytes: int = Field(ge=1)


class TranscribedWord(Message):
    """One word, with the space before it where there is one, and when it was said, in seconds from the beginning."""

    word: str
    start_s: float
    end_s: float
    probability: float | None = None


class TranscribedSegment(Message):
    """A stretch of speech and its text.

    What the engine alone knows is None where it does not say: `seek` is where the window began that it was found in, in
    hundredths of a second.
    """

    start_s: float
    end_s: float
    text: str
    words: tuple[TranscribedWord, ...] = ()
    tokens: tuple[int, ...] = ()
    seek: int | None = None
    temperature: float | None = None
    avg_logprob: float | None = None
    compression_ratio: float | None = None
    no_speech_probability: float | None = None


class TranscriptionEnd(Message):
    """How the recognition ended; `error` is set exactly when the reason is `error`.

    `duration_ms` is the length of the sound, and `heard_ms` what of it is charged: nothing where nothing was said.
    """

    reason: TranscriptionEndReason
    language: str | None = None
    language_probability: float | None = None
    duration_ms: int = Field(default=0, ge=0)
    heard_ms: int = Field(default=0, ge=0)
    error: ErrorInfo | None = None


class TranscriptionFrame(Message):
    """Some segments of a request on `out.<edge>.<request>`, in the order in which they were said.

    `seq` counts from 0 without gaps over all attempts; `attempt` is the delivery that wrote the frame. The text of a
    request is the texts of its segments one after the other, without the space at either end. `duration_ms` is the
    length of the whole sound and `language` that of the speech, as soon as they are known. The last
    frame has `end`.
    """

    seq: int = Field(ge=0)
    attempt: int = Field(ge=1)
    segments: tuple[TranscribedSegment, ...] = ()
    language: str | None = None
    language_probability: float | None = None
    duration_ms: int = Field(default=0, ge=0)
    end: TranscriptionEnd | None = None


class TranscriptionResult(Message):
    """All segments and how the recognition ended, kept for an edge that missed frames."""

    request_id: str
    model: str = ""
    segments: tuple[TranscribedSegment, ...] = ()
    end: TranscriptionEnd

    @property
    def text(self) -> str:
        """The whole text."""
        return text_of(self.segments)


def text_of(segments: Iterable[TranscribedSegment]) -> str:
    """The text of segments that follow one another."""
    return "".join(segment.text for segment in segments).strip()


def order_of_transcription_frames(first: int = 0) -> AttemptOrder[TranscriptionFrame]:
    """Puts the frames of one request in order, beginning with the number `first`."""
    return AttemptOrder(attrgetter("seq"), attrgetter("attempt"), first)
