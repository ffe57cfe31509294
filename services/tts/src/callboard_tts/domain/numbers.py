"""Writes out numbers, sums of money, dates and abbreviations as words.

Grapheme-to-phoneme engines split a text at every mark, so a point inside a number or after `Dr` would be heard as a
pause. Numbers are repaired for every language; the other rules are for English.
"""

import re
from collections.abc import Callable

from num2words import num2words

_DECIMAL_WORDS = {
    "en": ("point", "."),
    "es": ("coma", ","),
    "fr": ("virgule", ","),
    "it": ("virgola", ","),
    "pt": ("vírgula", ","),
    "hi": ("दशमलव", "."),
}
_GROUPED = {
    ".": re.compile(r"(?<![\d.,])\d{1,3}(?:,\d{3})+(?![\d,])"),
    ",": re.compile(r"(?<![\d.,])\d{1,3}(?:[.\u00a0 ]\d{3})+(?![\d.])"),
}

_MONTHS = "January February March April May June July August September October November December".split()  # noqa: SIM905 - words read best as a line of words
_MONTH = "|".join([*_MONTHS, *(month[:3] for month in _MONTHS)])
_MONEY = {
    "$": ("dollar", "cent"),
    "€": ("euro", "cent"),
    "£": ("pound", "penny"),
    "¥": ("yen", ""),
    "₹": ("rupee", "paisa"),
}
_PLURALS = {"yen": "yen", "penny": "pence", "paisa": "paise"}
_SCALE = "thousand|million|billion|trillion|k|K|M|bn|B"
_SCALES = {"k": "thousand", "K": "thousand", "M": "million", "B": "billion", "bn": "billion"}
_UNITS = {
    "km/h": "kilometers per hour",
    "mph": "miles per hour",
    "km": "kilometers",
    "cm": "centimeters",
    "mm": "millimeters",
    "kg": "kilograms",
    "mg": "milligrams",
    "lbs": "pounds",
    "ml": "milliliters",
    "ms": "milliseconds",
    "kHz": "kilohertz",
    "MHz": "megahertz",
    "GHz": "gigahertz",
    "Hz": "hertz",
    "KB": "kilobytes",
    "MB": "megabytes",
    "GB": "gigabytes",
    "TB": "terabytes",
    "°C": "degrees Celsius",
    "°F": "degrees Fahrenheit",
    "°": "degrees",
    "%": "percent",
}
_ABBREVIATIONS = {
    "mr": "Mister",
    "mrs": "Missus",
    "ms": "Miz",
    "dr": "Doctor",
    "prof": "Professor",
    "jr": "Junior",
    "sr": "Senior",
    "rev": "Reverend",
    "gen": "General",
    "col": "Colonel",
    "sgt": "Sergeant",
    "capt": "Captain",
    "lt": "Lieutenant",
    "gov": "Governor",
    "st": "Saint",
    "mt": "Mount",
    "ft": "Fort",
    "vs": "versus",
    "etc": "et cetera",
    "approx": "approximately",
    "dept": "Department",
    "inc": "Incorporated",
    "ltd": "Limited",
    "corp": "Corporation",
}
_BEFORE_NAMES = frozenset("mr mrs ms dr prof rev gen col sgt capt lt gov st mt ft".split())  # noqa: SIM905 - words read best as a line of words

Rewrite = tuple[re.Pattern[str], str | Callable[[re.Match[str]], str]]


def normalize_text(text: str, language: str) -> str:
    """Rewrites a text as it is spoken; a text in a language without rules stays as it is."""
    language = language.partition("-")[0]
    if language == "en":
        for pattern, rewrite in _ENGLISH:
            text = pattern.sub(rewrite, text)
    return _plain_numbers(text, language)


def ordinal(number: int) -> str:
    """An English ordinal in words."""
    return str(num2words(number, to="ordinal"))


def year(number: int) -> str:
    """An English year in words, as it is usually spoken."""
    return str(num2words(number, to="year")).replace("oh-", "oh ").replace(" and ", " ")


def _decade(match: re.Match[str]) -> str:
    words = year(int(match[1]))
    return f"{words[:-1]}ies" if words.endswith("y") else f"{words}s"


def _plain_numbers(text: str, language: str) -> str:
    if language not in _DECIMAL_WORDS:
        return text
    word, mark = _DECIMAL_WORDS[language]
    text = _GROUPED[mark].sub(lambda match: re.sub(r"\D", "", match[0]), text)
    decimal = rf"(?<![\d.,])(\d+){re.escape(mark)}(\d+)(?![\d.,]?\d)"
    text = re.sub(decimal, lambda match: f"{match[1]} {word} {' '.join(match[2])}", text)
    return re.sub(r"(?<=\d)\.(?=\d)", f" {word if mark == '.' else ''} ", text)


def _money(match: re.Match[str]) -> str:
    whole, cents, scale = match["whole"].replace(",", ""), match["cents"], match["scale"]
    major, minor = _MONEY[match["sign"]]
    if scale:
        amount = f"{whole} point {' '.join(cents)}" if cents else whole
        return f"{amount} {_SCALES.get(scale, scale)} {_plural(major, '2')}"
    said = f"{whole} {_plural(major, whole)}"
    if cents and len(cents) == 2 and int(cents) and minor:
        small = f"{int(cents)} {_plural(minor, str(int(cents)))}"
        return small if whole == "0" else f"{said} and {small}"
    return said if not cents or not int(cents) else f"{whole} point {' '.join(cents)} {_plural(major, '2')}"


def _plural(noun: str, amount: str) -> str:
    return noun if amount == "1" else _PLURALS.get(noun, f"{noun}s")


def _iso_date(match: re.Match[str]) -> str:
    month, day = int(match[2]), int(match[3])
    if not (1 <= month <= 12 and 1 <= day <= 31):
        return match[0]
    return f"{_MONTHS[month - 1]} {ordinal(day)}, {year(int(match[1]))}"


def _month_day(match: re.Match[str]) -> str:
    month = next(name for name in _MONTHS if name.startswith(match[1][:3]))
    day = int(match[2])
    if not 1 <= day <= 31:
        return match[0]
    return f"{month} {ordinal(day)}" + (f", {year(int(match[3]))}" if match[3] else "")


def _clock(match: re.Match[str]) -> str:
    hour, minute, half = int(match[1]), int(match[2]), (match[3] or "").replace(".", "").lower()
    if hour > 24 or minute > 59:
        return match[0]
    if minute == 0:
        said = str(hour) if half else f"{hour} o'clock" if hour <= 12 else f"{hour} hundred"
    else:
        said = f"{hour} {'oh ' if minute < 10 else ''}{minute}"
    if not half:
        return said
    goes_on = match[4] and match[4].strip().islower()
    stop = "." if match[3].endswith(".") and not goes_on else ""
    return f"{said} {half[0].upper()} M{stop}{match[4] or ''}"


def _abbreviation(match: re.Match[str]) -> str:
    word, follows = match[1], match[2]
    key = word.lower()
    if key in _BEFORE_NAMES and not (word[0].isupper() and follows and follows.strip()[:1].isupper()):
        return match[0]
    if key == "etc":
        return f"{_ABBREVIATIONS[key]}{'.' if not follows or follows.strip()[:1].isupper() else ''}{follows or ''}"
    return _ABBREVIATIONS[key] + (follows or "" if follows or key in _BEFORE_NAMES else ".")


def _initials(match: re.Match[str]) -> str:
    letters = " ".join(match[1].replace(".", ""))
    return letters if match[2] else f"{letters}."


_YEAR_WORDS = (
    "in|since|from|until|till|by|of|around|year|before|after|to|and|late|early|mid|between|circa|"
    f"summer|winter|spring|autumn|fall|{'|'.join(_MONTHS)}"
)
_OPENINGS = "The|Then|There|They|This|That|These|Those|It|He|She|We|You|I|And|But|So|If|In|At|On|A|An|When|What|Why|Now"
"""Words that begin a sentence, so that the letter and full stop before one are not an initial."""
_ENGLISH: tuple[Rewrite, ...] = (
    (re.compile(r"\be\.\s?g\.,?", re.IGNORECASE), "for example,"),
    (re.compile(r"\bi\.\s?e\.,?", re.IGNORECASE), "that is,"),
    (re.compile(rf"\b({'|'.join(_ABBREVIATIONS)})\.(\s+\S)?", re.IGNORECASE), _abbreviation),
    (re.compile(r"\bNo\.\s?(?=\d)", re.IGNORECASE), "number "),
    (re.compile(r"#(?=\d)"), "number "),
    (re.compile(r"(?<![\d-])(1\d{3}|20\d{2})-(\d{2})-(\d{2})(?![\d-])"), _iso_date),
    (re.compile(rf"\b({_MONTH})\.? (\d{{1,2}})(?:st|nd|rd|th)?\b(?:,? ((?:1\d|20)\d{{2}})\b(?!,?\d))?"), _month_day),
    (re.compile(r"(?<![\d:])(\d{1,2}):(\d{2})(?![\d:])(?:\s?([ap]\.m\.|[ap]m\b)(\s+\S)?)?", re.IGNORECASE), _clock),
    (
        re.compile(
            rf"(?P<sign>[$€£¥₹])\s?(?P<whole>\d+(?:,\d{{3}})*)(?:\.(?P<cents>\d+))?(?:\s?(?P<scale>{_SCALE})\b)?"
        ),
        _money,
    ),
    (
        re.compile(
            rf"\b(?P<word>{_YEAR_WORDS})(?P<gap> (?:the )?)(?P<year>1[1-9]\d{{2}}|20\d{{2}})(?![\d,.:%°]\d|\d)",
            re.IGNORECASE,
        ),
        lambda match: f"{match['word']}{match['gap']}{year(int(match['year']))}",
    ),
    (re.compile(r"\b((?:1[1-9]|20)\d0)'?s\b"), _decade),
    (
        re.compile(
            rf"(?<=\d)\s?({'|'.join(re.escape(unit) for unit in sorted(_UNITS, key=len, reverse=True))})(?![\w/])"
        ),
        lambda match: f" {_UNITS[match[1]]}",
    ),
    (re.compile(r"(?<![\d-])(\d+)\s?[–—-]\s?(\d+)(?![\d-])"), r"\1 to \2"),
    (re.compile(r"(?<=\d)\s?[*×]\s?(?=\d)"), " times "),
    (re.compile(r"\s?&\s?"), " and "),
    (re.compile(r"(?<=\w)\s?\+\s?(?=\w)"), " plus "),
    (re.compile(r"\s=\s"), " equals "),
    (re.compile(r"(?<!\S)-(?=\d)"), "minus "),
    (re.compile(r"\b((?:[A-Za-z]\.){2,})(?=(\s+[^\sA-Z])?)"), _initials),
    (re.compile(rf"\b([A-HJ-Z])\.(?=\s+(?!(?:{_OPENINGS})\b)[A-Z])"), r"\1"),
)
