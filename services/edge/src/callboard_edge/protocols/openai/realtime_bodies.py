"""What clients of `/v1/realtime` send, in the names of today's protocol and of its beta alike."""

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag

from callboard_contracts.transcription import MAX_PROMPT_CHARACTERS
from callboard_edge.http.bodies import TAG, Body, Whole
from callboard_edge.http.transcription_bodies import Language
from callboard_edge.protocols.openai.bodies import MAX_PARTS, MAX_TOOLS, choice_kind
from callboard_edge.protocols.openai.responses_bodies import MAX_METADATA, ResponseTool

MAX_INPUT_ITEMS = 256
ItemId = Annotated[str, Field(min_length=1, max_length=64)]
Tokens = Annotated[int, Field(ge=1)] | Literal["inf"]
Modalities = list[Literal["text", "audio"]]
BetaFormat = Literal["pcm16", "g711_ulaw", "g711_alaw"]


class ClientEvent(Body):
    """What every event has."""

    type: str = Field(max_length=128)
    event_id: str | None = Field(default=None, max_length=512)


class FormatBody(Body):
    """The form of a sound."""

    type: Literal["audio/pcm", "audio/pcmu", "audio/pcma"]
    rate: Whole | None = None


class TranscriptionBody(Body):
    """How what is said is written down."""

    model: str | None = None
    language: Language = None
    prompt: str | None = Field(default=None, max_length=MAX_PROMPT_CHARACTERS)


class TurnDetectionBody(Body):
    """How the end of a turn is found; without a meaning to go by, `eagerness` is a length of silence."""

    type: Literal["server_vad", "semantic_vad"]
    threshold: float | None = Field(default=None, ge=0, le=1)
    prefix_padding_ms: Whole | None = Field(default=None, ge=0, le=5000)
    silence_duration_ms: Whole | None = Field(default=None, ge=20, le=10_000)
    create_response: bool | None = None
    interrupt_response: bool | None = None
    eagerness: Literal["low", "medium", "high", "auto"] | None = None


class InputBody(Body):
    """What is heard."""

    format: FormatBody | None = None
    transcription: TranscriptionBody | None = None
    turn_detection: TurnDetectionBody | None = None


class VoiceBody(Body):
    """A voice by its id."""

    id: str


class OutputBody(Body):
    """What is spoken."""

    format: FormatBody | None = None
    voice: str | VoiceBody | None = None
    speed: float | None = Field(default=None, ge=0.25, le=1.5)


class AudioBody(Body):
    """What is heard and spoken."""

    input: InputBody | None = None
    output: OutputBody | None = None


class NamedFunction(Body):
    """A function by its name."""

    name: str


class ChosenFunction(Body):
    """The one function that the model must call; clients of the beta name it in an object of its own."""

    type: str
    name: str | None = None
    function: NamedFunction | None = None


ToolChoice = Annotated[
    Annotated[str, Field(max_length=64), Tag(f"{TAG}word")] | Annotated[ChosenFunction, Tag(f"{TAG}object")],
    Discriminator(
        choice_kind,
        custom_error_type="tool_choice",
        custom_error_message="Input should be 'none', 'auto', 'required', the name of a function or an object",
    ),
]


class SettingsBody(Body):
    """What a session and a single response have in common."""

    instructions: str | None = None
    output_modalities: Modalities | None = None
    modalities: Modalities | None = None
    audio: AudioBody | None = None
    voice: str | None = None
    output_audio_format: BetaFormat | None = None
    tools: list[ResponseTool] | None = Field(default=None, max_length=MAX_TOOLS)
    tool_choice: ToolChoice | None = None
    temperature: float | None = Field(default=None, ge=0, le=2)
    max_output_tokens: Tokens | None = None
    max_response_output_tokens: Tokens | None = None


class SessionBody(SettingsBody):
    """What a client sets for its session; what it leaves out stays as it is."""

    type: str | None = None
    model: str | None = None
    speed: float | None = Field(default=None, ge=0.25, le=1.5)
    input_audio_format: BetaFormat | None = None
    input_audio_transcription: TranscriptionBody | None = None
    turn_detection: TurnDetectionBody | None = None


class ItemPart(Body):
    """One part of a message."""

    type: str
    text: str | None = None
    audio: str | None = None
    transcript: str | None = None


class ItemBody(Body):
    """One item of a conversation, or a reference to one."""

    type: Literal["message", "function_call", "function_call_output", "item_reference"]
    id: ItemId | None = None
    role: Literal["user", "assistant", "system"] | None = None
    content: list[ItemPart] | None = Field(default=None, max_length=MAX_PARTS)
    call_id: str | None = Field(default=None, max_length=256)
    name: str | None = Field(default=None, max_length=64)
    arguments: str | None = None
    output: str | None = None


class ResponseBody(SettingsBody):
    """What a client sets for one response over what the session has."""

    conversation: str | None = None
    input: list[ItemBody] | None = Field(default=None, max_length=MAX_INPUT_ITEMS)
    metadata: dict[str, str] | None = Field(default=None, max_length=MAX_METADATA)


class SessionUpdate(ClientEvent):
    """Changes the session's settings."""

    session: SessionBody


class ItemCreate(ClientEvent):
    """Puts an item into the conversation, at its end or after another; `root` stands for its beginning."""

    item: ItemBody
    previous_item_id: str | None = None


class ItemNamed(ClientEvent):
    """Reads or deletes an item."""

    item_id: str


class ItemTruncate(ClientEvent):
    """Says how much of a spoken answer was heard."""

    item_id: str
    content_index: Whole = Field(ge=0)
    audio_end_ms: Whole = Field(ge=0)


class AudioAppend(ClientEvent):
    """Brings more sound."""

    audio: str


class ResponseCreate(ClientEvent):
    """Asks for an answer."""

    response: ResponseBody | None = None


class ResponseCancel(ClientEvent):
    """Stops an answer."""

    response_id: str | None = None


EVENTS: dict[str, type[ClientEvent]] = {
    "session.update": SessionUpdate,
    "conversation.item.create": ItemCreate,
    "conversation.item.retrieve": ItemNamed,
    "conversation.item.delete": ItemNamed,
    "conversation.item.truncate": ItemTruncate,
    "input_audio_buffer.append": AudioAppend,
    "input_audio_buffer.commit": ClientEvent,
    "input_audio_buffer.clear": ClientEvent,
    "response.create": ResponseCreate,
    "response.cancel": ResponseCancel,
}
"""The events that are served."""

EventObject = dict[str, Any]
