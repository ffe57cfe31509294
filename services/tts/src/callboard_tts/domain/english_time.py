"""Reads English dates, times of day, years and decades."""

import re

from callboard_tts.domain.numbers import Rule, digits, ordinal, year
from callboard_tts.domain.tables import listed

MONTHS = listed("January February March April May June July August September October November December")
_SHORT = [*(month[:3] for month in MONTHS), "Sept"]
MONTH = "|".join([*MONTHS, *_SHORT])
_FULL_MONTH = "|".join(MONTHS)
_YEAR_WORDS = (
    "in|since|from|until|till|by|of|around|year|before|after|to|and|late|early|mid|between|circa|during|"
    f"summer|winter|spring|autumn|fall|{_FULL_MONTH}"
)
_YEAR = r"(?:1[1-9]\d{2}|20\d{2})"
_TENS = listed("twenties thirties forties fifties sixties seventies eighties nineties")
_WEEKDAYS = listed("Monday Tuesday Wednesday Thursday Friday Saturday Sunday")
_WEEKDAY = r"Mon|Tues?|Wed|Thu(?:rs?)?|Fri|Sat|Sun"
_HALF = r"a\.\s?m\.?|p\.\s?m\.?|am\b|pm\b"
_ZONE = r"[ECMP]\.?[SD]?\.?T\b\.?|GMT\b|UTC\b|CET\b|BST\b"


def month_day(month: str, day: int, year_text: str | None) -> str:
    """A date as `May first, twenty twenty-four`."""
    return f"{month} {ordinal(day)}" + (f", {_year(year_text)}" if year_text else "")


def _year(text: str) -> str:
    if len(text) == 2:
        return f"oh {int(text)}" if text[0] == "0" else text
    return year(int(text))


def _month(name: str) -> str:
    return next(month for month in MONTHS if month.lower().startswith(name[:3].lower()))


def _iso(match: re.Match[str]) -> str:
    month, day = int(match[3]), int(match[4])
    if not (1 <= month <= 12 and 1 <= day <= 31):
        return match[0]
    return month_day(MONTHS[month - 1], day, match[1])


def _numeric(match: re.Match[str], *, day_first: bool) -> str:
    first, second, year_text = int(match[1]), int(match[3]), match[4]
    if match[2] == "." and len(year_text) == 2:
        return match[0]
    if (day_first and second <= 12) or first > 12:
        day, month = first, second
        if not (1 <= day <= 31 and 1 <= month <= 12):
            return match[0]
        return f"the {ordinal(day)} of {MONTHS[month - 1]}, {_year(year_text)}"
    if not (1 <= first <= 12 and 1 <= second <= 31):
        return match[0]
    return month_day(MONTHS[first - 1], second, year_text)


def _month_first(match: re.Match[str]) -> str:
    month, day, last, year_text = _month(match[1]), int(match[2]), match[3], match[4]
    if not 1 <= day <= 31 or (last and not day < int(last) <= 31):
        return match[0]
    if match[1] in {"may", "march", "mar", "dec"} and not year_text:
        return match[0]
    to = f" to {ordinal(int(last))}" if last else ""
    return f"{month} {ordinal(day)}{to}" + (f", {_year(year_text)}" if year_text else "")


def _day_first(match: re.Match[str]) -> str:
    the, day, month, year_text = match[1], int(match[2]), match[3], match[5]
    if not 1 <= day <= 31 or (month in {"may", "march", "mar", "dec", "sun"} and not year_text):
        return match[0]
    said = f"{the or 'the '}{ordinal(day)} of {_month(month)}"
    if year_text:
        return f"{said}, {_year(year_text)}"
    return f"{said}." if match[4] and (len(month) > 4 or month.lower() in {"may", "june", "july"}) else said


def _clock(match: re.Match[str]) -> str:
    hour, minute = int(match["hour"]), int(match["minute"] or 0)
    written, follows = match["zone"] or match["half"] or "", (match["next"] or "").strip()
    half = (match["half"] or "").replace(".", "").replace(" ", "").lower()
    if not half and match["mark"] != ":":
        return match[0]
    if hour > 24 or minute > 59 or int(match["second"] or 0) > 59:
        return match[0]
    if match["second"]:
        said = f"{_many(hour, 'hour')} {_many(minute, 'minute')} and {_many(int(match['second']), 'second')}"
    elif minute == 0:
        said = str(hour) if half else f"{hour} o'clock" if hour <= 12 else f"{hour} hundred"
    else:
        said = f"{hour} {'oh ' if minute < 10 else ''}{minute}"
    if half:
        said = f"{said} {half[0].upper()} M"
    if match["zone"]:
        said = f"{said} {' '.join(match['zone'].replace('.', '').upper())}"
    goes_on = follows.islower() or follows in {"-", "–"}
    return f"{said}." if written.endswith(".") and not goes_on else said


def _many(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def _decade(match: re.Match[str]) -> str:
    words = year(int(match[1]))
    return f"{words[:-1]}ies" if words.endswith("y") else f"{words}s"


def _short_decade(match: re.Match[str]) -> str:
    return _TENS[int(match[1]) - 2]


def _year_range(match: re.Match[str]) -> str:
    first, last = match[1], match[2]
    if len(last) == 2 and int(last) <= int(first[2:]):
        return match[0]
    return f"{year(int(first))} to {last if len(last) == 2 else year(int(last))}"


def _quarter(match: re.Match[str]) -> str:
    number, kind, end = int(match[1]), match[2].upper(), match[3]
    if kind == "H" and number > 2:
        return match[0]
    return f"the {ordinal(number)} {'quarter' if kind == 'Q' else 'half'} of {_year(end)}"


def _era(match: re.Match[str]) -> str:
    number = int(match[1])
    said = year(number) if number >= 1000 else f"{match[1][0]} {match[1][1:]}" if len(match[1]) == 3 else match[1]
    if len(match[1]) == 3 and match[1][1] == "0":
        said = match[1] if match[1].endswith("00") else f"{match[1][0]} oh {match[1][2]}"
    return f"{said} {' '.join(match[2].replace('.', '').upper())}"


def _weekday(match: re.Match[str]) -> str:
    return _weekday_named(match[1])


def _weekday_named(name: str) -> str:
    return next(day for day in _WEEKDAYS if day.startswith(name[:3]))


def time_rules(*, day_first: bool) -> tuple[Rule, ...]:
    """The rules for dates and times; `day_first` reads 10/06 as the tenth of June."""
    year_end = r"(?:,? ((?:1\d|20)\d{2})\b(?!,?\d))?"
    return (
        Rule(re.compile(r"(?<![\d/.-])(1\d{3}|20\d{2})([-/.])(\d{1,2})\2(\d{1,2})(?![\d/-]|\.\d)"), _iso),
        Rule(
            re.compile(r"(?<![\d/.-])(\d{1,2})([-/.])(\d{1,2})\2((?:1\d|20)\d{2}|\d{2})(?![\d/-]|\.\d)"),
            lambda match: _numeric(match, day_first=day_first),
        ),
        Rule(
            re.compile(rf"\b(the )?(\d{{1,2}})(?:st|nd|rd|th)?(?: of)? ({MONTH})\b(\.?){year_end}", re.IGNORECASE),
            _day_first,
        ),
        Rule(
            re.compile(
                rf"\b({MONTH})(?:\.? |\.|-)(\d{{1,2}})(?:st|nd|rd|th)?\b(?![:%]|[.,]\d)(?:\s?[-–]\s?(\d{{1,2}})"
                rf"\b(?![-\d]))?"
                r"(?:(?:,? |-)((?:1\d|20)\d{2})\b(?!,?\d))?",
                re.IGNORECASE,
            ),
            _month_first,
        ),
        Rule(
            re.compile(rf"\b({MONTH})\.?\s?[-–]\s?({MONTH})\b\.?(?=[\s,;)]|$)"),
            lambda match: f"{_month(match[1])} to {_month(match[2])}",
        ),
        Rule(re.compile(rf"\b({MONTH})\.(?= ?\d)"), lambda match: _month(match[1])),
        Rule(re.compile(r"\bQ([1-4]),? ((?:19|20)\d\d)\b"), lambda match: f"Q {match[1]} {year(int(match[2]))}", "Q"),
        Rule(
            re.compile(
                rf"\b({_WEEKDAY})(?:\.(?=\s?[-–,&]|\s(?:\d|[a-z]|(?:{MONTH})\b))|(?=\s?[-–]\s?(?:{_WEEKDAY})\b))"
            ),
            _weekday,
        ),
        Rule(re.compile(rf"(?<=day)\s?[-–]\s?({_WEEKDAY})\b\.?"), lambda match: f" to {_weekday(match)}"),
        Rule(
            re.compile(rf"(?<=day)(\s(?:&|and|to|through|or)\s)({_WEEKDAY})(?:\.(?!\s*$|\s[A-Z])|\b)"),
            lambda match: f"{match[1]}{_weekday_named(match[2])}",
        ),
        Rule(re.compile(r"(?<!\w)'0(\d)(?!\w)"), r"oh \1", "'"),
        Rule(
            re.compile(
                rf"(?<![\d:.,])(?P<hour>\d{{1,2}})(?:(?P<mark>[:.])(?P<minute>\d{{2}}))?(?::(?P<second>\d{{2}}))?(?![\d:])"
                rf"(?:\s?(?P<half>{_HALF}))?(?:\s?(?P<zone>{_ZONE}))?(?=(?P<next>\s*\S)?)",
                re.IGNORECASE,
            ),
            _clock,
        ),
        Rule(re.compile(r"(?<=\d [AP] M)\.?\s?[-–]\s?(?=\d)"), " to "),
        Rule(re.compile(r"(?<=o'clock)\s?[-–]\s?(?=\d)"), " to "),
        Rule(re.compile(r"(?<![\d:.])(\d{1,3}):(\d{1,3})(?![\d:])"), r"\1 to \2"),
        Rule(re.compile(r"(?<![\w.-])([1-4])([QH])(\d{2})\b"), _quarter),
        Rule(re.compile(r"\b(\d{1,4}) ?(A\.?D\.?|B\.?C\.?(?:E\.?)?|C\.?E\.?)(?!\w)"), _era),
        Rule(re.compile(r"\b((?:1[1-9]|20)\d0)(?:'?s| s)\b"), _decade),
        Rule(re.compile(r"(?:(?<=ies)\s?[-–]\s?|(?<![\w.]))'?([2-9])0'?s\b"), _decade_end),
        Rule(re.compile(r"(?<=ies)\s?[-–]\s?(?=[a-z])"), " to "),
        Rule(
            re.compile(rf"(?<![\w.,$€£-])({_YEAR})\s?[-–—]\s?({_YEAR}|\d\d)(?![\w-]|[.,]\d|\s?(?:kg|km|lb|m)\b)"),
            _year_range,
        ),
        Rule(
            re.compile(
                rf"\b(?P<word>{_YEAR_WORDS})(?P<gap> (?:the (?:year )?)?)(?P<year>{_YEAR})(?![\d,.:%°]\d|\d|"
                rf"\s?[-–]\s?\d)"
                r"(?! (?:people|times|years|days|men|women|dollars|euros|pounds|percent|words|of)\b)",
                re.IGNORECASE,
            ),
            lambda match: f"{match['word']}{match['gap']}{year(int(match['year']))}",
        ),
        Rule(
            re.compile(
                rf"(?:^|(?<=[(,;] )|(?<=\())({_YEAR})(?=[),;.!?]*$|\)|,\s|\s(?:was|is|had|has|saw|will|for the)\b)"
            ),
            lambda match: year(int(match[1])),
        ),
    )


def _decade_end(match: re.Match[str]) -> str:
    to = " to " if match[0][0] in " -–" else ""
    return f"{to}{_short_decade(match)}"


def spoken_year_digits(text: str) -> str:
    """The number of a house or a year in pairs: `fourteen twenty-eight`, `seven oh eight`."""
    if len(text) == 4 and text[0] != "0":
        return year(int(text)) if int(text) >= 1100 else text
    if len(text) == 3:
        if text.endswith("00"):
            return text
        return f"{text[0]} oh {text[2]}" if text[1] == "0" else f"{text[0]} {text[1:]}"
    return digits(text) if len(text) > 4 else text
