"""Chat jobs, the frames that stream back, and the result that stays for polling clients."""

from typing import Any, Literal

from pydantic import Field

from callboard_contracts.errors import ErrorInfo
from callboard_contracts.model import Message
from callboard_contracts.quota import Hold

Role = Literal["system", "user", "assistant", "tool"]
EndReason = Literal["stop", "length", "tool_calls", "cancelled", "error"]
Mode = Literal["chat", "completion"]


class ToolCall(Message):
    """A function that the model asks its caller to run; `arguments` is JSON text as the model wrote it."""

    id: str
    name: str
    arguments: str


class ChatMessage(Message):
    """One turn of a conversation."""

    role: Role
    content: str = ""
    name: str | None = None
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = None


class Sampling(Message):
    """How the next token is chosen; a field left out means the engine's own default."""

    temperature: float | None = Field(default=None, ge=0, le=100)
    top_p: float | None = Field(default=None, ge=0, le=1)
    top_k: int | None = Field(default=None, ge=-1)
    min_p: float | None = Field(default=None, ge=0, le=1)
    presence_penalty: float | None = Field(default=None, ge=-2, le=2)
    frequency_penalty: float | None = Field(default=None, ge=-2, le=2)
    repetition_penalty: float | None = Field(default=None, gt=0, le=10)
    seed: int | None = None
    stop: tuple[str, ...] = ()
    logit_bias: dict[str, float] | None = None


class OutputFormat(Message):
    """What shape the reply must have; `json_schema` is set only for the kind of that name."""

    kind: Literal["text", "json_object", "json_schema"] = "text"
    json_schema: dict[str, Any] | None = None
    name: str | None = None


class Tool(Message):
    """A function offered to the model; `parameters` is its JSON schema."""

    name: str
    description: str = ""
    parameters: dict[str, Any] = Field(default_factory=dict)


class ChatRequest(Message):
    """What the engine is asked, whatever protocol the client spoke.

    Exactly one of `messages` (mode `chat`) and `prompt` (mode `completion`) counts. `max_output_tokens` is what the
    quota holds, so a worker never lets a reply grow past it.
    """

    mode: Mode = "chat"
    model: str
    messages: tuple[ChatMessage, ...] = ()
    prompt: str = ""
    sampling: Sampling = Sampling()
    max_output_tokens: int = Field(ge=1)
    output_format: OutputFormat = OutputFormat()
    tools: tuple[Tool, ...] = ()
    tool_choice: str = "auto"
    """`auto`, `none`, `required`, or the name of the one function to call."""


class ChatJob(Message):
    """A chat request on the board; times are Unix seconds."""

    version: Literal[1] = 1
    request_id: str
    edge: str
    tenant: str
    request: ChatRequest
    hold: Hold | None
    created_at: float
    deadline_at: float


class TokenUsage(Message):
    """Token counts as the engine's tokenizer counts them."""

    prompt_tokens: int = Field(default=0, ge=0)
    completion_tokens: int = Field(default=0, ge=0)


class ChatEnd(Message):
    """Why a reply ended and what it used; `error` is set exactly when the reason is `error`."""

    reason: EndReason
    usage: TokenUsage = TokenUsage()
    error: ErrorInfo | None = None


class ChatFrame(Message):
    """A piece of a reply on `out.<edge>.<request>`.

    `seq` counts from 0 without gaps over all attempts; `attempt` is the delivery that wrote the frame; `tokens` is
    how many engine tokens the frame stands for. `thinking` is the model's reasoning, never part of `text`. The last
    frame has `end`.
    """

    seq: int = Field(ge=0)
    attempt: int = Field(ge=1)
    text: str = ""
    thinking: str = ""
    tokens: int = Field(default=0, ge=0)
    tool_calls: tuple[ToolCall, ...] = ()
    end: ChatEnd | None = None


class ChatResult(Message):
    """The whole reply, kept in RESULT for clients that poll and for an edge that missed frames."""

    request_id: str
    model: str
    text: str
    thinking: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    end: ChatEnd


class InterestRequest(Message):
    """A worker asks an edge whether anybody still waits for a request; `resume` asks for what arrived so far too."""

    attempt: int
    resume: bool = False


class InterestReply(Message):
    """The edge's answer to a worker.

    `open` is false when nobody waits any more; `attempt` is the highest attempt seen, so a worker that was given up
    for dead learns that another one took over. The rest is filled in only for a resuming worker.
    """

    open: bool
    attempt: int = 0
    next_seq: int = 0
    text: str = ""
    thinking: str = ""
    tokens: int = 0
