"""Reads e-mail addresses, links, file names, IP addresses and phone numbers."""

import re

from callboard_tts.domain.numbers import Rule, digits, spoken_decimal
from callboard_tts.domain.vocabulary import Vocabulary

_TOP_LEVEL = (
    "com|org|net|edu|gov|mil|int|io|ai|app|dev|info|biz|co|uk|de|fr|es|eu|ch|nl|ca|au|jp|cn|ru|br|pl|se|fi|dk|ie|nz|mx|"
    "tv|xyz|online|site|tech|cloud|blog|shop|example"
)
_EXTENSION = (
    "txt|md|pdf|docx?|xlsx?|pptx?|csv|tsv|json|ya?ml|toml|xml|html?|css|jsx?|tsx?|py|rb|go|rs|java|cpp|hpp|cs|php|sh|"
    "bat|sql|ini|cfg|conf|log|lock|env|zip|tar|gz|tgz|rar|7z|exe|dll|iso|png|jpe?g|gif|svg|webp|bmp|ico|mp3|mp4|wav|"
    "ogg|flac|avi|mkv|mov|webm|ttf|bin|dat|db|sqlite|ipynb|tex|apk|deb|rpm|onnx|gguf"
)
_EMAIL = r"(?<![\w.+%-])[\w.+%&'-]{1,64}@(?:[\w-]{1,63}\.){1,8}[A-Za-z]{2,24}(?:/[\w./?=&#%~+-]{0,500}[\w/])?(?!\w)"
_LINK = (
    r"(?<![\w@.])(?:(?:https?|ftp|file)://|www\.)[^\s<>\"”’]{1,2000}(?<![.,;:!?)\]}*_'])"
    rf"|(?<![\w@./-])(?:[A-Za-z0-9][\w-]{{0,62}}\.){{1,8}}(?:{_TOP_LEVEL})(?:\.[a-z]{{2}})?(?:/[\w./?=&#%~+-]{{0,500}}[\w/]|/)?(?![\w@-]|\.\w)"
)
_FILE = (
    rf"(?<![\w@.-])(?:[\w-]{{1,64}}\.){{1,5}}(?:{_EXTENSION})(?![\w-]|\.\w)"
    r"|(?<![\w/.~])(?:~|\.{1,2})?(?:/[\w.-]{0,62}[\w-]){2,12}/?(?!\w)"
)
_WORDS = re.compile(r"\d+|[^\W\d_]+|[^\w\s]|_")
_VOWEL = re.compile(r"[aeiouáéíóúâêôãõàèìòùäëïöü]|[^\x00-\x7f]|y", re.IGNORECASE)
_COUNTRY = re.compile(r"\.([a-z]{2})(?=$|[/:])")
_SPELLED = frozenset(["ai", "io", "uk", "eu", "au", "id", "ui", "ip", "os", "js", "ts", "py", "db"])


def address_rules(vocabulary: Vocabulary) -> tuple[Rule, ...]:
    """The rules for addresses and file names; numbers in them are read digit by digit."""

    def spoken(match: re.Match[str]) -> str:
        return spoken_address(match[0], vocabulary)

    def address_parts(match: re.Match[str]) -> str:
        parts = [digits(part, vocabulary.language) for part in match[1].split(".")]
        said = f" {vocabulary.address['.']} ".join(parts)
        return f"{said} {vocabulary.address[':']} {digits(match[2], vocabulary.language)}" if match[2] else said

    return (
        Rule(re.compile(_EMAIL), spoken),
        Rule(re.compile(_LINK), spoken),
        Rule(re.compile(_FILE, re.IGNORECASE), spoken),
        Rule(re.compile(r"(?<![\w.])(\d{1,3}(?:\.\d{1,3}){3})(?::(\d{1,5}))?(?![\w]|\.\d)"), address_parts),
    )


def version_rules(vocabulary: Vocabulary) -> tuple[Rule, ...]:
    """The rules for numbers with several points, such as versions; they come after those for dates."""
    return (
        Rule(re.compile(r"\bv(?=\d+(?:\.\d+)+(?!\w))", re.IGNORECASE), f"{vocabulary.version} "),
        Rule(
            re.compile(r"(?<![\w.,])\d{1,4}(?:\.\d{1,4}){2,6}(?![\w]|[.,]\d)"),
            lambda match: _version(match[0], vocabulary),
        ),
    )


def spoken_address(text: str, vocabulary: Vocabulary) -> str:
    """An address as it is spoken: `anna at example dot com`."""
    countries = {match[1] for match in _COUNTRY.finditer(text)}
    said: list[str] = []
    for part in _WORDS.findall(text):
        if part.isdecimal():
            said.append(digits(part, vocabulary.language))
        elif part.isalpha():
            spelled = part.lower() in countries or part.lower() in _SPELLED or not _VOWEL.search(part)
            said.append(" ".join(part.upper()) if spelled else part)
        elif part in vocabulary.address:
            said.append(vocabulary.address[part])
    return " ".join(said)


def _version(text: str, vocabulary: Vocabulary) -> str:
    mark = vocabulary.decimal if vocabulary.decimal_mark == "." else vocabulary.address["."]
    if re.fullmatch(r"\d{1,3}(?:\.\d{3})+", text) and vocabulary.decimal_mark == ",":
        return text
    return f" {mark} ".join(text.split("."))


_GROUPED = (
    r"(?<![\w.,/(-])(?P<prefix>\+\d{1,3}[ .-]?|1[ .-])?"
    r"(?P<rest>(?:\(\d{2,5}\) ?|\d{3}[-. ])\d{3,5}[-. ]\d{4}(?:-\d{1,4})?)(?![\w-]|[.,]\d)"
    r"|(?<![\w(])(?P<country>\+\d{1,3})(?P<national>(?:[ .-]?\(?\d{1,5}\)?){2,6})(?![\w-]|[.,]\d)"
)
_OF_LANGUAGE = {
    "es": r"(?<![\w.,/(-])[6-9](?:\d\d[ -]\d{3}[ -]\d{3}|\d \d{3} \d\d \d\d|\d\d \d\d \d\d \d\d)(?![\w-]|[.,]\d)",
    "hi": r"(?<![\w.,/(-])[6-9]\d{4}[ -]\d{5}(?![\w-]|[.,]\d)",
}
_GROUPS_OF_TWO = r"(?<![\w.,/(-])0\d(?:[ .]\d\d){4}(?![\w-]|[.,]\d)"
_LEADING_ZERO = r"(?<![\w.,/(:-])0\d{1,4}[ -/]\d{3,8}(?:[ -]\d{3,4})?(?![\w-]|[.,]\d)"
_CARD = r"(?<![\w.,-])\d{4}([ -])\d{4}\1\d{4}\1\d{4}(?![\w-]|[.,]\d)"


def phone_rules(vocabulary: Vocabulary) -> tuple[Rule, ...]:
    """The rules for phone and card numbers: digits in groups, with a comma between groups."""

    def grouped(match: re.Match[str]) -> str:
        if sum(character.isdecimal() for character in match[0]) < 7:
            return match[0]
        said = [_phone_group(group, vocabulary) for group in re.findall(r"\d+", match[0])]
        plus = f"{vocabulary.signs['+']} " if match[0].startswith("+") else ""
        return plus + ", ".join(said)

    patterns = [_CARD, _GROUPED, _GROUPS_OF_TWO, _LEADING_ZERO]
    if vocabulary.language in _OF_LANGUAGE:
        patterns.append(_OF_LANGUAGE[vocabulary.language])
    return tuple(Rule(re.compile(pattern), grouped) for pattern in patterns)


def _phone_group(group: str, vocabulary: Vocabulary) -> str:
    if vocabulary.language == "en" and re.fullmatch(r"[1-9]00", group):
        return f"{digits(group[0])} hundred"
    return digits(group, vocabulary.language)


def decimal_rules(vocabulary: Vocabulary) -> tuple[Rule, ...]:
    """The rules for numbers with marks in them; whole numbers stay digits, without grouping marks."""
    language, mark = vocabulary.language, re.escape(vocabulary.decimal_mark)
    if vocabulary.decimal_mark == ".":
        groups = r"(?<![\d.,])\d{1,3}(?:,\d{2,3})*,\d{3}(?![\d,]|\.\d*,)"
        stray = f" {vocabulary.decimal} "
    else:
        groups = r"(?<![\d.,])\d{1,3}(?:[.\u00a0 ]\d{3})+(?![\d.]|[ ]\d)"
        stray = "  "
    return (
        Rule(re.compile(groups), lambda match: re.sub(r"\D", "", match[0])),
        Rule(
            re.compile(rf"(?<![\d.,])(\d+){mark}(\d+)(?![.,]?\d)"),
            lambda match: spoken_decimal(match[1], match[2], vocabulary.decimal),
        ),
        Rule(
            re.compile(rf"(?<![\w.,]){mark}(\d+)(?![.,]?\d)"),
            lambda match: spoken_decimal("", match[1], vocabulary.decimal),
        ),
        Rule(re.compile(r"(?<=\d)\.(?=\d)"), stray),
        Rule(
            re.compile(r"(?<![\w.,])(?:0\d+|\d{13,})(?!\w|[.,]\d)"),
            lambda match: digits(match[0], language),
        ),
    )
