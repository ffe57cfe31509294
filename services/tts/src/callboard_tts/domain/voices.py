"""Voices: their languages, and blends of several into one."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from callboard_contracts.errors import CallboardError, ErrorCode

LANGUAGES = {
    "a": "en-us",
    "b": "en-gb",
    "e": "es",
    "f": "fr-fr",
    "h": "hi",
    "i": "it",
    "j": "ja",
    "p": "pt-br",
    "z": "zh",
}
"""Kokoro's voices begin with a letter that tells the language they were made for."""

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
_PART = re.compile(r"([A-Za-z0-9_.-]+)(?:\(([0-9]*\.?[0-9]+)\))?")
MAX_PARTS = 8
MAX_SPEC_CHARACTERS = 256


@dataclass(frozen=True, slots=True)
class Voice:
    """A voice on offer and the language it speaks, as a tag; an empty tag when the engine decides."""

    name: str
    language: str = ""


@dataclass(frozen=True, slots=True)
class VoiceChoice:
    """A resolved voice: what was asked for, each part's share (they sum to 1), and the language to read in."""

    spec: str
    parts: tuple[tuple[str, float], ...]
    language: str = ""


def parse_blend(spec: str) -> tuple[tuple[str, float], ...]:
    """Reads `name`, `a,b` (equal shares) or `a(2)+b(1)`; shares are scaled to sum to 1, a repeated name adds up.

    Raises:
        CallboardError: the text is not such a list, has more than 8 parts, or no share is above zero.
    """
    pieces = [piece.strip() for piece in re.split(r"[+,]", spec)]
    if len(spec) > MAX_SPEC_CHARACTERS or len(pieces) > MAX_PARTS:
        raise CallboardError(
            ErrorCode.INVALID_REQUEST, f"A voice may be a blend of at most {MAX_PARTS} voices.", param="voice"
        )
    shares: dict[str, float] = {}
    for piece in pieces:
        match = _PART.fullmatch(piece)
        if match is None:
            raise CallboardError(
                ErrorCode.INVALID_REQUEST,
                "The voice is neither a name nor a blend such as af_bella(2)+af_sky(1).",
                param="voice",
            )
        shares[match[1]] = shares.get(match[1], 0.0) + (float(match[2]) if match[2] else 1.0)
    total = sum(shares.values())
    if total <= 0:
        raise CallboardError(
            ErrorCode.INVALID_REQUEST, "At least one voice of a blend needs a weight above zero.", param="voice"
        )
    return tuple((name, share / total) for name, share in shares.items() if share > 0)


def choose_voice(
    spec: str, language: str | None, known: Sequence[Voice], aliases: Mapping[str, str] | None = None
) -> VoiceChoice:
    """Finds the voice that a request means and the language it reads in.

    The first voice of a blend gives the language unless the request names one. An engine that lists no voices gets
    the name as it came.

    Raises:
        CallboardError: the voice is not on offer, or no voice on offer speaks the language.
    """
    spec = (aliases or {}).get(spec, spec)
    if not known:
        return VoiceChoice(spec, ((spec, 1.0),), language or "")
    languages = {voice.name: voice.language for voice in known}
    parts = ((spec, 1.0),) if spec in languages else parse_blend(spec)
    for name, _ in parts:
        if name not in languages:
            raise CallboardError(
                ErrorCode.UNKNOWN_VOICE,
                "No voice of that name is offered.",
                param="voice",
                offered=tuple(sorted(languages)),
            )
    return VoiceChoice(spec, parts, _language(language, set(languages.values())) or languages[parts[0][0]])


def language_of(voice: str) -> str:
    """The language tag of a Kokoro voice, by its first letter; empty for a letter that is none of Kokoro's."""
    return LANGUAGES.get(voice[:1], "")


def _language(wanted: str | None, offered: set[str]) -> str | None:
    if not wanted:
        return None
    if not offered - {""}:
        return wanted
    tag = wanted.lower().replace("_", "-")
    tag = LANGUAGES.get(tag, _ALIASES.get(tag, tag))
    if tag not in offered:
        raise CallboardError(
            ErrorCode.UNSUPPORTED,
            "No voice of this model speaks that language.",
            param="language",
            offered=tuple(sorted(offered - {""})),
        )
    return tag
