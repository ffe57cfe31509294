"""What Ollama's clients send and read. `null` for any field is the same as leaving it out."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from callboard_edge.http.bodies import AnswerBody
from callboard_edge.http.lenient import Flag, LenientBody, Number, Texts, Whole

MAX_MESSAGES = 2048
MAX_TOOLS = 128
MAX_IMAGES = 16
MAX_TOP_LOGPROBS = 20
LEVELS = ("low", "medium", "high")


def _role(value: Any) -> Any:
    return value.lower() if isinstance(value, str) else value


def _think(value: Any) -> Any:
    if value in (None, ""):
        return None
    if isinstance(value, bool) or value in LEVELS:
        return value
    raise ValueError("Input should be true, false, 'low', 'medium' or 'high'")


def _format(value: Any) -> Any:
    if value in (None, ""):
        return None
    if value == "json" or isinstance(value, dict):
        return value
    raise ValueError("Input should be 'json' or a JSON schema, which is an object")


def _keep_alive(value: Any) -> Any:
    if value is None or (isinstance(value, int | float) and not isinstance(value, bool)):
        return value
    if isinstance(value, str):
        return value
    raise ValueError("Input should be a number of seconds, or a duration such as '5m'")


Think = Annotated[bool | Literal["low", "medium", "high"] | None, BeforeValidator(_think)]
Format = Annotated[Literal["json"] | dict[str, Any] | None, BeforeValidator(_format)]
KeepAlive = Annotated[float | str | None, BeforeValidator(_keep_alive)]
Images = Annotated[list[str] | None, Field(max_length=MAX_IMAGES)]
TopLogprobs = Annotated[int, Field(ge=0, le=MAX_TOP_LOGPROBS)] | None


class AnyBody(LenientBody):
    """A request whose fields are not looked at."""


class Options(LenientBody):
    """How the next token is chosen and how much is written; all others of Ollama's options are ignored."""

    num_ctx: Whole = None
    num_predict: Whole = None
    seed: Whole = None
    stop: Texts = None
    temperature: Number = None
    top_k: Whole = None
    top_p: Number = None
    min_p: Number = None
    typical_p: Number = None
    tfs_z: Number = None
    repeat_last_n: Whole = None
    repeat_penalty: Number = None
    presence_penalty: Number = None
    frequency_penalty: Number = None
    mirostat: Whole = None
    mirostat_tau: Number = None
    mirostat_eta: Number = None


class CalledFunction(LenientBody):
    """A function that a message called; `arguments` is an object."""

    name: str
    arguments: dict[str, Any] | None = None


class ToolCallPart(LenientBody):
    """A call of a tool."""

    id: str | None = None
    function: CalledFunction


class Turn(LenientBody):
    """One message of a conversation; what has no text may be left out."""

    role: Annotated[Literal["system", "user", "assistant", "tool"], BeforeValidator(_role)]
    content: str | None = None
    thinking: str | None = None
    images: Images = None
    tool_calls: list[ToolCallPart] | None = Field(default=None, max_length=MAX_TOOLS)
    tool_name: str | None = None
    tool_call_id: str | None = None


class FunctionSpec(LenientBody):
    """A function that the model may call; `parameters` is a JSON schema of an object."""

    name: str = Field(pattern=r"^[A-Za-z0-9_.-]{1,64}$")
    description: str | None = None
    parameters: dict[str, Any] | None = None


class ToolSpec(LenientBody):
    """A tool that the model may call."""

    type: Literal["function"] | None = None
    function: FunctionSpec


class ModelBody(LenientBody):
    """A request about a model."""

    model: str | None = None
    options: Options | None = None
    keep_alive: KeepAlive = None

    @property
    def unloads(self) -> bool:
        """Whether the model is to be kept for no time at all."""
        kept = self.keep_alive
        if isinstance(kept, str):
            return "0" in kept and not any(digit in kept for digit in "123456789")
        return kept == 0


class TextBody(ModelBody):
    """What both text paths take."""

    stream: Flag = None
    think: Think = None
    format: Format = None
    truncate: Flag = None
    logprobs: Flag = None
    top_logprobs: TopLogprobs = None


class ChatBody(TextBody):
    """A request for a reply to a conversation; without messages it loads or unloads the model."""

    messages: list[Turn] | None = Field(default=None, max_length=MAX_MESSAGES)
    tools: list[ToolSpec] | None = Field(default=None, max_length=MAX_TOOLS)


class GenerateBody(TextBody):
    """A request for a reply to a prompt; without one it loads or unloads the model."""

    prompt: str | None = None
    suffix: str | None = None
    system: str | None = None
    template: str | None = None
    context: list[int] | None = None
    raw: Flag = None
    images: Images = None


class EmbedBody(ModelBody):
    """Texts to embed; without any it loads the model."""

    input: str | list[Any] | None = None
    truncate: Flag = None
    dimensions: Whole = None


class EmbeddingsBody(ModelBody):
    """A text to embed, as older clients send it."""

    prompt: str | None = None


class ShowBody(LenientBody):
    """Names a model; `name` is what older clients call it."""

    model: str | None = None
    name: str | None = None


class Details(AnswerBody):
    """What is known of a model; what nobody tells is empty."""

    parent_model: str
    format: str
    family: str
    families: list[str]
    parameter_size: str
    quantization_level: str


class ListedModel(AnswerBody):
    """A model on offer."""

    name: str
    model: str
    modified_at: str
    size: int
    digest: str
    details: Details


class ModelList(AnswerBody):
    """The models on offer."""

    models: list[ListedModel]


class RunningModel(ListedModel):
    """A model that a worker has loaded."""

    expires_at: str
    size_vram: int
    context_length: int


class RunningModels(AnswerBody):
    """The models that workers have loaded."""

    models: list[RunningModel]


class ShownModel(AnswerBody):
    """What is known of one model."""

    modelfile: str
    parameters: str
    template: str
    license: str
    details: Details
    model_info: dict[str, Any]
    capabilities: list[str]
    modified_at: str


class Version(AnswerBody):
    """The release of Ollama whose API this is."""

    version: str


class Called(AnswerBody):
    """A function that the model calls."""

    name: str
    arguments: dict[str, Any]


class CalledTool(AnswerBody):
    """A tool call of the model."""

    id: str
    function: Called


class ReplyMessage(AnswerBody):
    """The reply, or in a stream what has been added to it."""

    role: Literal["assistant"]
    content: str
    thinking: str | None = None
    tool_calls: list[CalledTool] | None = None


class TokenLogprobs(AnswerBody):
    """A token and its log probability; `bytes` are those of its text."""

    token: str
    logprob: float
    bytes: list[int]
    top_logprobs: list["TokenLogprobs"] | None = None


class ReplyAnswer(AnswerBody):
    """What both text paths give: the counters, in nanoseconds and tokens, come with the end."""

    model: str
    created_at: str
    done: bool
    done_reason: Literal["stop", "length", "load", "unload"] | None = None
    logprobs: list[TokenLogprobs] | None = None
    total_duration: int | None = None
    load_duration: int | None = None
    prompt_eval_count: int | None = None
    prompt_eval_duration: int | None = None
    eval_count: int | None = None
    eval_duration: int | None = None


class ChatAnswer(ReplyAnswer):
    """A reply to a conversation, or a piece of one."""

    message: ReplyMessage


class GenerateAnswer(ReplyAnswer):
    """A reply to a prompt, or a piece of one; `context` stands for the conversation in the next request."""

    response: str
    thinking: str | None = None
    context: list[int] | None = None


class EmbedAnswer(AnswerBody):
    """One vector for each text, in their order; times in nanoseconds, left out with the counts where there is none."""

    model: str
    embeddings: list[list[float]]
    total_duration: int | None = None
    load_duration: int | None = None
    prompt_eval_count: int | None = None


class EmbeddingsAnswer(AnswerBody):
    """The vector of the text."""

    embedding: list[float]
