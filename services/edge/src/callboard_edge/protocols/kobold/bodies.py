"""What these clients send and read."""

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from callboard_edge.http.bodies import AnswerBody, Body
from callboard_edge.http.embedding_objects import EncodingFormat
from callboard_edge.http.lenient import Flag, LenientBody, Whole
from callboard_edge.http.local_bodies import LocalSamplingBody

MAX_TURNS = 1024
MAX_MESSAGES = 2048


class AnyBody(Body):
    """A request whose fields are not looked at."""


class KeyBody(LenientBody):
    """Names a reply by its client's own key."""

    genkey: str | None = None


class SamplingBody(LocalSamplingBody):
    """How the next token is chosen and how much is written, by KoboldCpp's names and by text-generation-webui's.

    KoboldCpp's length is `max_length`, text-generation-webui's `max_new_tokens`.
    """

    @property
    def is_textgen(self) -> bool:
        """Whether it is written as text-generation-webui's clients do."""
        kobold = (self.max_length, self.max_context_length, self.stop_sequence, self.genkey, self.rep_pen)
        textgen = (self.max_new_tokens, self.truncation_length, self.stopping_strings, self.repetition_penalty)
        return any(one is not None for one in textgen) and all(one is None for one in kobold)


class GenerateBody(SamplingBody):
    """A request for the continuation of a text."""

    prompt: str | None = None
    memory: str | None = None
    model: str | None = None
    trim_stop: Flag = None
    replace_instruct_placeholders: Flag = None
    grammar: str | None = None
    logprobs: bool | int | None = None
    images: list[str] | None = None
    audio: list[str] | None = None
    reasoning_effort: str | None = None
    thinking_budget_tokens: Whole = None


class TokensMessage(LenientBody):
    """One message of a dialogue."""

    role: str | None = None
    content: str | None = None


class WordsBody(LenientBody):
    """A text whose tokens are asked for; `messages` stands for it, and is written with the model's template."""

    prompt: str | None = None
    messages: list[TokensMessage] | None = Field(default=None, max_length=MAX_MESSAGES)
    special: Flag = None
    replace_instruct_placeholders: Flag = None
    model: str | None = None


class EmbeddingsBody(LenientBody):
    """Texts whose vectors are asked for; one that is too long is cut, unless `truncate` is false."""

    input: str | list[Any]
    model: str | None = None
    truncate: Flag = None
    encoding_format: EncodingFormat | None = None
    dimensions: Whole | None = None


class TokensBody(LenientBody):
    """Tokens whose text is asked for."""

    ids: list[Whole]
    special: Flag = None
    model: str | None = None


class SchemaBody(BaseModel):
    """A JSON schema, in `schema` or as the body itself."""

    model_config = ConfigDict(extra="allow", allow_inf_nan=False, frozen=True)

    schema_: dict[str, Any] | None = Field(default=None, alias="schema")


class TokensAnswer(AnswerBody):
    """Tokens; `prompt` is the text that they are made of."""

    value: int
    ids: list[int]
    prompt: str


class TokenCount(AnswerBody):
    """A number of tokens."""

    tokens: int


class TokenCountResults(AnswerBody):
    """The one number."""

    results: list[TokenCount]


class TextAnswer(AnswerBody):
    """The text of tokens."""

    result: str
    success: bool


class GrammarAnswer(AnswerBody):
    """A grammar."""

    result: str
    success: bool


class ModelAction(LenientBody):
    """What is wanted of the models."""

    action: str | None = None


class ChatHistory(LenientBody):
    """A dialogue as pairs of what the user said and what was answered; `visible` is how clients show it."""

    internal: list[list[str]] | None = Field(default=None, max_length=MAX_TURNS)
    visible: list[list[str]] | None = Field(default=None, max_length=MAX_TURNS)


class ChatBody(SamplingBody):
    """A request for a reply to a dialogue, in text-generation-webui's form."""

    user_input: str | None = None
    history: ChatHistory | None = None
    context: str | None = None
    context_instruct: str | None = None
    model: str | None = None
    regenerate: Flag = None
    continue_: Flag = Field(default=None, alias="_continue")


class HistoryResult(AnswerBody):
    """A dialogue with the new reply."""

    history: ChatHistory


class HistoryResults(AnswerBody):
    """The one dialogue."""

    results: list[HistoryResult]


class LogprobToken(AnswerBody):
    """A token and its log probability; `bytes` are those of its text."""

    token: str
    token_id: int | None
    logprob: float
    bytes: list[int]
    top_logprobs: list["LogprobToken"] | None = None


class Logprobs(AnswerBody):
    """The log probabilities of a reply's tokens, in two forms."""

    content: list[LogprobToken]
    tokens: list[str]
    token_ids: list[int | None]
    token_logprobs: list[float]
    top_logprobs: list[dict[str, float]]
    text_offset: list[int]


class Result(AnswerBody):
    """A continuation."""

    text: str
    finish_reason: str
    tool_calls: list[dict[str, Any]]
    logprobs: Logprobs | None
    prompt_tokens: int
    completion_tokens: int


class Results(AnswerBody):
    """The one continuation."""

    results: list[Result]


class TextResult(AnswerBody):
    """A text."""

    text: str


class TextResults(AnswerBody):
    """The one text."""

    results: list[TextResult]


class LogprobsAnswer(AnswerBody):
    """The log probabilities of the last reply with a key."""

    logprobs: Logprobs | None


class AbortAnswer(AnswerBody):
    """Whether a reply was stopped; the words `true` and `false`."""

    success: str
    done: str
