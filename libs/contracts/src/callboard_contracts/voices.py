"""Kokoro's voices, and how a blend of voices is written.

The names are part of the public model; a name's first letter is its language, the second says female or male. A blend
is a sum such as `af_bella(2)+af_sky(1)`: each part is a voice with an optional weight, 1 where none is given. Parts may
also be parted by commas, as in `af_bella,af_sky`.
"""

import re
from dataclasses import dataclass
from typing import Literal

from callboard_contracts.errors import CallboardError, ErrorCode

KOKORO_LANGUAGES: dict[str, str] = {
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
"""The language tag behind the first letter of a voice's name."""

KOKORO_VOICES: tuple[str, ...] = (
    *("af_alloy", "af_aoede", "af_bella", "af_heart", "af_jessica", "af_kore"),
    *("af_nicole", "af_nova", "af_river", "af_sarah", "af_sky"),
    *("am_adam", "am_echo", "am_eric", "am_fenrir", "am_liam", "am_michael", "am_onyx", "am_puck", "am_santa"),
    *("bf_alice", "bf_emma", "bf_isabella", "bf_lily"),
    *("bm_daniel", "bm_fable", "bm_george", "bm_lewis"),
    *("ef_dora", "em_alex", "em_santa"),
    "ff_siwis",
    *("hf_alpha", "hf_beta", "hm_omega", "hm_psi"),
    *("if_sara", "im_nicola"),
    *("jf_alpha", "jf_gongitsune", "jf_nezumi", "jf_tebukuro", "jm_kumo"),
    *("pf_dora", "pm_alex", "pm_santa"),
    *("zf_xiaobei", "zf_xiaoni", "zf_xiaoxiao", "zf_xiaoyi"),
    *("zm_yunjian", "zm_yunxi", "zm_yunxia", "zm_yunyang"),
)
"""The 54 voices of Kokoro-82M, sorted by language and name."""

MAX_BLEND_PARTS = 8
MAX_WEIGHT = 100.0

_PART = re.compile(r"\s*(?P<voice>[^\s()+][^()+]*?)\s*(?:\(\s*(?P<weight>\d{1,3}(?:\.\d{1,4})?)\s*\))?\s*")


@dataclass(frozen=True, slots=True)
class BlendPart:
    """One voice of a blend and its share, a plain weight that need not add up to 1 with the others."""

    voice: str
    weight: float = 1.0


def kokoro_language(voice: str) -> str | None:
    """The language tag of a Kokoro voice's name, or None where the name follows another scheme."""
    return KOKORO_LANGUAGES.get(voice[0]) if re.fullmatch(r"[a-z][fm]_\w+", voice) else None


def kokoro_gender(voice: str) -> Literal["female", "male"] | None:
    """The gender of a Kokoro voice's name, or None where the name follows another scheme."""
    if kokoro_language(voice) is None:
        return None
    return "female" if voice[1] == "f" else "male"


def parse_blend(text: str) -> tuple[BlendPart, ...]:
    """Reads a voice or a blend of voices; raises CallboardError (unknown_voice) for one that is not well-formed.

    Whether the named voices exist is not checked here. A voice that is named twice counts with both weights.
    """
    pieces = re.split(r"[+,]", text)
    if len(pieces) > MAX_BLEND_PARTS:
        raise _malformed(f"A blend has at most {MAX_BLEND_PARTS} voices.")
    parts: list[BlendPart] = []
    for piece in pieces:
        match = _PART.fullmatch(piece)
        if match is None:
            raise _malformed("A voice is a name or a blend such as 'af_bella(2)+af_sky(1)'.")
        weight = float(match["weight"]) if match["weight"] is not None else 1.0
        if not 0 < weight <= MAX_WEIGHT:
            raise _malformed(f"The weight of a voice lies above 0 and at most at {MAX_WEIGHT:g}.")
        parts.append(BlendPart(match["voice"], weight))
    return tuple(parts)


def _malformed(message: str) -> CallboardError:
    return CallboardError(ErrorCode.UNKNOWN_VOICE, message, param="voice")
