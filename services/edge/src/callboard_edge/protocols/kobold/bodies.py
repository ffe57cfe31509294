"""What these clients send and read.

They are many and write their numbers as they like, so that much is taken that is not quite right: numbers in text,
`null` for whatever is left out, and values out of range, which are brought into it.
"""

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from callboard_edge.http.bodies import AnswerBody, Body
from callboard_edge.http.embedding_objects import EncodingFormat
from callboard_edge.http.lenient import Flag, LenientBody, Number, Texts, Whole

MAX_STOPS = 256
MAX_BANNED_TEXTS = 768
MAX_BIASES = 512
MAX_BREAKERS = 128
MAX_IDS = 1024
MAX_TURNS = 1024
MAX_MESSAGES = 2048


def _biases(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    return {key: one for key, one in value.items() if one is not None}


Biases = Annotated[dict[str, float] | None, BeforeValidator(_biases)]


class AnyBody(Body):
    """A request whose fields are not looked at."""


class KeyBody(LenientBody):
    """Names a reply by its client's own key."""

    genkey: str | None = None


class SamplingBody(LenientBody):
    """How the next token is chosen and how much is written, by KoboldCpp's names and by text-generation-webui's.

    KoboldCpp's length is `max_length`, text-generation-webui's `max_new_tokens`.
    """

    max_length: Whole = None
    max_new_tokens: Whole = None
    max_context_length: Whole = None
    truncation_length: Whole = None
    temperature: Number = None
    dynatemp_range: Number = None
    dynatemp_exponent: Number = None
    smoothing_factor: Number = None
    smoothing_curve: Number = None
    top_k: Whole = None
    top_p: Number = None
    min_p: Number = None
    top_a: Number = None
    typical: Number = None
    typical_p: Number = None
    tfs: Number = None
    nsigma: Number = None
    epsilon_cutoff: Number = None
    eta_cutoff: Number = None
    xtc_threshold: Number = None
    xtc_probability: Number = None
    adaptive_target: Number = None
    adaptive_decay: Number = None
    mirostat: Whole = None
    mirostat_mode: Whole = None
    mirostat_tau: Number = None
    mirostat_eta: Number = None
    presence_penalty: Number = None
    frequency_penalty: Number = None
    rep_pen: Number = None
    repetition_penalty: Number = None
    repeat_penalty: Number = None
    rep_pen_range: Whole = None
    repetition_penalty_range: Whole = None
    rep_pen_slope: Number = None
    no_repeat_ngram_size: Whole = None
    dry_multiplier: Number = None
    dry_base: Number = None
    dry_allowed_length: Whole = None
    dry_penalty_last_n: Whole = None
    dry_sequence_breakers: Texts = None
    sampler_order: list[Whole] | None = None
    sampler_seed: Whole = None
    seed: Whole = None
    stop_sequence: Texts = None
    stopping_strings: Texts = None
    banned_tokens: Texts = None
    banned_strings: Texts = None
    custom_token_bans: str | None = None
    logit_bias: Biases = None
    ban_eos_token: Flag = None
    use_default_badwordsids: Flag = None
    min_length: Whole = None
    do_sample: Flag = None
    genkey: str | None = None

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
