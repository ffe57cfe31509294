"""Reads fractions, powers and mathematical signs."""

import re
import unicodedata

from callboard_tts.domain.numbers import Rule, ordinal
from callboard_tts.domain.vocabulary import Vocabulary

_SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿ", "0123456789+-n")
_SUBSCRIPTS = str.maketrans("₀₁₂₃₄₅₆₇₈₉", "0123456789")
_ALIASES = str.maketrans("−∕∗∙⋅·≦≧⩽⩾≅∼", "−÷××××≤≥≤≥≈≈")
_ONE_CHARACTER = "¼½¾⅐⅑⅒⅓⅔⅕⅖⅗⅘⅙⅚⅛⅜⅝⅞"
_FRACTION = re.compile(r"(?<![\w/.,])(?:(\d{1,6})[ -])?(\d{1,3})/(\d{1,3})(?:ths?|rds?|nds?)?(?![\w/%]|[.,]\d)")
_NUMBERLIKE = r"(?:\d|(?<![^\W\d_])[A-Za-z](?![^\W\d_])|\))"
_OPERAND = r"(?=\s{0,2}[-−+(√]?(?:\d|\(|[A-Za-zπ]\b))"


def fraction_rules(vocabulary: Vocabulary) -> tuple[Rule, ...]:
    """The rules for fractions, written with a slash or as one character."""

    def fraction(match: re.Match[str]) -> str:
        return _fraction(match, vocabulary)

    return (
        Rule(re.compile(r"(\d?)([\u00bc-\u00be\u2150-\u215e])"), _one_character, _ONE_CHARACTER),
        Rule(_FRACTION, fraction, "/"),
    )


def _one_character(match: re.Match[str]) -> str:
    text = unicodedata.normalize("NFKC", match[2]).replace("\u2044", "/")
    return f"{match[1]} {text}" if match[1] else text


def _fraction(match: re.Match[str], vocabulary: Vocabulary) -> str:
    number, above, below = match[1], int(match[2]), int(match[3])
    if vocabulary.language == "en" and not number and (above, below) in {(24, 7), (50, 50), (9, 11), (7, 11)}:
        return f"{above} {below}"
    if vocabulary.language == "en" and not number and above == below > 1:
        return f"{above} out of {below}"
    if not number and match.string[match.end() :].lstrip().startswith("="):
        return f"{above} {vocabulary.signs['÷']} {below}"
    if not number and above > below > 10:
        return f"{above} {vocabulary.over} {below}"
    names = _fraction_names(below, vocabulary)
    if names is None or above == 0 or (above >= below and vocabulary.language != "en"):
        said = f"{above} {vocabulary.over} {below}"
    elif vocabulary.language == "en":
        said = f"one {names[0]}" if above == 1 else f"{above} {names[1]}"
    else:
        said = _romance_fraction(above, below, names, vocabulary)
    if not number:
        return said
    if vocabulary.language == "en" and (above, below) == (1, 2):
        return f"{number} and a half"
    if vocabulary.language in {"es", "it", "fr", "pt"} and (above, below) == (1, 2):
        return f"{number} {vocabulary.signs['&']} {names[0] if names else said}"
    return f"{number} {vocabulary.signs['&']} {said}"


def _romance_fraction(above: int, below: int, names: tuple[str, str], vocabulary: Vocabulary) -> str:
    if above != 1:
        return f"{above} {names[1]}"
    if vocabulary.language == "hi":
        return names[0] if below == 2 else f"एक {names[0]}"
    if below == 2 and vocabulary.language in {"it", "pt"}:
        return names[0]
    return f"{'um' if vocabulary.language == 'pt' else 'un'} {names[0]}"


def _fraction_names(below: int, vocabulary: Vocabulary) -> tuple[str, str] | None:
    if below in vocabulary.fractions:
        return vocabulary.fractions[below]
    if vocabulary.language == "en" and below > 2:
        name = ordinal(below)
        return name, f"{name}s"
    if vocabulary.language in {"fr", "it"} and 3 <= below <= 100:
        name = ordinal(below, vocabulary.language)
        return name, f"{name}s" if vocabulary.language == "fr" else f"{name[:-1]}i"
    return None


def difference_rules(vocabulary: Vocabulary) -> tuple[Rule, ...]:
    """The rules for a hyphen that means minus; they come before those for ranges."""
    formula = (
        r"(?<=\d)\s?-\s?(?=\d[\d.,]{0,20}\s?[=<>≤≥≠×÷])"
        r"|(?<=[\d)])\s?-\s(?=[\dA-Za-z(][\w.]{0,20}\s?=)|(?<=[A-Za-z)])\s-\s(?=\d[\d.]{0,20}\s?=)"
    )
    return (Rule(re.compile(formula), f" {vocabulary.signs['−']} "),)


def sign_rules(vocabulary: Vocabulary) -> tuple[Rule, ...]:
    """The rules for mathematical signs; signs between words that are no formula stay."""
    signs = vocabulary.signs
    to_minus = f" {signs['−']} "

    def power(match: re.Match[str]) -> str:
        exponent = match[1].translate(_SUPERSCRIPTS)
        if exponent in {"2", "3"}:
            return f" {signs['²' if exponent == '2' else '³']}"
        return f" {signs['^']} {exponent.replace('-', signs['−'] + ' ').replace('+', '')}"

    between = {sign: re.escape(sign) for sign in "×÷±≤≥≠≈"}
    return (
        Rule(re.compile("[−∕∗∙⋅·≦≧⩽⩾≅∼]"), lambda match: match[0].translate(_ALIASES), "−∕∗∙⋅·≦≧⩽⩾≅∼"),
        Rule(re.compile("([₀-₉]+)"), lambda match: f" {match[1].translate(_SUBSCRIPTS)} ", "₀₁₂₃₄₅₆₇₈₉"),
        Rule(re.compile(r"(?<=[\w)])([⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿ]+)"), power, "⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿ"),
        Rule(re.compile(r"(?<=[\w)])\^\(?(-?\d{1,6}|[a-z])\b\)?"), power, "^"),
        Rule(re.compile(r"\s?(−)\s?(?=[\d(A-Za-z])"), to_minus, "−"),
        *(Rule(re.compile(rf"\s?{mark}\s?"), f" {signs[sign]} ", sign) for sign, mark in between.items()),
        Rule(re.compile(r"\+/-"), f" {signs['±']} ", "+"),
        Rule(re.compile(rf"(?<=\d)\s?\*\s?(?=\d)|(?<=[a-z\d])\s\*\s{_OPERAND}"), f" {signs['×']} ", "*"),
        Rule(re.compile(r"(?<=\d)x(?=\d)"), f" {signs['×'] if vocabulary.language != 'en' else 'by'} "),
        Rule(re.compile(r"\s?[<>]=\s?"), lambda match: f" {signs['≤' if '<' in match[0] else '≥']} ", "="),
        Rule(re.compile(r"\s?!=\s?"), f" {signs['≠']} ", "!"),
        Rule(re.compile(rf"\s?(?<![=!<>])=(?![=>]){_OPERAND}\s?|(?<=\s)=(?=\s)"), f" {signs['=']} ", "="),
        Rule(
            re.compile(r"(?:(?<=[\d)])\s?|(?<=\s))([<>])(?=\s?-?[\d(])|(?<=\s)([<>])(?=\s)"),
            lambda match: f" {signs[match[1] or match[2]]} ",
            "<>",
        ),
        Rule(re.compile("√"), f" {signs['√']} ", "√"),
        Rule(re.compile("∞"), f" {signs['∞']} ", "∞"),
        Rule(re.compile("π"), " pi ", "π"),
        Rule(re.compile(r"(?<=\d)\s?%"), f" {signs['%']}", "%"),
        Rule(re.compile("%"), f" {signs['%']} ", "%"),
        Rule(re.compile("‰"), f" {signs['‰']} ", "‰"),
        Rule(re.compile(r"(?<=\w)\+\+(?!\w)"), f" {signs['+']} {signs['+']}", "+"),
        Rule(re.compile(r"(?<=[\w)])\s?\+\s?(?=[\w(])"), f" {signs['+']} ", "+"),
        Rule(re.compile(r"(?<!\S)\+(?=\d)"), f"{signs['+']} ", "+"),
        Rule(re.compile(r"(?<=\d)\+(?!\w)"), f" {signs['+']}", "+"),
        Rule(re.compile(r"(?<![\w)\]-])-(?=[\d.]*\d)"), f"{signs['−']} "),
    )
