"""Splits a text into runs of one script each and names the language whose reader speaks each run."""

import re
import unicodedata
from dataclasses import dataclass, replace

from callboard_tts.domain.pronunciation import PRONUNCIATION
from callboard_tts.domain.script import script_of

# Left out are scripts whose words espeak-ng cannot make out, such as Hebrew without its vowels, Thai and Burmese.
_READERS = {
    "arabic": "ar",
    "armenian": "hy",
    "bengali": "bn",
    "cyrillic": "ru",
    "devanagari": "hi",
    "ethiopic": "am",
    "georgian": "ka",
    "greek": "el",
    "gujarati": "gu",
    "gurmukhi": "pa",
    "han": "zh",
    "hangul": "ko",
    "kana": "ja",
    "kannada": "kn",
    "latin": "en-us",
    "malayalam": "ml",
    "oriya": "or",
    "sinhala": "si",
    "tamil": "ta",
    "telugu": "te",
}
_BY_LETTERS = (
    ("cyrillic", re.compile("[іїєґІЇЄҐ]"), "uk"),
    ("arabic", re.compile("[ٹڈڑںھہےۓ۔]"), "ur"),
    ("arabic", re.compile("[پچژگ]"), "fa"),
)
"""Letters that tell the language of a run whose script several share."""
_OWN = {"hi": {"devanagari"}, "ja": {"han", "kana"}, "zh": {"han"}}
_LATIN = frozenset({"latin"})

SCRIPTS = (*_READERS, "other")
"""All values of the label `script`."""


@dataclass(frozen=True, slots=True)
class Run:
    """A stretch of a text, its script, and the language that reads it; None where there is no reader."""

    text: str
    script: str
    language: str | None


def split_runs(text: str, language: str) -> list[Run]:
    """Splits a text; marks, digits and spaces inside foreign text belong to it, others to the text's own language."""
    own = _OWN.get(language, _LATIN)
    given = {place for match in PRONUNCIATION.finditer(text) for place in range(*match.span())}
    stretches: list[tuple[int, str]] = []
    """Where each stretch begins, and its script; empty for the text's own."""
    pending = 0
    """Where the marks after a foreign stretch begin; they belong to it if more of it follows."""
    for place, character in enumerate(text):
        script = script_of(character)
        if not script and place:
            continue
        is_own = not script or script in own or place in given
        script = "" if is_own else script
        if not stretches or script != stretches[-1][1]:
            stretches.append((place if script else pending, script))
        pending = place + 1
    ends = [begin for begin, _ in stretches[1:]] + [len(text)] * bool(text)
    has_kana = any(script == "kana" for _, script in stretches)
    runs: list[Run] = []
    for (begin, script), end in zip(stretches, ends, strict=True):
        for run in _runs(text[begin:end], script, language, has_kana=has_kana):
            if runs and runs[-1].language == run.language:
                last = runs.pop()
                runs.append(replace(last, text=last.text + run.text))
            else:
                runs.append(run)
    return runs


def _runs(text: str, script: str, language: str, *, has_kana: bool) -> list[Run]:
    body = text
    while body and not (script_of(body[-1]) or unicodedata.combining(body[-1])):
        body = body[:-1]
    # A single Greek letter is a symbol, whose name the text's own reader knows.
    if not script or (script == "greek" and len(body) == 1):
        return [Run(text, "", language)]
    rest = text[len(body) :]
    run = Run(body, script if script in _READERS else "other", _reader(body, script, has_kana=has_kana))
    return [run, Run(rest, "", language)] if rest.strip() else [run]


def _reader(text: str, script: str, *, has_kana: bool) -> str | None:
    if script == "han" and has_kana:
        return "ja"
    for shared, letters, language in _BY_LETTERS:
        if script == shared and letters.search(text):
            return language
    return _READERS.get(script)
