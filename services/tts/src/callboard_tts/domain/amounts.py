"""Reads sums of money and measures."""

import re
from decimal import Decimal

from babel import Locale
from babel.numbers import get_currency_name

from callboard_tts.domain.numbers import Rule, spoken_decimal
from callboard_tts.domain.units import MAX_COUNTED, measured, unit_name, unit_pattern
from callboard_tts.domain.vocabulary import Currency, Vocabulary

_COUNTRIES = {"US": "US", "A": "Australian", "AU": "Australian", "C": "Canadian", "CA": "Canadian", "HK": "Hong Kong"}
_CODES = "USD|EUR|GBP|JPY|CNY|INR|CHF|CAD|AUD|BRL|MXN|KRW|RUB|SEK|NOK|DKK|PLN|CZK|TRY|ZAR|SGD|HKD|NZD"
_ARTICLE = re.compile(r"(?:^|\s)an?\s$", re.IGNORECASE)
"""What ends before a measure that describes a noun: `a 10 meter rope`."""


def number_pattern(vocabulary: Vocabulary) -> str:
    """A number as the language writes it, with its grouping and decimal marks."""
    if vocabulary.decimal_mark == ".":
        return r"(?:\d{1,3}(?:,\d{2,3})*,\d{3}|\d+)(?:\.\d+)?|\.\d+"
    return r"(?:\d{1,3}(?:[.\u00a0\u202f ]\d{3})+|\d+)(?:,\d+)?"


def split_number(text: str, vocabulary: Vocabulary) -> tuple[str, str]:
    """The digits before and after the decimal mark."""
    whole, _, fraction = text.partition(vocabulary.decimal_mark)
    return re.sub(r"\D", "", whole), fraction


def spoken_number(text: str, vocabulary: Vocabulary) -> str:
    """A number as it is spoken: grouping marks are left out, decimals read digit by digit."""
    whole, fraction = split_number(text, vocabulary)
    return spoken_decimal(whole, fraction, vocabulary.decimal) if fraction else whole


def _value(text: str, vocabulary: Vocabulary) -> str:
    whole, fraction = split_number(text, vocabulary)
    return f"{whole or '0'}.{fraction}" if fraction else whole


def money_rules(vocabulary: Vocabulary) -> tuple[Rule, ...]:
    """The rules for sums with a sign before or after the number, or with a code of three letters."""
    number = number_pattern(vocabulary)
    sign = "|".join(re.escape(sign) for sign in sorted(vocabulary.currencies, key=len, reverse=True))
    scales = "|".join(re.escape(scale) for scale in sorted(vocabulary.scales, key=len, reverse=True))
    scale = rf"(?:\s?(?P<scale>{scales})(?!\w))?"
    before = rf"(?<![\w.,])(?P<country>US|AU?|CA?|HK)?(?P<sign>{sign})\s?(?P<number>{number}){scale}"
    to = rf"(?:\s?[-–—]\s?(?:{sign})?\s?(?P<to>{number})(?![\d]))?"
    after = rf"(?<![\w.,$€£])(?P<number>{number}){scale}\s?(?P<sign>{sign})(?!\w)"
    code = rf"(?<![\w.,])(?P<number>{number}){scale}\s?(?P<code>{_CODES})(?!\w)"
    code_before = rf"(?<!\w)(?P<code>{_CODES})\s?(?P<number>{number}){scale}(?![\w])"
    continental = (
        rf"(?<![\w.,])(?:(?P<before>{sign})\s?(?P<grouped>\d{{1,3}}(?:\.\d{{3}})+,\d\d)"
        r"|(?P<euro>€)\s?(?P<plain>\d{1,3},\d\d))(?!\d|,\d)"
    )

    def sum_with_sign(match: re.Match[str]) -> str:
        groups = match.groupdict()
        names = vocabulary.currencies[groups["sign"]]
        country = _COUNTRIES[groups["country"]] if groups.get("country") and vocabulary.language == "en" else ""
        if groups.get("to"):
            last = f" {vocabulary.to} {_sum(groups['to'], None, names, vocabulary)}"
            if match[0].count(groups["sign"]) == 1:
                return spoken_number(groups["number"], vocabulary) + last
            return _sum(groups["number"], None, names, vocabulary) + last
        return _sum(groups["number"], groups["scale"], names, vocabulary, country)

    def sum_with_code(match: re.Match[str]) -> str:
        value = _value(match["number"], vocabulary)
        count = Decimal(2) if match["scale"] or len(value) > MAX_COUNTED else Decimal(value)
        name = get_currency_name(match["code"], count, locale=vocabulary.language)
        if vocabulary.language in {"es", "fr", "it", "pt"}:
            name = name[0].lower() + name[1:]
        return _amount(match["number"], match["scale"], name, vocabulary)

    rules: list[Rule] = [
        Rule(re.compile(before + to), sum_with_sign),
        Rule(re.compile(after), sum_with_sign),
        Rule(re.compile(code), sum_with_code),
        Rule(re.compile(code_before), sum_with_code),
        Rule(
            re.compile(r"(?<=\d)\s?¢"),
            f" {vocabulary.currencies['$'].cents}",
        ),
    ]
    if vocabulary.decimal_mark == ".":
        after_number = r"(?<![\w.,])(?P<number>\d{1,3}(?:\.\d{3})*,\d\d)\s?(?P<sign>€)"

        def continental_sum(match: re.Match[str]) -> str:
            text = match["number"] or match["grouped"] or match["plain"]
            names = vocabulary.currencies[match["sign"] or match["before"] or match["euro"]]
            return _sum(text.replace(".", "").replace(",", "."), None, names, vocabulary)

        rules.insert(0, Rule(re.compile(f"{after_number}|{continental}"), continental_sum))
    return tuple(rules)


def lone_sign_rules(vocabulary: Vocabulary) -> tuple[Rule, ...]:
    """The rules for currency signs that no number follows."""
    return tuple(
        Rule(re.compile(re.escape(sign)), f" {names.one if vocabulary.language == 'en' else names.many} ", sign[-1])
        for sign, names in vocabulary.currencies.items()
    )


def _sum(text: str, scale: str | None, names: Currency, vocabulary: Vocabulary, country: str = "") -> str:
    whole, fraction = split_number(text, vocabulary)
    many = f"{country} {names.many}".strip()
    if scale or (fraction and (not names.cent or len(fraction.rstrip("0")) > 2)):
        return _amount(text, scale, many, vocabulary)
    whole = str(int(whole or "0")) if len(whole) < 19 else whole
    cents = int(fraction[:2].ljust(2, "0")) if fraction else 0
    one = f"{country} {names.one}".strip()
    said_cents = _counted(cents, names.cent, names.cents, vocabulary) if cents else ""
    if whole == "0" and cents:
        return said_cents
    if whole.endswith("000000") and vocabulary.scale_join == " de ":
        many = f"de {many}"
    said = _counted(int(whole), one, many, vocabulary) if len(whole) < 19 else f"{whole} {many}"
    return f"{said} {vocabulary.cents_join} {said_cents}" if said_cents else said


def _counted(count: int, one: str, many: str, vocabulary: Vocabulary) -> str:
    if count == 1:
        return f"1 {one}" if vocabulary.language == "en" else one
    if count == 2 and vocabulary.language == "pt" and one.startswith("uma "):
        return f"duas {many}"
    return f"{count} {many}"


def _amount(text: str, scale: str | None, name: str, vocabulary: Vocabulary) -> str:
    if vocabulary.decimal_mark in text and not scale:
        text = text.rstrip("0")
    number = spoken_number(text, vocabulary)
    if not scale:
        return f"{number} {name}"
    word = vocabulary.scales[scale]
    join = " " if word in {"mil", "mille", "mila"} else vocabulary.scale_join
    if vocabulary.language == "fr" and join == " de " and name[0] in "aeiouy":
        join = " d'"
    return f"{number} {word}{join}{name}"


def unit_rules(vocabulary: Vocabulary) -> tuple[Rule, ...]:
    """The rules for numbers with a unit of measure, also in ranges and as `per` a unit."""
    language = vocabulary.language
    number, symbols = number_pattern(vocabulary), unit_pattern(language)
    before = rf"(?<![\w.,])(?P<number>{number})(?P<to>\s?[-–—]\s?(?:{number}))?"
    per = "km|kg|h|s|min|g|l|L|mi|m|m²|m³|lb|oz|gal|yr|mo|wk|hr|sec|GB|MB|TB"
    after = rf"(?![\w²³°*]|/(?!(?:{per})\b)|'\w)"

    def measure(match: re.Match[str]) -> str:
        if match["unit"] == "K" and not match["gap"]:
            return match[0]
        text, last = match["number"], match["number"]
        said = spoken_number(text, vocabulary)
        if match["to"]:
            last = re.sub(r"^\s?[-–—]\s?", "", match["to"])
            said = f"{said} {vocabulary.to} {spoken_number(last, vocabulary)}"
        end = "" if match["stop"] else (match["end"] or "")
        is_adjective = language == "en" and _ARTICLE.search(match.string[max(0, match.start() - 4) : match.start()])
        if match["gap"] == "-" or is_adjective:
            return f"{said} {unit_name(match['unit'], language, plural=language != 'en')}{end}"
        return measured(said, match["unit"], language, value=_value(last, vocabulary)) + end

    def feet(match: re.Match[str]) -> str:
        inches = f" {measured(match[2], 'in', language)}" if match[2] else ""
        return measured(match[1], "ft", language) + inches

    return (
        Rule(re.compile(r"(?<![\w.,])(\d{1,2})'\s?(\d{1,2})\"(?!\w)"), feet),
        Rule(
            re.compile(
                rf"{before}(?P<gap>[ \u00a0-]?)(?P<unit>{symbols})"
                rf"(?:(?P<stop>\.(?=\s+[a-z,;(]))|(?P<end>\.(?=\W|$))|{after})"
            ),
            measure,
        ),
        Rule(
            re.compile(rf"(?<=\w)\s?/\s?({per})(?![\w/])"),
            lambda match: f" {_per(language)} {unit_name(match[1], language, plural=False)}",
        ),
        Rule(re.compile(r"(?<=\d)\s?°(?!\w)"), f" {unit_name('°', language, plural=True)}"),
    )


def _per(language: str) -> str:
    return {"en": "per", "es": "por", "fr": "par", "it": "al", "pt": "por"}.get(language, "प्रति")


def month_names(language: str) -> tuple[str, ...]:
    """The names of the months."""
    return tuple(Locale.parse(language).months["format"]["wide"].values())
