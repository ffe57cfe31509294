"""The models that clients may ask for."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from callboard_contracts.config import ChatSection, TtsSection
from callboard_contracts.errors import CallboardError, ErrorCode
from callboard_edge.domain.voices import offered_voices


@dataclass(frozen=True, slots=True)
class ChatModel:
    """A chat model on offer."""

    name: str
    aliases: tuple[str, ...]
    pool: str
    context_tokens: int
    max_output_tokens: int
    tools: bool
    json_schema: bool


@dataclass(frozen=True, slots=True)
class SpeechModel:
    """A speech model on offer; `voices` are all that may be asked for, aliases apart."""

    name: str
    aliases: tuple[str, ...]
    pool: str
    voices: tuple[str, ...]
    voice_aliases: Mapping[str, str]
    default_voice: str


class _Named(Protocol):
    @property
    def name(self) -> str: ...
    @property
    def aliases(self) -> tuple[str, ...]: ...


M = TypeVar("M", bound=_Named)


class Catalogue(Generic[M]):
    """Models by their public names and aliases, in the order of the configuration."""

    def __init__(self, models: tuple[M, ...]) -> None:
        self.models = models
        self._by_name: dict[str, M] = {alias: model for model in models for alias in model.aliases}
        self._by_name.update({model.name: model for model in models})

    @property
    def names(self) -> tuple[str, ...]:
        """The public names, without aliases."""
        return tuple(model.name for model in self.models)

    def find(self, name: str) -> M | None:
        """The model of a name or alias, or None."""
        return self._by_name.get(name)

    def resolve(self, name: str) -> M:
        """The model of a name or alias.

        Raises:
            CallboardError: `unknown_model`, with the names on offer.
        """
        model = self._by_name.get(name)
        if model is None:
            offered = ", ".join(self.names) or "none"
            raise CallboardError(
                ErrorCode.UNKNOWN_MODEL,
                f"There is no model of that name here. On offer: {offered}.",
                param="model",
                offered=self.names,
            )
        return model


def chat_catalogue(section: ChatSection) -> Catalogue[ChatModel]:
    """The chat models of the configuration."""
    return Catalogue(
        tuple(
            ChatModel(
                name=name,
                aliases=model.aliases,
                pool=model.pool,
                context_tokens=model.context_tokens,
                max_output_tokens=model.max_output_tokens,
                tools=model.tools,
                json_schema=model.json_schema,
            )
            for name, model in section.models.items()
        )
    )


def speech_catalogue(section: TtsSection) -> Catalogue[SpeechModel]:
    """The speech models of the configuration."""
    return Catalogue(
        tuple(
            SpeechModel(
                name=name,
                aliases=model.aliases,
                pool=model.pool,
                voices=offered_voices(model, section.pools[model.pool]),
                voice_aliases=model.voice_aliases,
                default_voice=model.default_voice,
            )
            for name, model in section.models.items()
        )
    )
