"""Speech jobs and the audio segments that stream back.

A segment travels as raw PCM in the message body (24 kHz, mono, signed 16-bit little-endian); what a receiver must
know about it stands in the subject (its number) and in the headers named here.
"""

from dataclasses import dataclass
from operator import attrgetter
from typing import Literal

from pydantic import AliasChoices, Field

from callboard_contracts import subjects
from callboard_contracts.errors import ErrorInfo
from callboard_contracts.jobs import Job
from callboard_contracts.model import Message
from callboard_contracts.ordering import AttemptOrder
from callboard_contracts.pronunciation import WordsTable
from callboard_contracts.quota import Hold
from callboard_contracts.streams import AUDIO, ROOM_AUDIO

SAMPLE_RATE_HZ = 24_000
BYTES_PER_SAMPLE = 2
BYTES_PER_MS = SAMPLE_RATE_HZ * BYTES_PER_SAMPLE // 1000
MAX_SEGMENT_BYTES = 96_000
"""Two seconds of audio: far below the bus's message limit, and small enough to start playing at once."""

SpeechEndReason = Literal["stop", "cancelled", "error", "limit"]
"""With `limit` the sound ends cleanly after a piece, because quota refused to hold more; the error names the limit."""


class SpeechRequest(Message):
    """What is to be spoken; `voice` is a voice's name or a blend such as `af_bella(2)+af_sky(1)`."""

    model: str
    text: str
    voice: str
    speed: float = Field(default=1.0, ge=0.25, le=4.0)
    language: str | None = None
    """A language tag such as `en-us`; left out, the voice's own language."""
    instructions: str = ""
    words: WordsTable = Field(default_factory=dict)
    """How words are spoken, before the lists of the site."""
    word_times: bool = False
    """Whether the segments are to say when each word of the text sounds."""


class NarratedReply(Message):
    """A chat reply that is spoken while it is written: its frames are read from `out.<edge>.<request_id>`."""

    edge: str
    request_id: str


class SpeechJob(Job):
    """A speech request in a work queue.

    The audio goes to `audio.<room>.<utterance>.<n>`; for a plain request the room is the edge and the utterance is
    the request id. With `in_room` it goes to `room_audio.<room>.<utterance>.<n>`. With `narrates` the request has no
    text, and the reply's text is spoken as it arrives.
    """

    room: str
    utterance: str
    request: SpeechRequest
    in_room: bool = False
    narrates: NarratedReply | None = None

    @property
    def has_listening_edge(self) -> bool:
        """Whether the edge says that it waits; a room is heard through any edge, and through none."""
        return not self.in_room

    @property
    def audio_stream(self) -> str:
        """The stream that keeps the segments."""
        return ROOM_AUDIO if self.in_room else AUDIO

    def segment_subject(self, n: int | str) -> str:
        """Where segment `n` appears; `*` stands for all."""
        name = subjects.room_audio if self.in_room else subjects.audio
        return name(self.room, self.utterance, n)


class SpeechEnd(Message):
    """Why an utterance ended and how much audio was made in all."""

    reason: SpeechEndReason
    audio_ms: int = Field(default=0, ge=0)
    error: ErrorInfo | None = None


class UtteranceStart(Message):
    """That an utterance of a room comes, in JSON on `room_audio.<room>.<utterance>.start`.

    A room's utterances are heard one after the other in the order of `number`. An utterance of which nothing has
    arrived at `expires_at`, in Unix seconds, is left out. `secret_digest` is the room's at that time: it keeps a
    recording from strangers also when the room is over.
    """

    number: int = Field(ge=1)
    speaker: str
    expires_at: float
    secret_digest: str | None = None


class SpokenWord(Message):
    """A word as the text writes it, and when it sounds, in milliseconds from the beginning of its piece's sound."""

    word: str
    start_ms: int = Field(ge=0)
    end_ms: int = Field(ge=0)


class SegmentInfo(Message):
    """What is known of one segment beside its PCM; it travels as JSON in the header `Callboard-Segment`.

    `piece` counts the spoken pieces of the text and `offset_bytes` is where the segment starts inside its piece, so
    that a worker that takes over continues exactly after the last segment. The last segment has `end`, and no PCM.
    `text` is what the piece says, in the first segment of each piece that is spoken in a room.
    `words` are those that begin in the segment, where the request asks for their times.
    `extensions` are the holds granted since the segment before, so that a worker that takes over settles them too.
    """

    attempt: int = Field(ge=1)
    piece: int = Field(ge=0)
    offset_bytes: int = Field(ge=0)
    piece_done: bool = False
    text: str = ""
    words: tuple[SpokenWord, ...] = ()
    extensions: tuple[Hold, ...] = Field(default=(), validation_alias=AliasChoices("extensions", "top_ups"))
    end: SpeechEnd | None = None


@dataclass(frozen=True, slots=True)
class AudioSegment:
    """Segment `n` of an utterance: what is known of it, and its PCM."""

    n: int
    info: SegmentInfo
    pcm: bytes


def order_of_segments(first: int = 0) -> AttemptOrder[AudioSegment]:
    """Puts the segments of one utterance in order, beginning with the number `first`."""
    return AttemptOrder(attrgetter("n"), attrgetter("info.attempt"), first)
