"""What edges ask the workers of a chat pool about a model: its tokens, and what it is.

Any worker of the pool answers. One that cannot, because its engine does not say, answers `unsupported`.
"""

from pydantic import Field

from callboard_contracts.chat import ChatMessage, PromptFormat, Thinking, Tool
from callboard_contracts.errors import ErrorInfo
from callboard_contracts.model import Message

MAX_TEXT_BYTES = 128 * 1024
"""The longest text of one request; its tokens, each a byte at worst, fit into one answer."""
MAX_TOKENS = 100_000
"""The most token ids of one request."""


class TokenizeRequest(Message):
    """A text, or the messages of a dialogue, whose tokens are asked for.

    Messages are counted as a prompt for a reply, in the prompt format, with what tools and thinking add to it. With
    `special` the tokens are those of a whole prompt, with what the engine puts before it. With `turn_tags` those in the
    text are replaced first.
    """

    model: str
    text: str = ""
    messages: tuple[ChatMessage, ...] = ()
    tools: tuple[Tool, ...] = ()
    tool_choice: str = "auto"
    thinking: Thinking = Thinking()
    prompt_format: PromptFormat | None = None
    special: bool = True
    turn_tags: bool = False


class TokenizeReply(Message):
    """The tokens, and the text that they are made of as the engine gets it."""

    ids: tuple[int, ...] = ()
    text: str = ""
    error: ErrorInfo | None = None


class DetokenizeRequest(Message):
    """Token ids whose text is asked for; with `special` control tokens are part of it."""

    model: str
    ids: tuple[int, ...] = Field(max_length=MAX_TOKENS)
    special: bool = True


class DetokenizeReply(Message):
    """The text of some tokens; bytes that are no whole character become U+FFFD."""

    text: str = ""
    error: ErrorInfo | None = None


class TurnTexts(Message):
    """What a prompt format writes around turns, by KoboldCpp's names; `assistant_gen` opens a reply."""

    system_start: str = ""
    system_end: str = ""
    user_start: str = ""
    user_end: str = ""
    assistant_start: str = ""
    assistant_end: str = ""
    assistant_gen: str = ""


class DescribeModelRequest(Message):
    """Asks what a model is."""

    model: str


class DescribeModelReply(Message):
    """What is known of a model; what its engine does not tell is left out.

    `chat_template` is the engine's own, in Jinja or Go's form; `turn_texts` are those of the configured prompt format,
    and `turn_format` says which that is: another than the model's own where its template does not tell its turns.
    """

    chat_template: str = ""
    turn_texts: TurnTexts | None = None
    turn_format: PromptFormat | None = None
    architecture: str | None = None
    parameters: int | None = None
    quantization: str | None = None
    size_bytes: int | None = None
    context_tokens: int | None = None
    trained_context_tokens: int | None = None
    error: ErrorInfo | None = None
