"""What `/v1/responses` takes and gives, as the API document shows it."""

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag

from callboard_edge.http.bodies import TAG, AnswerBody, Body, Whole, text_or_list
from callboard_edge.protocols.openai.bodies import (
    GREATEST_SEED,
    LEAST_SEED,
    MAX_MESSAGES,
    MAX_PARTS,
    MAX_TOOLS,
    MAX_TOP_LOGPROBS,
    Stop,
    UserName,
    choice_kind,
)

MAX_METADATA = 16


class InputPart(Body):
    """One part of an item's content."""

    type: str
    text: str | None = None
    refusal: str | None = None
    image_url: str | None = None


_Parts = Annotated[list[InputPart], Field(max_length=MAX_PARTS), Tag(f"{TAG}list")]
InputContent = Annotated[
    Annotated[str, Tag(f"{TAG}text")] | _Parts,
    Discriminator(
        text_or_list, custom_error_type="content", custom_error_message="Input should be a string or a list of parts"
    ),
]


class InputItem(Body):
    """One item of a dialogue: a message, a call of a function or its output, reasoning, or a reference to an item."""

    type: str | None = None
    role: Literal["user", "assistant", "system", "developer"] | None = None
    content: InputContent | None = None
    id: str | None = None
    call_id: str | None = None
    name: str | None = None
    arguments: str | None = None
    output: InputContent | None = None


_Items = Annotated[list[InputItem], Field(max_length=MAX_MESSAGES), Tag(f"{TAG}list")]
Input = Annotated[
    Annotated[str, Tag(f"{TAG}text")] | _Items,
    Discriminator(
        text_or_list, custom_error_type="input", custom_error_message="Input should be a string or a list of items"
    ),
]


class ResponseTool(Body):
    """A tool that the model may call; only functions are served."""

    type: str
    name: str | None = Field(default=None, pattern=r"^[A-Za-z0-9_.-]{1,64}$")
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class ChosenResponseTool(Body):
    """The one tool that the model must call."""

    type: str
    name: str | None = None


ResponseToolChoice = Annotated[
    Annotated[Literal["none", "auto", "required"], Tag(f"{TAG}word")]
    | Annotated[ChosenResponseTool, Tag(f"{TAG}object")],
    Discriminator(
        choice_kind,
        custom_error_type="tool_choice",
        custom_error_message="Input should be 'none', 'auto', 'required' or an object",
    ),
]


class TextFormat(Body):
    """The shape of the text."""

    type: Literal["text", "json_object", "json_schema"]
    name: str | None = Field(default=None, pattern=r"^[A-Za-z0-9_-]{1,64}$")
    description: str | None = None
    schema_: dict[str, Any] | None = Field(default=None, alias="schema")
    strict: bool | None = None


class TextConfig(Body):
    """How the text is written."""

    format: TextFormat | None = None


SummaryKind = Literal["auto", "concise", "detailed"]


class ReasoningConfig(Body):
    """How much the model reasons first, where it can; with a `summary` its thoughts come as one, in full."""

    effort: str | None = None
    summary: SummaryKind | None = None
    generate_summary: SummaryKind | None = None


class ResponsesBody(Body):
    """A request for a reply; `seed` and `stop` are what other servers take too."""

    model: str | None = None
    input: Input
    instructions: str | None = None
    previous_response_id: str | None = None
    store: bool | None = None
    stream: bool | None = None
    background: bool | None = None
    conversation: Any | None = None
    prompt: Any | None = None
    max_output_tokens: Whole | None = Field(default=None, ge=1)
    temperature: float | None = Field(default=None, ge=0, le=2)
    top_p: float | None = Field(default=None, ge=0, le=1)
    top_logprobs: Whole | None = Field(default=None, ge=0, le=MAX_TOP_LOGPROBS)
    seed: Whole | None = Field(default=None, ge=LEAST_SEED, le=GREATEST_SEED)
    stop: Stop | None = None
    include: list[str] | None = Field(default=None, max_length=MAX_TOOLS)
    text: TextConfig | None = None
    reasoning: ReasoningConfig | None = None
    tools: list[ResponseTool] | None = Field(default=None, max_length=MAX_TOOLS)
    tool_choice: ResponseToolChoice | None = None
    parallel_tool_calls: bool | None = None
    truncation: Literal["auto", "disabled"] | None = None
    metadata: dict[str, str] | None = Field(default=None, max_length=MAX_METADATA)
    prompt_cache_key: str | None = None
    user: UserName = None
    safety_identifier: UserName = None


class ResponseUsage(AnswerBody):
    """Exact token counts."""

    input_tokens: int
    input_tokens_details: dict[str, int]
    output_tokens: int
    output_tokens_details: dict[str, int]
    total_tokens: int


class ResponseFailure(AnswerBody):
    """Why a reply failed."""

    code: Literal["server_error", "rate_limit_exceeded"]
    message: str


class ResponseObject(AnswerBody):
    """A reply, as far as it has come."""

    id: str
    object: Literal["response"]
    created_at: int
    status: Literal["completed", "failed", "in_progress", "incomplete"]
    model: str
    output: list[dict[str, Any]]
    usage: ResponseUsage | None
    error: ResponseFailure | None
    incomplete_details: dict[str, str] | None


class DeletedResponse(AnswerBody):
    """A reply that was taken back."""

    id: str
    object: Literal["response"]
    deleted: bool
