"""The models that clients may ask for: those configured, as far as their workers have been seen."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from callboard_contracts.characters import Character
from callboard_contracts.chat import PromptFormat
from callboard_contracts.errors import CallboardError, ErrorCode
from callboard_contracts.pools import ChatModelSection, ChatSection, SttSection, ToolUse, TtsSection
from callboard_edge.domain.characters import NO_CHARACTERS, Characters
from callboard_edge.domain.voices import VoiceCatalog
from callboard_edge.domain.workers import Workers

LATEST = ":latest"
"""The tag of a name that has none, as Ollama's clients write it."""
MAX_NAMED = 64
"""An error names no more models than this; there can be many characters."""


@dataclass(frozen=True, slots=True)
class ChatModel:
    """A chat model on offer; `character` is set where it is one, and `base` is then the model that it answers with."""

    name: str
    aliases: tuple[str, ...]
    pool: str
    may_sleep: bool
    longest_wake_s: float
    context_tokens: int
    max_output_tokens: int
    tools: ToolUse
    json_schema: bool
    images: bool
    prompt_format: PromptFormat = "own"
    character: Character | None = None
    base: "ChatModel | None" = None

    @property
    def served_name(self) -> str:
        """The name by which its workers know it."""
        return self.name if self.base is None else self.base.name

    def output_limit(self, asked: int | None, default: int | None = None) -> int:
        """How long a reply may become, in tokens: what was asked for, within the model's own limit."""
        return min(asked or default or self.max_output_tokens, self.max_output_tokens)


@dataclass(frozen=True, slots=True)
class SpeechModel:
    """A speech model on offer; `voices` are those configured, none where the workers' own voices are offered.

    `allowed_voices` are those of them that the caller is offered, None for all. Each of the `characters` is a name for
    its voice.
    """

    name: str
    aliases: tuple[str, ...]
    pool: str
    may_sleep: bool
    longest_wake_s: float
    voices: tuple[str, ...]
    voice_aliases: Mapping[str, str]
    default_voice: str
    allowed_voices: tuple[str, ...] | None = None
    characters: Characters = NO_CHARACTERS

    def catalog(self, workers: Workers) -> VoiceCatalog:
        """The voices of the model: those configured, else those that its workers announced."""
        voices: tuple[str, ...] | None = self.voices or None
        if voices is None and (offered := workers.model("tts", self.pool, self.name)) is not None:
            voices = tuple(voice.name for voice in offered.voices) or None
        allowed = self.allowed_voices
        aliases = self.voice_aliases
        if allowed is not None:
            voices = allowed if voices is None else tuple(voice for voice in voices if voice in allowed)
            aliases = {alias: voice for alias, voice in aliases.items() if voice in voices}
        default = self.default_voice
        if voices is not None and default not in (*voices, *aliases):
            default = next(iter(voices), default)
        return VoiceCatalog(voices, aliases, default, self.characters)

    def language(self, workers: Workers, voice: str) -> str | None:
        """The language tag of a voice, as the workers announced it."""
        offered = workers.model("tts", self.pool, self.name)
        return next((one.language for one in offered.voices if one.name == voice), None) if offered else None


@dataclass(frozen=True, slots=True)
class RecognitionModel:
    """A model on offer that writes down speech; `translation` says whether it can write it in English."""

    name: str
    aliases: tuple[str, ...]
    pool: str
    may_sleep: bool
    longest_wake_s: float
    translation: bool


class _Named(Protocol):
    @property
    def name(self) -> str: ...
    @property
    def aliases(self) -> tuple[str, ...]: ...


M = TypeVar("M", bound=_Named)


class Catalogue(Generic[M]):
    """Models by their public names and aliases, in the order of the configuration."""

    def __init__(self, models: tuple[M, ...], default: str | None = None) -> None:
        self._models = models
        self.default = default
        self._by_name: dict[str, M] = {alias: model for model in models for alias in model.aliases}
        self._by_name.update({model.name: model for model in models})

    @property
    def models(self) -> tuple[M, ...]:
        """The models on offer."""
        return self._models

    @property
    def names(self) -> tuple[str, ...]:
        """The public names, without aliases."""
        return tuple(model.name for model in self.models)

    def find(self, name: str) -> M | None:
        """The model of a name or alias, or None."""
        return self._by_name.get(name)

    def resolve(self, name: str | None) -> M:
        """The model of a name or alias; left out, the default model.

        Raises:
            CallboardError: `unknown_model`, with the names on offer; `invalid_request` where no name was given and
                the site has no default model.
        """
        name = name or self.default
        if name is None:
            raise CallboardError(ErrorCode.INVALID_REQUEST, "Missing required field: 'model'.", param="model")
        model = self.find(name)
        if model is None:
            raise unknown_model(self.names)
        return model


def unknown_model(names: tuple[str, ...]) -> CallboardError:
    """The error for a model that is not offered."""
    offered = ", ".join(names[:MAX_NAMED]) or "none"
    return CallboardError(
        ErrorCode.UNKNOWN_MODEL,
        f"There is no model of that name here. On offer: {offered}.",
        param="model",
        offered=names[:MAX_NAMED],
    )


def chat_catalogue(section: ChatSection) -> Catalogue[ChatModel]:
    """The models of the configuration that write replies."""
    return Catalogue(_chat_models(section, lambda model: model.chat), section.default_model)


def embedding_catalogue(section: ChatSection) -> Catalogue[ChatModel]:
    """The models of the configuration that make embeddings; the first is the default."""
    models = _chat_models(section, lambda model: model.embeddings)
    return Catalogue(models, next((model.name for model in models), None))


def _chat_models(section: ChatSection, wanted: Callable[[ChatModelSection], bool]) -> tuple[ChatModel, ...]:
    return tuple(
        ChatModel(
            name=name,
            aliases=model.aliases,
            pool=model.pool,
            may_sleep=section.pools[model.pool].may_sleep,
            longest_wake_s=section.pools[model.pool].longest_wake_s,
            context_tokens=model.context_tokens,
            max_output_tokens=model.max_output_tokens,
            tools=model.tools,
            json_schema=model.json_schema,
            images=model.images,
            prompt_format=model.prompt_format,
        )
        for name, model in section.models.items()
        if wanted(model)
    )


def speech_catalogue(section: TtsSection, characters: Characters = NO_CHARACTERS) -> Catalogue[SpeechModel]:
    """The speech models of the configuration, which the characters speak with."""
    models = tuple(
        SpeechModel(
            name=name,
            aliases=model.aliases,
            pool=model.pool,
            may_sleep=section.pools[model.pool].may_sleep,
            longest_wake_s=section.pools[model.pool].longest_wake_s,
            voices=model.voices,
            voice_aliases=model.voice_aliases,
            default_voice=model.default_voice,
            characters=characters,
        )
        for name, model in section.models.items()
    )
    return Catalogue(models, section.default_model)


def recognition_catalogue(section: SttSection) -> Catalogue[RecognitionModel]:
    """The models of the configuration that write down speech; the first is the default where none is named."""
    models = tuple(
        RecognitionModel(
            name=name,
            aliases=model.aliases,
            pool=model.pool,
            may_sleep=section.pools[model.pool].may_sleep,
            longest_wake_s=section.pools[model.pool].longest_wake_s,
            translation=model.translation,
        )
        for name, model in section.models.items()
    )
    return Catalogue(models, section.default_model or next(iter(section.models), None))
