"""What the characters' paths take and give, as the API document shows it."""

from typing import Annotated, Literal

from pydantic import Field

from callboard_contracts.characters import MAX_SPEAKER_CHARACTERS
from callboard_contracts.rooms import MAX_MESSAGE_BYTES
from callboard_edge.http.bodies import AnswerBody, Body, Whole
from callboard_edge.media.formats import AudioFormat

Speaker = Annotated[str, Field(max_length=4 * MAX_SPEAKER_CHARACTERS)]


class SpeechOutput(Body):
    """How a reply is spoken; left out, with the character's own voice."""

    format: AudioFormat | None = None
    voice: str | None = None
    model: str | None = None
    speed: float | None = Field(default=None, ge=0.25, le=4.0)


class MessageBody(Body):
    """What somebody says to a character.

    With a `speaker` the character remembers both the text and its reply; without, it remembers nothing. `message_id` is
    the client's own: a message that is sent again under it gets the same reply and is said once.
    """

    text: str = Field(min_length=1, max_length=MAX_MESSAGE_BYTES)
    speaker: Speaker | None = None
    message_id: Annotated[str, Field(max_length=128)] | None = None
    stream: bool | None = None
    max_tokens: Whole | None = Field(default=None, ge=1)
    temperature: float | None = Field(default=None, ge=0, le=2)
    speech: SpeechOutput | None = None


class MemoryQuery(Body):
    """Whose memory is meant."""

    speaker: Speaker = Field(min_length=1)


class CharacterObject(AnswerBody):
    """A character; `model` is what it is called where a model or a voice is named, by every protocol."""

    name: str
    model: str
    display_name: str
    desc: str
    greeting: str
    greetings: list[str]
    voice: str | None
    memory_messages: int


class CharacterList(AnswerBody):
    """The characters on offer."""

    characters: list[CharacterObject]


class UsageObject(AnswerBody):
    """Exact token counts."""

    prompt_tokens: int
    completion_tokens: int


class SoundObject(AnswerBody):
    """The sound of a reply, as base64."""

    format: str
    data: str


class MessageAnswer(AnswerBody):
    """A whole reply."""

    id: str
    character: str
    speaker: str
    text: str
    finish_reason: Literal["stop", "length", "tool_calls"]
    usage: UsageObject
    audio: SoundObject | None = None


class MemoryMessage(AnswerBody):
    """A line that a character remembers; `at` is a Unix time in seconds."""

    role: Literal["user", "assistant"]
    speaker: str
    text: str
    at: float


class MemoryObject(AnswerBody):
    """What a character remembers of a speaker, the oldest line first; `waiting` counts lines that are not answered."""

    character: str
    speaker: str
    messages: list[MemoryMessage]
    waiting: int


class ForgottenObject(AnswerBody):
    """Whether there was something to forget."""

    forgotten: bool
