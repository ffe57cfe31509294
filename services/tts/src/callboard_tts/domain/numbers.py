"""Numbers in words: ordinals, years, digits, fractions and Roman numerals.

Cardinals mostly stay digits, because every engine reads them in its own language.
"""

import re
from collections.abc import Callable, Iterable
from typing import NamedTuple

from num2words import num2words

_NUM2WORDS = {"en": "en", "es": "es", "fr": "fr", "it": "it", "pt": "pt_BR"}
_HINDI_DIGITS = ("शून्य", "एक", "दो", "तीन", "चार", "पाँच", "छह", "सात", "आठ", "नौ")
_HINDI_ORDINALS = {1: "पहला", 2: "दूसरा", 3: "तीसरा", 4: "चौथा", 6: "छठा"}
_DIGITS = {
    **{
        language: tuple(str(num2words(digit, lang=code)) for digit in range(10))
        for language, code in _NUM2WORDS.items()
    },
    "hi": _HINDI_DIGITS,
}
_ROMAN = re.compile(r"(X{0,3}|XL|LX{0,3}|XC|C{0,3})(IX|IV|V?I{0,3})")
_ROMAN_VALUES = {"I": 1, "V": 5, "X": 10, "L": 50, "C": 100}
ASCII_DIGITS = "0123456789"
MAX_ORDINAL = 10**15


def ordinal(number: int, language: str = "en") -> str:
    """An ordinal in words, masculine where the language asks."""
    if language == "hi":
        return _HINDI_ORDINALS.get(number, f"{number}वाँ")
    if number >= MAX_ORDINAL:
        return str(number)
    return str(num2words(number, lang=_NUM2WORDS[language], to="ordinal"))


def year(number: int) -> str:
    """An English year in words, as it is usually spoken."""
    return str(num2words(number, to="year")).replace("oh-", "oh ").replace(" and ", " ")


def digits(text: str, language: str = "en") -> str:
    """Each digit of a text in words; other characters are left out."""
    words = _DIGITS.get(language, _DIGITS["en"])
    return " ".join(words[int(character)] for character in text if character.isdecimal())


def letters_and_digits(text: str, language: str = "en") -> str:
    """Separates letters from numbers, which are read digit by digit."""
    parts = re.findall(r"\d+|[^\W\d_]+", text)
    return " ".join(digits(part, language) if part[0].isdecimal() else part for part in parts)


def roman_value(text: str) -> int:
    """The value of a canonical Roman numeral below 400, or 0."""
    if not text or not _ROMAN.fullmatch(text):
        return 0
    values = [_ROMAN_VALUES[letter] for letter in text]
    return sum(
        -value if value < following else value for value, following in zip(values, [*values[1:], 0], strict=True)
    )


def spoken_decimal(whole: str, fraction: str, word: str) -> str:
    """A decimal number: digits, the word for the mark, and each digit after it."""
    number = f"{whole} {word}" if whole else word
    return f"{number} {' '.join(fraction)}"


class Rule(NamedTuple):
    """A pattern and what its matches become."""

    pattern: re.Pattern[str]
    rewrite: str | Callable[[re.Match[str]], str]
    needs: str = ""
    """The rule is skipped for texts that have none of these characters."""


def needing(characters: str, rules: Iterable[Rule]) -> tuple[Rule, ...]:
    """Rules that are skipped for texts without any of some characters."""
    return tuple(rule if rule.needs else rule._replace(needs=characters) for rule in rules)


def rewritten(text: str, rules: tuple[Rule, ...]) -> str:
    """Applies rules in order."""
    present = set(text)
    for pattern, rewrite, needs in rules:
        if needs and present.isdisjoint(needs):
            continue
        changed = pattern.sub(rewrite, text)
        if changed != text:
            text, present = changed, set(changed)
    return text
