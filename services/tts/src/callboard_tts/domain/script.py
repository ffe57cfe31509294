"""Classifies characters of every script for the splitter and the readers."""

import re
import unicodedata
from functools import lru_cache

SENTENCE_MARKS = ".!?…"
WIDE_SENTENCE_MARKS = "。！？｡．।॥؟۔"
CLAUSE_MARKS = ",;:"
WIDE_CLAUSE_MARKS = "，、；：､،؛—"
"""Marks that end a sentence or a clause even without a space after them."""
CLOSERS = "\"'”’»›)]}」』）】》〉*_~`"
"""Marks that belong to the sentence before them; the end of emphasis in Markdown is one."""

_SCRIPTS_BY_NAME = {
    "CJK": "han",
    "IDEOGRAPHIC": "han",
    "HIRAGANA": "kana",
    "KATAKANA": "kana",
    "COMBINING": "",
    "VARIATION": "",
    "MODIFIER": "",
    "DIGIT": "",
}
"""The scripts of characters whose name begins with another word than that of their script."""

CJK_WORD_SHARE = 0.5
UNSPACED_WORD_SHARE = 0.25


def is_cjk(character: str) -> bool:
    """Whether a character is Chinese, Japanese or Korean, where a line may break anywhere."""
    code = ord(character)
    return (
        0x3040 <= code <= 0x30FF
        or 0x3400 <= code <= 0x4DBF
        or 0x4E00 <= code <= 0x9FFF
        or 0xAC00 <= code <= 0xD7AF
        or 0xF900 <= code <= 0xFAFF
        or 0xFF66 <= code <= 0xFF9F
        or 0x20000 <= code <= 0x323AF
    )


def is_unspaced(character: str) -> bool:
    """Whether a character is Thai, Lao, Khmer or Burmese, which put no spaces between words."""
    code = ord(character)
    return 0x0E00 <= code <= 0x0EFF or 0x1780 <= code <= 0x17FF or 0x1000 <= code <= 0x109F


def sound_units(character: str) -> float:
    """About how many phonemes a character has, where a Latin letter has one; it bounds the length of a piece."""
    if character.isdigit():
        return 4.0
    if is_cjk(character):
        return 2.0 if 0x3040 <= ord(character) <= 0x30FF else 4.0
    return 1.0


def word_share(character: str, follows_word: bool) -> float:
    """How much of a word begins with this character; with `follows_word` it continues one."""
    if is_cjk(character):
        return CJK_WORD_SHARE
    if is_unspaced(character):
        return UNSPACED_WORD_SHARE
    return 1.0 if character.isalnum() and not follows_word else 0.0


@lru_cache(maxsize=4096)
def script_of(character: str) -> str:
    """The script of a letter or a digit in lower case, such as `latin` or `han`; empty for marks and usual digits.

    It is the first word of the character's name in Unicode, since Python has no table of scripts.
    """
    if not (character.isalnum() or unicodedata.category(character).startswith("M")):
        return ""
    name = unicodedata.name(unicodedata.normalize("NFKC", character)[0], "")
    first = re.split("[ -]", name, maxsplit=1)[0]
    return _SCRIPTS_BY_NAME.get(first, first.lower())
