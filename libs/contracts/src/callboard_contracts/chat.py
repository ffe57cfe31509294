"""Chat jobs, the frames that stream back, and the result that stays for polling clients."""

from operator import attrgetter
from typing import Any, Literal

from pydantic import Field

from callboard_contracts.errors import ErrorInfo
from callboard_contracts.jobs import Job
from callboard_contracts.kudos import KudosTerms
from callboard_contracts.model import Message
from callboard_contracts.ordering import AttemptOrder
from callboard_contracts.quota import Work
from callboard_contracts.volunteers import ServedBy, VolunteerTerms

Role = Literal["system", "user", "assistant", "tool"]
EndReason = Literal["stop", "length", "tool_calls", "cancelled", "error"]
_seq, _attempt = attrgetter("seq"), attrgetter("attempt")
Mode = Literal["chat", "completion"]


class ToolCall(Message):
    """A function that the model asks its caller to run; `arguments` is JSON text as the model wrote it."""

    id: str
    name: str
    arguments: str


class Image(Message):
    """A picture in a message, as base64 of its file."""

    media_type: str
    data: str


class ChatMessage(Message):
    """One turn of a conversation."""

    role: Role
    content: str = ""
    thinking: str = ""
    images: tuple[Image, ...] = ()
    name: str | None = None
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = None


SamplerName = Literal["repetition_penalty", "top_k", "top_a", "top_p", "tfs", "typical_p", "temperature"]
KOBOLD_SAMPLERS: tuple[SamplerName, ...] = (
    "top_k",
    "top_a",
    "top_p",
    "tfs",
    "typical_p",
    "temperature",
    "repetition_penalty",
)
"""By the numbers that KoboldAI and KoboldCpp know them by."""


class Sampling(Message):
    """How the next token is chosen; a field left out means the engine's own default.

    No engine honours every field: each backend declares those that it does, and the reference lists them. Ranges that
    count tokens are looked back over; 0 is off and -1 is the whole context.
    """

    temperature: float | None = Field(default=None, ge=0, le=100)
    dynatemp_range: float | None = Field(default=None, ge=0, le=100)
    dynatemp_exponent: float | None = Field(default=None, ge=0, le=100)
    smoothing_factor: float | None = Field(default=None, ge=0, le=100)
    smoothing_curve: float | None = Field(default=None, ge=0, le=100)
    top_k: int | None = Field(default=None, ge=-1)
    top_p: float | None = Field(default=None, ge=0, le=1)
    min_p: float | None = Field(default=None, ge=0, le=1)
    top_a: float | None = Field(default=None, ge=0, le=1)
    typical_p: float | None = Field(default=None, ge=0, le=1)
    tfs: float | None = Field(default=None, ge=0, le=1)
    top_n_sigma: float | None = Field(default=None, ge=-1, le=100)
    epsilon_cutoff: float | None = Field(default=None, ge=0, le=1000)
    eta_cutoff: float | None = Field(default=None, ge=0, le=1000)
    xtc_threshold: float | None = Field(default=None, ge=0, le=1)
    xtc_probability: float | None = Field(default=None, ge=0, le=1)
    adaptive_target: float | None = Field(default=None, ge=-1, le=1)
    adaptive_decay: float | None = Field(default=None, ge=0, le=1)
    mirostat: Literal[0, 1, 2] | None = None
    mirostat_tau: float | None = Field(default=None, ge=0, le=100)
    mirostat_eta: float | None = Field(default=None, ge=0, le=100)
    presence_penalty: float | None = Field(default=None, ge=-2, le=2)
    frequency_penalty: float | None = Field(default=None, ge=-2, le=2)
    repetition_penalty: float | None = Field(default=None, gt=0, le=10)
    repetition_range: int | None = Field(default=None, ge=-1)
    repetition_slope: float | None = Field(default=None, ge=0, le=100)
    no_repeat_ngram_size: int | None = Field(default=None, ge=0, le=1000)
    dry_multiplier: float | None = Field(default=None, ge=0, le=100)
    dry_base: float | None = Field(default=None, ge=0, le=100)
    dry_allowed_length: int | None = Field(default=None, ge=0)
    dry_range: int | None = Field(default=None, ge=-1)
    dry_sequence_breakers: tuple[str, ...] | None = Field(default=None, max_length=128)
    sampler_order: tuple[SamplerName, ...] | None = Field(default=None, max_length=7)
    seed: int | None = None
    stop: tuple[str, ...] = ()
    logit_bias: dict[str, float] | None = None
    """By token id."""
    banned_token_ids: tuple[int, ...] = Field(default=(), max_length=1024)
    banned_texts: tuple[str, ...] = Field(default=(), max_length=1024)
    min_output_tokens: int | None = Field(default=None, ge=0)
    ban_end_token: bool = False
    """Whether the model may not end its reply by itself."""


MAX_GRAMMAR_SYMBOLS = 10_000
MAX_LEXER_FUEL = 200_000
MAX_LEXER_STATES = 50_000
"""How complex the grammar of an output format may be, in llguidance's measures: a few milliseconds to build, and for an
engine to keep to."""


class OutputFormat(Message):
    """What shape the reply must have; `json_schema` and `grammar` are set only for the kinds of those names.

    A grammar is written in GBNF. A schema is one of draft 2020-12 whose references stay within its own `$defs`, and
    `strict` is what the client said of it.
    """

    kind: Literal["text", "json_object", "json_schema", "grammar"] = "text"
    json_schema: dict[str, Any] | None = None
    grammar: str | None = None
    name: str | None = None
    strict: bool | None = None


class Thinking(Message):
    """Whether a model that can reason first does so; a field left out means the model's own way.

    `budget_tokens` bounds the reasoning, `effort` leaves the bound to the engine.
    """

    enabled: bool | None = None
    budget_tokens: int | None = Field(default=None, ge=0)
    effort: Literal["minimal", "low", "medium", "high"] | None = None


class Tool(Message):
    """A function offered to the model; `parameters` is its JSON schema.

    With `strict` a schema that the engine cannot follow to the letter is refused.
    """

    name: str
    description: str = ""
    parameters: dict[str, Any] = Field(default_factory=dict)
    strict: bool | None = None


PromptFormat = Literal["own", "chatml", "alpaca", "metharme", "pygmalion"]
"""How turns are written in a prompt: as the model's own chat template has it, or in a form that others agreed on."""
Overflow = Literal["refuse", "drop_front"]


class RoomTurn(Message):
    """A turn of a conversation that a room keeps."""

    room: str
    turn: str


class ChatRequest(Message):
    """What the engine is asked, whatever protocol the client spoke.

    Exactly one of `messages` (mode `chat`) and `prompt` (mode `completion`) counts. A worker never lets a reply grow
    past `max_output_tokens`.
    """

    mode: Mode = "chat"
    model: str
    messages: tuple[ChatMessage, ...] = ()
    prompt: str = ""
    memory: str = ""
    """In mode `completion`: text that stands before the prompt, and that stays whole where the prompt is cut."""
    overflow: Overflow = "refuse"
    """What becomes of a prompt that leaves no room for the reply in the context: it is refused, or loses its front."""
    context_tokens: int | None = Field(default=None, ge=1)
    """The most that memory, prompt and reply may have together, within the model's own context."""
    prompt_format: PromptFormat | None = None
    """How turns are written; left out, as the model is configured."""
    turn_tags: bool = False
    """Whether `{{[INPUT]}}` and its like in prompt, memory and stop sequences stand for the prompt format's own."""
    sampling: Sampling = Sampling()
    max_output_tokens: int = Field(ge=1)
    output_format: OutputFormat = OutputFormat()
    tools: tuple[Tool, ...] = ()
    tool_choice: str = "auto"
    """`auto`, `none`, `required`, or the name of the one function to call."""
    parallel_tool_calls: bool | None = None
    """Whether one reply may have several tool calls; left out, as the engine has it."""
    thinking: Thinking = Thinking()
    top_logprobs: int | None = Field(default=None, ge=0, le=20)
    """How many alternatives come with each token's log probability; left out, no log probabilities are wanted."""
    turn: RoomTurn | None = None
    """The turn of a room that the reply belongs to."""
    prompt_cache_key: str | None = None
    """The client's word for prompts that begin alike; left out, the beginning of the dialogue tells."""
    preferred_worker: str | None = None
    """The id of the worker that prompts which begin like this one go to while it has room."""
    speaker: str = ""
    """Who says the last message to a character, by the name that the client gives; left out, nobody is remembered."""
    message_id: str = ""
    """The client's own id of the last message, by which a character's memory knows a repeat."""
    volunteers: VolunteerTerms | None = None
    """What is asked of volunteers, where they write the reply."""

    @property
    def has_images(self) -> bool:
        """Whether a message brings pictures."""
        for message in self.messages:  # noqa: SIM110 - a generator would be another call for each message
            if message.images:
                return True
        return False


class ChatJob(Job):
    """A chat request in a work queue.

    `held` is what the hold was reckoned for where the worker is to extend it; left out, it holds the most that the
    reply can cost. `kudos` is set where the reply costs some, if only its requester has them.
    """

    request: ChatRequest
    held: Work | None = None
    kudos: KudosTerms | None = None

    @property
    def preferred_worker(self) -> str | None:
        """The id of the worker that has read the beginning of the prompt before, where one is preferred."""
        return self.request.preferred_worker

    @property
    def has_listening_edge(self) -> bool:
        """Whether the edge says that it waits; the reply of a room's turn is read through any edge."""
        return self.request.turn is None


class TokenUsage(Message):
    """Token counts as the engine's tokenizer counts them.

    Cached tokens are part of the prompt's, and those of thinking part of the completion's.
    """

    prompt_tokens: int = Field(default=0, ge=0)
    completion_tokens: int = Field(default=0, ge=0)
    cached_prompt_tokens: int = Field(default=0, ge=0)
    thinking_tokens: int = Field(default=0, ge=0)


class PhaseDurations(Message):
    """How long the phases of a reply took, in seconds; None where nobody measured it."""

    queue_s: float | None = Field(default=None, ge=0)
    load_s: float | None = Field(default=None, ge=0)
    prompt_s: float | None = Field(default=None, ge=0)
    generate_s: float | None = Field(default=None, ge=0)


class TokenLogprob(Message):
    """One token and its log probability; `top` are the likeliest tokens in its place.

    `bytes` is set where they are no whole characters, so that `token` does not tell them.
    """

    token: str
    token_id: int | None = None
    logprob: float
    bytes: tuple[int, ...] | None = None
    top: tuple["TokenLogprob", ...] = ()


class ChatEnd(Message):
    """Why a reply ended and what it used; `error` is set exactly when the reason is `error`.

    `stop_sequence` is the one that ended the reply, where one did; `served_by` is the volunteer who wrote it.
    `restarts` is how often it was begun again or gone on with, after a worker was lost, an engine broke off or a
    volunteer failed.
    """

    reason: EndReason
    usage: TokenUsage = TokenUsage()
    durations: PhaseDurations = PhaseDurations()
    stop_sequence: str | None = None
    error: ErrorInfo | None = None
    served_by: ServedBy | None = None
    restarts: int = Field(default=0, ge=0)


class ChatFrame(Message):
    """A piece of a reply on `out.<edge>.<request>`.

    `seq` counts from 0 without gaps over all attempts; `attempt` is the delivery that wrote the frame; `tokens` is
    how many engine tokens the frame stands for, and `thinking_tokens` how many of them are reasoning. `thinking` is
    the model's reasoning, never part of `text`. `restarts` is how often the reply was begun again so far, for those who
    poll; a frame may tell that alone, and is `silent` where nothing of the reply was said yet. The last frame has
    `end`.
    """

    seq: int = Field(ge=0)
    attempt: int = Field(ge=1)
    text: str = ""
    thinking: str = ""
    tokens: int = Field(default=0, ge=0)
    thinking_tokens: int = Field(default=0, ge=0)
    tool_calls: tuple[ToolCall, ...] = ()
    logprobs: tuple[TokenLogprob, ...] = ()
    restarts: int = Field(default=0, ge=0)
    silent: bool = False
    end: ChatEnd | None = None

    @property
    def says_something(self) -> bool:
        """Whether it brings a part of the reply."""
        return bool(self.text or self.thinking or self.tokens or self.tool_calls)


class ChatResult(Message):
    """The whole reply, kept in RESULT for clients that poll and for an edge that missed frames.

    `kudos` are what its requester pays for it, in thousandths.
    """

    request_id: str
    model: str
    text: str
    thinking: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    logprobs: tuple[TokenLogprob, ...] = ()
    kudos: int = Field(default=0, ge=0)
    end: ChatEnd


def order_of_frames(first: int = 0) -> AttemptOrder[ChatFrame]:
    """Puts the frames of one reply in order, beginning with the number `first`."""
    return AttemptOrder(_seq, _attempt, first)
