"""What Anthropic's paths take and give, as the API document shows it."""

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag

from callboard_edge.http.bodies import TAG, AnswerBody, Body, Whole, text_or_list

MAX_MESSAGES = 2048
MAX_BLOCKS = 256
MAX_TOOLS = 128
MAX_STOPS = 256
LEAST_SEED, GREATEST_SEED = -(2**63), 2**63 - 1


class Source(Body):
    """Where an image or a document comes from; only what is sent along is read."""

    type: str
    media_type: str | None = None
    data: str | None = None


class Block(Body):
    """One block of a content; its type says which of the other fields count."""

    type: str
    text: str | None = None
    source: Source | None = None
    title: str | None = None
    thinking: str | None = None
    id: str | None = None
    name: str | None = None
    input: dict[str, Any] | None = None
    tool_use_id: str | None = None
    content: "Content | None" = None
    is_error: bool | None = None


Content = Annotated[
    Annotated[str, Tag(f"{TAG}text")] | Annotated[list[Block], Field(max_length=MAX_BLOCKS), Tag(f"{TAG}list")],
    Discriminator(
        text_or_list, custom_error_type="content", custom_error_message="Input should be a string or a list of blocks"
    ),
]


class Turn(Body):
    """One message of a conversation."""

    role: Literal["user", "assistant", "system"]
    content: Content


class ToolDefinition(Body):
    """A tool that the model may call; `input_schema` is the JSON schema of an object."""

    type: str | None = None
    name: str = Field(pattern=r"^[A-Za-z0-9_.-]{1,128}$")
    description: str | None = None
    input_schema: dict[str, Any] | None = None
    strict: bool | None = None


class ToolUseChoice(Body):
    """Whether the model may, must or must not call a tool; `name` is that of the one to call."""

    type: Literal["auto", "any", "tool", "none"]
    name: str | None = None
    disable_parallel_tool_use: bool | None = None


class ThinkingConfig(Body):
    """Whether the model thinks before it replies, and whether its thoughts are shown."""

    type: Literal["enabled", "disabled", "adaptive", "between_tools"]
    budget_tokens: Whole | None = Field(default=None, ge=1)
    display: Literal["summarized", "omitted"] | None = None


class OutputSchema(Body):
    """The JSON schema that the reply must satisfy."""

    type: Literal["json_schema"]
    schema_: dict[str, Any] = Field(alias="schema")


class OutputConfig(Body):
    """The form of the reply, and how much thinking goes into it."""

    effort: Literal["low", "medium", "high", "xhigh", "max"] | None = None
    format: OutputSchema | None = None


class Metadata(Body):
    """Who the user is, whom a character remembers by it."""

    user_id: str | None = None


class CountTokensBody(Body):
    """A conversation whose tokens are to be counted."""

    model: str | None = None
    messages: list[Turn] = Field(min_length=1, max_length=MAX_MESSAGES)
    system: Content | None = None
    tools: list[ToolDefinition] | None = Field(default=None, max_length=MAX_TOOLS)
    tool_choice: ToolUseChoice | None = None
    thinking: ThinkingConfig | None = None
    output_config: OutputConfig | None = None
    mcp_servers: list[Any] | None = None


class MessagesBody(CountTokensBody):
    """A request for a reply to a conversation; `seed` is this server's own."""

    max_tokens: Whole = Field(ge=1)
    stop_sequences: list[str] | None = Field(default=None, max_length=MAX_STOPS)
    stream: bool | None = None
    temperature: float | None = Field(default=None, ge=0, le=2)
    top_p: float | None = Field(default=None, ge=0, le=1)
    top_k: Whole | None = Field(default=None, ge=0)
    seed: Whole | None = Field(default=None, ge=LEAST_SEED, le=GREATEST_SEED)
    metadata: Metadata | None = None


class AnyBatch(Body):
    """A request whose fields are not looked at."""


class ReplyBlock(AnswerBody):
    """One block of a reply: its text, its thoughts, or a tool call whose `input` is the tool's."""

    type: Literal["text", "thinking", "tool_use"]
    text: str | None = None
    thinking: str | None = None
    signature: str | None = None
    id: str | None = None
    name: str | None = None
    input: dict[str, Any] | None = None


class OutputTokensDetails(AnswerBody):
    """What of a reply's tokens is thinking, tags included."""

    thinking_tokens: int


class MessageUsage(AnswerBody):
    """Exact token counts; the prompt has `input_tokens` and those that were read from the cache."""

    input_tokens: int
    output_tokens: int
    output_tokens_details: OutputTokensDetails
    cache_creation_input_tokens: int
    cache_read_input_tokens: int


class MessageReply(AnswerBody):
    """A whole reply."""

    id: str
    type: Literal["message"]
    role: Literal["assistant"]
    model: str
    content: list[ReplyBlock]
    stop_reason: Literal["end_turn", "max_tokens", "stop_sequence", "tool_use"]
    stop_sequence: str | None
    usage: MessageUsage


class TokensCount(AnswerBody):
    """How many tokens the prompt has."""

    input_tokens: int


class MessageErrorObject(AnswerBody):
    """What went wrong; `details` has this server's own word for it as `error_code`."""

    type: str
    message: str
    details: dict[str, Any]


class MessageError(AnswerBody):
    """An error."""

    type: Literal["error"]
    error: MessageErrorObject
