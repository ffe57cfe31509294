"""Rules a text as it is spoken: numbers, sums, dates, abbreviations and addresses become words.

Whole numbers mostly stay digits, because every engine reads them in its own language. Grapheme-to-phoneme engines split
a text at every mark, so a point inside a number or after `Dr` would be heard as a pause.
"""

import re
from functools import cache

from callboard_tts.domain.asian import asian_rules
from callboard_tts.domain.characters import decoded_entities, plain_characters
from callboard_tts.domain.english import english_rules
from callboard_tts.domain.european import european_rules
from callboard_tts.domain.numbers import Rule, rewritten
from callboard_tts.domain.pronunciation import NO_WORDS, WordList
from callboard_tts.domain.vocabulary import VOCABULARIES

_HEART = re.compile(r"(^|[^\W\d_]{2}|[.!?,)])\s*<3+(?![\d.,%])")
_SPACES = re.compile(r"[ \t\u00a0]+")
_SPACE_BEFORE_MARK = re.compile(r" +(?=[,.!?;:…](?:\s|$))")
_ASIAN = ("zh", "ja")


def normalize_text(text: str, language: str, words: WordList = NO_WORDS) -> str:
    """Rules a text as it is spoken; a text in a language without rules keeps its numbers.

    What `words` lists, and what the text gives as `[word](/ipa/)`, is left as it is given.
    """
    return "".join(part if is_final else _normalized(part, language) for part, is_final in words.parts(text))


def _normalized(text: str, language: str) -> str:
    text = plain_characters(decoded_entities(text))
    text = _HEART.sub(r"\1", text)
    base = language.partition("-")[0]
    if base not in VOCABULARIES and base not in _ASIAN:
        return text
    spoken = rewritten(text, _rules(language))
    if spoken == text:
        return text
    lead, trail = text[: len(text) - len(text.lstrip())], text[len(text.rstrip()) :]
    spoken = _SPACE_BEFORE_MARK.sub("", _SPACES.sub(" ", spoken)).strip()
    return f"{lead}{spoken}{trail}"


@cache
def _rules(language: str) -> tuple[Rule, ...]:
    base = language.partition("-")[0]
    if base in _ASIAN:
        return asian_rules(base)
    if base == "en":
        return english_rules(day_first=language == "en-gb")
    return european_rules(VOCABULARIES[base])
