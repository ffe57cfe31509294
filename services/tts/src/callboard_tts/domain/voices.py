"""Voices, their languages and blends."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from callboard_contracts.errors import CallboardError, ErrorCode
from callboard_contracts.voices import KOKORO_LANGUAGES, parse_blend

_ALIASES = {
    "en": "en-us",
    "es-es": "es",
    "fr": "fr-fr",
    "hi-in": "hi",
    "it-it": "it",
    "ja-jp": "ja",
    "pt": "pt-br",
    "cmn": "zh",
    "zh-cn": "zh",
}


@dataclass(frozen=True, slots=True)
class Voice:
    """An offered voice and its language tag; the tag is empty where the engine decides."""

    name: str
    language: str = ""


@dataclass(frozen=True, slots=True)
class VoiceChoice:
    """A resolved voice: the requested name, each part's share (they sum to 1), and the language of the text."""

    spec: str
    parts: tuple[tuple[str, float], ...]
    language: str = ""


def choose_voice(
    spec: str, language: str | None, known: Sequence[Voice], aliases: Mapping[str, str] | None = None
) -> VoiceChoice:
    """Resolves the voice and the language of a request.

    Without a requested language, the first voice of a blend decides. An engine that lists no voices gets the name
    unchanged.

    Raises:
        CallboardError: the voice is not offered, or no offered voice speaks the language.
    """
    spec = (aliases or {}).get(spec, spec)
    if not known:
        return VoiceChoice(spec, ((spec, 1.0),), language or "")
    languages = {voice.name: voice.language for voice in known}
    parts = ((spec, 1.0),) if spec in languages else _shares(spec)
    for name, _ in parts:
        if name not in languages:
            raise CallboardError(
                ErrorCode.UNKNOWN_VOICE,
                "No voice of that name is offered.",
                param="voice",
                offered=tuple(sorted(languages)),
            )
    return VoiceChoice(spec, parts, _language(language, set(languages.values())) or languages[parts[0][0]])


def _shares(spec: str) -> tuple[tuple[str, float], ...]:
    """Each voice of a blend once, with its share."""
    weights: dict[str, float] = {}
    for part in parse_blend(spec):
        weights[part.voice] = weights.get(part.voice, 0.0) + part.weight
    total = sum(weights.values())
    return tuple((name, weight / total) for name, weight in weights.items())


def _language(requested: str | None, offered: set[str]) -> str | None:
    if not requested:
        return None
    if not offered - {""}:
        return requested
    tag = requested.lower().replace("_", "-")
    tag = KOKORO_LANGUAGES.get(tag, _ALIASES.get(tag, tag))
    if tag not in offered:
        raise CallboardError(
            ErrorCode.UNSUPPORTED,
            "No voice of this model speaks that language.",
            param="language",
            offered=tuple(sorted(offered - {""})),
        )
    return tag
