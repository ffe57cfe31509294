"""The settings of the spirit box: whom it lets in, which models it joins, and how it is prompted."""

from typing import Annotated, Literal

from pydantic import Field, SecretStr, field_validator

from callboard_contracts.section import Section

PromptForm = Literal["instruct", "base"]
QUESTION_MARK = "{question}"
SAID_MARK = "{said}"
LANGUAGE_MARK = "{language}"
INSTRUCTIONS = (
    "You are a spirit that speaks through an old wooden box. Whatever you are asked, answer in {language}, in one or "
    "two short sentences of plain prose, without lists, headings or stage directions."
)
QUESTIONS: dict[PromptForm, str] = {"instruct": "{question}", "base": "Question: {question}\nAnswer:"}
CONTINUATIONS: dict[PromptForm, str] = {
    "instruct": "Go on speaking: one more short sentence, in {language}.",
    "base": "Question: {question}\nAnswer: {said}",
}


def _has_question(form: str | None) -> str | None:
    if form is not None and QUESTION_MARK not in form:
        raise ValueError(f"a question's form has {QUESTION_MARK} where the question stands")
    return form


class SpiritLanguageSection(Section):
    """What is different where the answer is in one language; what is left out is as for all."""

    voice: str | None = None
    """The voice of answers in this language, or a blend; left out, a voice that speaks it."""
    instructions: str | None = Field(default=None, max_length=8000)
    """The system message, with the form `instruct`."""
    question: str | None = Field(default=None, max_length=8000)
    """The form of the question."""
    continuation: str | None = Field(default=None, max_length=8000)
    """The form of what follows."""

    _question_has_its_place = field_validator("question")(_has_question)


class SpiritBoxSection(Section):
    """The spirit box, at `/socket.io/`."""

    enabled: bool = False
    """Whether it is served."""
    password: SecretStr | None = Field(default=None, min_length=1)
    """What visitors type; best given as `CALLBOARD__SPIRIT_BOX__PASSWORD_FILE`. An API key is taken in its place.
    Left out, only an API key is."""
    api_key: SecretStr | None = None
    """The API key that visitors with the password count under; best given as
    `CALLBOARD__SPIRIT_BOX__API_KEY_FILE`. Left out, they are callers without a key."""
    transcription_model: str | None = None
    """The model that hears; left out, the site's default."""
    chat_model: str | None = None
    """The model that answers, or a character as `character/mira`; left out, the site's default."""
    speech_model: str | None = None
    """The model that speaks; left out, the site's default."""
    prompt_form: PromptForm = "instruct"
    """`instruct` asks a model that was trained on dialogues, with a system message; `base` has a model continue a
    text, of which the first line counts."""
    instructions: str = Field(default=INSTRUCTIONS, max_length=8000)
    """The system message, with the form `instruct`; `{language}` is the answer's language. Empty, there is none."""
    question: str | None = Field(default=None, max_length=8000)
    """The form of the question, with `{question}` where it stands; left out, the question alone, or with `base`
    `Question: {question}` and `Answer:` below it."""
    continuation: str | None = Field(default=None, max_length=8000)
    """The form of what follows: with `instruct` the message that asks for more, with `base` the whole text, in which
    `{said}` is what was said so far. `{question}` and `{language}` stand for theirs."""
    voice: str | None = None
    """The voice of answers in every language that it speaks, or a blend; left out, the speech model's default."""
    languages: dict[Annotated[str, Field(pattern=r"^[a-z]{2,3}$")], SpiritLanguageSection] = Field(default_factory=dict)
    """What is different in single languages, by their codes."""
    fallback_language: str = Field(default="en", pattern=r"^[a-z]{2,3}$")
    """The language of the answer where no voice speaks the question's."""
    max_output_tokens: int = Field(default=128, ge=1, le=4096)
    """The most tokens of an answer, and of each part of the monologue."""
    remembered_questions: int = Field(default=4, ge=0, le=50)
    """How many earlier questions of a visitor the model is told, with the answers; with `base` none."""
    pause_s: float = Field(default=1.0, ge=0, le=600)
    """The silence between two parts of the monologue."""
    max_parts: int = Field(default=12, ge=1, le=10_000)
    """How many parts the answer to one question has at most, the monologue included; 1 is no monologue."""
    max_contact_bytes: int = Field(default=4 * 1024 * 1024, ge=1024, le=32 * 1024 * 1024)
    """The largest recording of a question; a minute is about 1 MB. Never more than `stt.max_upload_bytes`."""
    max_visitors: int = Field(default=64, ge=1, le=10_000)
    """How many may be connected to one edge process at once, and as many more that have not said the password yet."""
    max_visitors_per_address: int = Field(default=16, ge=1, le=10_000)
    """How many of them from one address."""

    _question_has_its_place = field_validator("question")(_has_question)

    def form_of(self, language: str) -> SpiritLanguageSection:
        """The forms and the voice in a language, with those for all where it has none of its own."""
        own = self.languages.get(language, SpiritLanguageSection())
        return SpiritLanguageSection(
            voice=own.voice,
            instructions=self.instructions if own.instructions is None else own.instructions,
            question=own.question or self.question or QUESTIONS[self.prompt_form],
            continuation=own.continuation or self.continuation or CONTINUATIONS[self.prompt_form],
        )
