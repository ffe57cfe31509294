"""What OpenAI's text paths take and give, as the API document shows it."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Discriminator, Field, Tag, WithJsonSchema

from callboard_edge.http.bodies import TAG, AnswerBody, Body, Whole, text_or_list
from callboard_edge.http.embedding_objects import EncodingFormat

MAX_STOPS = 4
MAX_MESSAGES = 2048
MAX_PARTS = 256
MAX_TOOLS = 128
MAX_BIASES = 1024
MAX_TOP_LOGPROBS = 20
LEAST_SEED, GREATEST_SEED = -(2**63), 2**63 - 1


def choice_kind(value: Any) -> str | None:
    """Tells a word from an object, as `text_or_list` does its forms."""
    if isinstance(value, str):
        return f"{TAG}word"
    return f"{TAG}object" if isinstance(value, dict) else None


class ImageUrl(Body):
    """Where an image lies; only data URLs are read."""

    url: str
    detail: str | None = None


class ContentPart(Body):
    """One part of a message's content: text, and images where the model reads them."""

    type: str
    text: str | None = None
    image_url: ImageUrl | None = None
    refusal: str | None = None


class FunctionCall(Body):
    """The function that an assistant's message called."""

    name: str
    arguments: str | None = None


class ToolCallPart(Body):
    """A call of a tool in an assistant's message."""

    id: str
    type: Literal["function"] | None = None
    function: FunctionCall


Content = Annotated[
    Annotated[str, Tag(f"{TAG}text")] | Annotated[list[ContentPart], Field(max_length=MAX_PARTS), Tag(f"{TAG}list")],
    Discriminator(
        text_or_list, custom_error_type="content", custom_error_message="Input should be a string or a list of parts"
    ),
]


def _voice_name(value: Any) -> Any:
    """A voice is named by a string, or by an object that holds nothing but its id."""
    if isinstance(value, dict) and isinstance(value.get("id"), str):
        return value["id"]
    return value


_VOICE_SCHEMA = {
    "anyOf": [
        {"type": "string"},
        {"type": "object", "properties": {"id": {"type": "string"}}, "required": ["id"]},
        {"type": "null"},
    ],
    "description": "A voice, a blend such as `af_bella(2)+af_sky(1)`, or left out for the model's default voice.",
}
VoiceName = Annotated[str | None, BeforeValidator(_voice_name), WithJsonSchema(_VOICE_SCHEMA)]


class AudioReference(Body):
    """The audio of an earlier reply, whose transcript stands for it."""

    id: str


class ChatTurn(Body):
    """One message of a conversation; `audio` may stand for the text of an assistant's."""

    role: Literal["developer", "system", "user", "assistant", "tool", "function"]
    content: Content | None = None
    name: str | None = None
    tool_calls: list[ToolCallPart] | None = Field(default=None, max_length=MAX_TOOLS)
    tool_call_id: str | None = None
    audio: AudioReference | None = None


class FunctionSpec(Body):
    """A function that the model may call; `parameters` is a JSON schema of an object, left out where there are none."""

    name: str = Field(pattern=r"^[A-Za-z0-9_.-]{1,64}$")
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class ToolSpec(Body):
    """A tool that the model may call."""

    type: Literal["function"]
    function: FunctionSpec


class ChosenFunction(Body):
    """The name of a function."""

    name: str


class ChosenTool(Body):
    """The one tool that the model must call."""

    type: Literal["function"]
    function: ChosenFunction


ToolChoice = Annotated[
    Annotated[Literal["none", "auto", "required"], Tag(f"{TAG}word")] | Annotated[ChosenTool, Tag(f"{TAG}object")],
    Discriminator(
        choice_kind,
        custom_error_type="tool_choice",
        custom_error_message="Input should be 'none', 'auto', 'required' or an object",
    ),
]


class JsonSchema(Body):
    """A named JSON schema that the reply must satisfy."""

    name: str = Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")
    description: str | None = None
    schema_: dict[str, Any] | None = Field(default=None, alias="schema")
    strict: bool | None = None


class ResponseFormat(Body):
    """The shape of the reply; `schema` beside the type, without a name, is what other servers take."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None
    schema_: dict[str, Any] | None = Field(default=None, alias="schema")


class StreamOptions(Body):
    """What a streamed reply brings beside the text."""

    include_usage: bool | None = None


def _name(value: Any) -> str | None:
    """Programs put many things here, and what is no name is none."""
    return value if isinstance(value, str) else None


UserName = Annotated[
    str | None,
    BeforeValidator(_name),
    WithJsonSchema({"type": ["string", "null"], "description": "Who speaks to a character, which remembers each."}),
]
Stop = Annotated[
    Annotated[str, Tag(f"{TAG}text")] | Annotated[list[str], Field(max_length=MAX_STOPS), Tag(f"{TAG}list")],
    Discriminator(
        text_or_list, custom_error_type="stop", custom_error_message="Input should be a string or a list of strings"
    ),
]


class SamplingBody(Body):
    """The sampling fields of both text paths; those beyond OpenAI's own are what other servers take too."""

    model: str | None = None
    temperature: float | None = Field(default=None, ge=0, le=2)
    top_p: float | None = Field(default=None, ge=0, le=1)
    top_k: Whole | None = Field(default=None, ge=-1)
    min_p: float | None = Field(default=None, ge=0, le=1)
    presence_penalty: float | None = Field(default=None, ge=-2, le=2)
    frequency_penalty: float | None = Field(default=None, ge=-2, le=2)
    repetition_penalty: float | None = Field(default=None, gt=0, le=10)
    seed: Whole | None = Field(default=None, ge=LEAST_SEED, le=GREATEST_SEED)
    stop: Stop | None = None
    logit_bias: dict[str, Annotated[float, Field(ge=-100, le=100)]] | None = Field(default=None, max_length=MAX_BIASES)
    n: Whole | None = Field(default=None, ge=1, le=128)
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: Whole | None = Field(default=None, ge=1)
    user: UserName = None


class AudioOutput(Body):
    """How a reply is spoken; `model` is a speech model, left out for the site's default or its first.

    With `["word"]` in `timestamp_granularities` the reply says when each of its words is heard.
    """

    voice: VoiceName = None
    format: Literal["wav", "aac", "mp3", "flac", "opus", "pcm16"]
    model: str | None = None
    speed: float | None = Field(default=None, ge=0.25, le=4.0)
    timestamp_granularities: list[Literal["word"]] | None = Field(default=None, max_length=1)


class ChatFields(Body):
    """What is asked of a reply to a conversation, whatever kind of server the client was written for."""

    messages: list[ChatTurn] = Field(min_length=1, max_length=MAX_MESSAGES)
    response_format: ResponseFormat | None = None
    tools: list[ToolSpec] | None = Field(default=None, max_length=MAX_TOOLS)
    tool_choice: ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    prompt_cache_key: str | None = None
    safety_identifier: UserName = None
    functions: list[Any] | None = None
    modalities: list[Literal["text", "audio"]] | None = Field(default=None, max_length=2)
    audio: AudioOutput | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None


class ChatCompletionBody(ChatFields, SamplingBody):
    """A request for a reply to a conversation."""

    max_completion_tokens: Whole | None = Field(default=None, ge=1)
    logprobs: bool | None = None
    top_logprobs: Whole | None = Field(default=None, ge=0, le=MAX_TOP_LOGPROBS)


Prompt = Annotated[
    Annotated[str, Tag(f"{TAG}text")] | Annotated[list[Any], Tag(f"{TAG}list")],
    Discriminator(text_or_list, custom_error_type="prompt", custom_error_message="Input should be a string or a list"),
]


class CompletionBody(SamplingBody):
    """A request for the continuation of a text, or of each of several texts."""

    prompt: Prompt
    logprobs: Whole | None = Field(default=None, ge=0, le=5)
    echo: bool | None = None
    suffix: str | None = None
    best_of: Whole | None = Field(default=None, ge=1, le=20)


class EmbeddingBody(Body):
    """A request for the vectors of a text, or of each of several texts."""

    model: str | None = None
    input: Prompt
    encoding_format: EncodingFormat | None = None
    dimensions: Whole | None = Field(default=None, ge=1)
    truncate: bool | None = None
    user: str | None = None


class PromptTokensDetails(AnswerBody):
    """What is known of the prompt's tokens."""

    cached_tokens: int


class CompletionTokensDetails(AnswerBody):
    """The tokens of the model's reasoning; of a spoken reply also those of its text and what its audio counts as."""

    reasoning_tokens: int
    text_tokens: int | None = None
    audio_tokens: int | None = None


class Usage(AnswerBody):
    """Exact token counts; those of a spoken reply include its audio."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails
    completion_tokens_details: CompletionTokensDetails


class CalledFunction(AnswerBody):
    """The function that the model calls; `arguments` is JSON that satisfies the function's parameters."""

    name: str
    arguments: str


class CalledTool(AnswerBody):
    """A tool call of the model."""

    id: str
    type: Literal["function"]
    function: CalledFunction


class SpokenWordObject(AnswerBody):
    """A word, and when it is heard, in seconds."""

    word: str
    start: float
    end: float


class SpokenAudio(AnswerBody):
    """The sound of a reply, as base64; until `expires_at` a later message may name it by its id.

    `words` is left out unless it was asked for.
    """

    id: str
    data: str
    expires_at: int
    transcript: str
    words: list[SpokenWordObject] = Field(default_factory=list)


class AssistantMessage(AnswerBody):
    """The reply's message."""

    role: Literal["assistant"] = "assistant"
    content: str | None
    refusal: str | None = None
    reasoning_content: str | None = None
    tool_calls: list[CalledTool] | None = None
    audio: SpokenAudio | None = None


class AlternativeToken(AnswerBody):
    """A token that might have come, and its log probability; `bytes` are null where it is a part of a character."""

    token: str
    logprob: float
    bytes: list[int] | None


class ScoredToken(AlternativeToken):
    """A token of a reply, and the likeliest in its place."""

    top_logprobs: list[AlternativeToken]


class ChatLogprobs(AnswerBody):
    """The log probabilities of a reply's tokens."""

    content: list[ScoredToken]
    refusal: list[ScoredToken] | None = None


class CompletionLogprobs(AnswerBody):
    """The log probabilities of a continuation's tokens; offsets are in characters of the continuation."""

    tokens: list[str]
    token_logprobs: list[float]
    top_logprobs: list[dict[str, float]] | None
    text_offset: list[int]


class ChatChoice(AnswerBody):
    """One of the choices of a reply."""

    index: int
    message: AssistantMessage
    logprobs: ChatLogprobs | None
    finish_reason: Literal["stop", "length", "tool_calls"]


class ChatCompletion(AnswerBody):
    """A whole reply."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[ChatChoice]
    usage: Usage


class CompletionChoice(AnswerBody):
    """A continuation; each prompt has as many as were asked for, one after another."""

    index: int
    text: str
    logprobs: CompletionLogprobs | None
    finish_reason: Literal["stop", "length"]


class Completion(AnswerBody):
    """A whole continuation."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    choices: list[CompletionChoice]
    usage: Usage
