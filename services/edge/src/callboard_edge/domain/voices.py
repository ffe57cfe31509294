"""Which voices a speech model offers, and what a client's wish for a voice means."""

from collections.abc import Mapping
from typing import Protocol

from callboard_contracts.config import SpeechModelSection, SpeechPoolSection
from callboard_contracts.errors import CallboardError, ErrorCode
from callboard_contracts.voices import KOKORO_VOICES, parse_blend

KOKORO_BACKENDS = frozenset({"kokoro", "kokoro_onnx"})


class VoiceCatalog(Protocol):
    """The part of a speech model that decides about voices."""

    @property
    def voices(self) -> tuple[str, ...]:
        """The voices on offer."""
        ...

    @property
    def voice_aliases(self) -> Mapping[str, str]:
        """Other names for voices or blends."""
        ...

    @property
    def default_voice(self) -> str:
        """The voice of a request that names none."""
        ...


def offered_voices(model: SpeechModelSection, pool: SpeechPoolSection) -> tuple[str, ...]:
    """The voices of a model: those configured, else Kokoro's behind its backends, else the default voice alone."""
    if model.voices:
        return model.voices
    return KOKORO_VOICES if pool.backend in KOKORO_BACKENDS else (model.default_voice,)


def listed_voices(cast: VoiceCatalog) -> tuple[str, ...]:
    """Every name that a client may use alone: voices first, then aliases."""
    return tuple(dict.fromkeys((*cast.voices, *cast.voice_aliases)))


def resolve_voice(cast: VoiceCatalog, asked: str | None) -> str:
    """The engine's name or blend for what a client asked for.

    Raises:
        CallboardError: `unknown_voice`, with the voices on offer.
    """
    wish = (asked if asked is not None else cast.default_voice).strip()
    if wish in cast.voices:
        return wish
    wish = cast.voice_aliases.get(wish, wish)
    if wish in cast.voices:
        return wish
    offered = listed_voices(cast)
    try:
        parts = parse_blend(wish)
    except CallboardError as error:
        raise _unknown(error.info.message, offered) from None
    names = [cast.voice_aliases.get(part.voice, part.voice) for part in parts]
    if any(name not in cast.voices for name in names):
        missing = "There is no voice of that name here." if len(names) == 1 else "The blend names a voice not on offer."
        raise _unknown(missing, offered)
    if len(names) == 1:
        return names[0]
    return "+".join(f"{name}({part.weight:g})" for name, part in zip(names, parts, strict=True))


def _unknown(message: str, offered: tuple[str, ...]) -> CallboardError:
    return CallboardError(
        ErrorCode.UNKNOWN_VOICE, f"{message} On offer: {', '.join(offered)}.", param="voice", offered=offered
    )
