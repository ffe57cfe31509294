"""The voices of a speech model, and how a requested voice is resolved."""

from collections.abc import Mapping
from typing import Protocol

from callboard_contracts.config import SpeechModelSection, SpeechPoolSection
from callboard_contracts.errors import CallboardError, ErrorCode
from callboard_contracts.voices import KOKORO_VOICES, parse_blend

KOKORO_BACKENDS = frozenset({"kokoro", "kokoro_onnx"})


class VoiceCatalog(Protocol):
    """The voices of a speech model."""

    @property
    def voices(self) -> tuple[str, ...]:
        """The offered voices."""
        ...

    @property
    def voice_aliases(self) -> Mapping[str, str]:
        """Other names for voices or blends."""
        ...

    @property
    def default_voice(self) -> str:
        """The voice of a request without one."""
        ...


def offered_voices(model: SpeechModelSection, pool: SpeechPoolSection) -> tuple[str, ...]:
    """The voices of a model: those configured, else Kokoro's for its backends, else the default voice alone."""
    if model.voices:
        return model.voices
    return KOKORO_VOICES if pool.backend in KOKORO_BACKENDS else (model.default_voice,)


def listed_voices(catalog: VoiceCatalog) -> tuple[str, ...]:
    """Every name that a client may use: voices first, then aliases."""
    return tuple(dict.fromkeys((*catalog.voices, *catalog.voice_aliases)))


def resolve_voice(catalog: VoiceCatalog, requested: str | None) -> str:
    """Resolves a requested voice to the engine's name or blend.

    Raises:
        CallboardError: `unknown_voice`, with the offered voices.
    """
    voice = (requested if requested is not None else catalog.default_voice).strip()
    if voice in catalog.voices:
        return voice
    voice = catalog.voice_aliases.get(voice, voice)
    if voice in catalog.voices:
        return voice
    offered = listed_voices(catalog)
    try:
        parts = parse_blend(voice)
    except CallboardError as error:
        raise _unknown(error.info.message, offered) from None
    names = [catalog.voice_aliases.get(part.voice, part.voice) for part in parts]
    if any(name not in catalog.voices for name in names):
        missing = "There is no voice of that name here." if len(names) == 1 else "The blend names a voice not on offer."
        raise _unknown(missing, offered)
    if len(names) == 1:
        return names[0]
    return "+".join(f"{name}({part.weight:g})" for name, part in zip(names, parts, strict=True))


def _unknown(message: str, offered: tuple[str, ...]) -> CallboardError:
    return CallboardError(
        ErrorCode.UNKNOWN_VOICE, f"{message} On offer: {', '.join(offered)}.", param="voice", offered=offered
    )
