"""Reads Spanish, French, Italian, Portuguese and Hindi texts, by one set of rules and each language's words."""

import re

from callboard_tts.domain.addresses import address_rules, decimal_rules, phone_rules, version_rules
from callboard_tts.domain.amounts import lone_sign_rules, money_rules, month_names, unit_rules
from callboard_tts.domain.mathematics import difference_rules, fraction_rules, sign_rules
from callboard_tts.domain.numbers import ASCII_DIGITS, Rule, needing, ordinal, roman_value
from callboard_tts.domain.units import unit_name
from callboard_tts.domain.vocabulary import Vocabulary

_ROMAN = r"(?=[IVXL]+(?:er|e|ème)?\b)[IVXL]{1,8}"
_CENTURY = {"es": r"[Ss]iglos?|\bs\.", "fr": "[Ss]iècles?", "it": "[Ss]ecol[oi]", "pt": "[Ss]éculos?"}
_RULERS = {
    "es": "Felipe|Carlos|Alfonso|Fernando|Enrique|Juan|Pedro|Isabel|Luis|Pablo|Benedicto|Jaime|Sancho|Pío|León|"
    "Francisco|Napoleón|Guillermo|Jorge|Eduardo|Gregorio|Nicolás|Alejandro|Catalina|Ramsés|rey|reina|papa|Papa|Rey|Reina",
    "fr": "Louis|Henri|Charles|François|Napoléon|Philippe|Jean|Paul|Benoît|Pie|Léon|Élisabeth|Elisabeth|Georges|"
    "Édouard|"
    "Guillaume|Frédéric|Nicolas|Alexandre|Catherine|Ramsès|Robert|Jacques|Pierre|Grégoire|Clovis",
    "it": "Luigi|Carlo|Enrico|Vittorio|Emanuele|Umberto|Giovanni|Paolo|Benedetto|Pio|Leone|Francesco|Federico|Filippo|"
    "Napoleone|Elisabetta|Giorgio|Edoardo|Guglielmo|Ferdinando|Nicola|Alessandro|Caterina|Gregorio|Clemente|Ramses",
    "pt": "Pedro|João|Manuel|José|Luís|Carlos|Afonso|Sancho|Fernando|Filipe|Sebastião|Henrique|Paulo|Bento|Pio|Leão|"
    "Francisco|Isabel|Elizabeth|Maria|Dinis|Duarte|Jorge|Eduardo|Guilherme|Napoleão|Nicolau|Gregório|Ramsés|Luis",
}
_LAST_ORDINAL = {"es": 10, "fr": 1, "it": 100, "pt": 10}
"""From the next number on, rulers are counted with cardinals."""
_NUMBERED = {
    "es": "Guerra Mundial|capítulo|Capítulo|tomo|Tomo|acto|Acto|parte|Parte|libro|Libro|volumen|Volumen|"
    "artículo|fase|tipo",
    "fr": "chapitre|Chapitre|tome|Tome|acte|Acte|partie|Partie|livre|Livre|volume|Volume|article|phase|type|scène",
    "it": "capitolo|Capitolo|tomo|Tomo|atto|Atto|parte|Parte|libro|Libro|volume|Volume|articolo|fase|tipo|scena",
    "pt": "capítulo|Capítulo|tomo|Tomo|ato|Ato|parte|Parte|livro|Livro|volume|Volume|artigo|fase|tipo|cena",
}
_ORDINAL_MARKS = {
    "es": r"(\d{1,3})\.?(?:(º|°|er\b|ro\b|do\b|to\b|o\b)|(ª|ra\b|da\b|ta\b|a\b))(?!\w)",
    "fr": r"(\d{1,3})(?:(er|ème|ième|eme|nd|e)|(re|ère|nde))(?!\w)",
    "it": r"(\d{1,3})(?:(º|°)|(ª))(?!\s?[CF]\b)(?!\w)",
    "pt": r"(\d{1,3})\.?(?:(º|°)|(ª))(?!\s?[CF]\b)(?!\w)",
}


def european_rules(vocabulary: Vocabulary) -> tuple[Rule, ...]:
    """All rules for one language, in order."""
    return (
        *address_rules(vocabulary),
        *needing(ASCII_DIGITS, phone_rules(vocabulary)),
        *needing(ASCII_DIGITS, _date_rules(vocabulary)),
        *needing(ASCII_DIGITS, version_rules(vocabulary)),
        *needing(ASCII_DIGITS, _clock_rules(vocabulary)),
        *needing(ASCII_DIGITS, money_rules(vocabulary)),
        *fraction_rules(vocabulary),
        *_part_rules(vocabulary),
        Rule(re.compile(r"(?<!\w)c/\s?(?=[A-Z])" if vocabulary.language == "es" else "(?!)"), "calle ", "/"),
        *_ordinal_rules(vocabulary),
        *needing(ASCII_DIGITS, unit_rules(vocabulary)),
        *_abbreviation_rules(vocabulary),
        Rule(re.compile(r"\b[Nn]\.?[º°]\s?(?=\d)|#(?=\d)"), f"{vocabulary.number} "),
        *needing("=<>≤≥≠×÷", difference_rules(vocabulary)),
        Rule(re.compile(r"(?<![\w-])(\d+)\s?[–—-]\s?(\d+)(?![\d-])"), rf"\1 {vocabulary.to} \2"),
        Rule(re.compile(r"(?<![\w'’-])([IVX]{2,8})(?![\w'’-])"), _roman_left, "IVX"),
        *sign_rules(vocabulary),
        Rule(re.compile(r"\s?&\s?"), f" {vocabulary.signs['&']} "),
        Rule(re.compile(r"@\s?"), f" {vocabulary.signs['@']} "),
        Rule(re.compile(r"(?<![\w&])#(?=\w)"), "hashtag "),
        *lone_sign_rules(vocabulary),
        *needing(ASCII_DIGITS, decimal_rules(vocabulary)),
    )


def _date(day: int, month: int, year: str, vocabulary: Vocabulary) -> str:
    said_day = vocabulary.first_day if day == 1 else str(day)
    said_year = year
    if vocabulary.language == "hi" and re.fullmatch(r"1[1-9]\d\d", year):
        said_year = f"{year[:2]} सौ {int(year[2:]) or ''}".strip()
    return vocabulary.date.format(day=said_day, month=month_names(vocabulary.language)[month - 1], year=said_year)


def _date_rules(vocabulary: Vocabulary) -> tuple[Rule, ...]:
    months = "|".join(re.escape(month) for month in month_names(vocabulary.language))

    def date(match: re.Match[str]) -> str:
        day, month, year = int(match[1]), int(match[3]), match[4]
        if not (1 <= day <= 31 and 1 <= month <= 12):
            return match[0]
        return _date(day, month, f"20{year}" if len(year) == 2 else year, vocabulary)

    def iso(match: re.Match[str]) -> str:
        year, month, day = match[1], int(match[3]), int(match[4])
        if not (1 <= day <= 31 and 1 <= month <= 12):
            return match[0]
        return _date(day, month, year, vocabulary)

    return (
        Rule(re.compile(r"(?<![\d/.-])(1\d{3}|20\d{2})([-/.])(\d{1,2})\2(\d{1,2})(?![\d/-]|[.,]\d)"), iso),
        Rule(re.compile(r"(?<![\d/.,-])(\d{1,2})([-/.])(\d{1,2})\2(\d{4}|\d{2})(?![\d/-]|[.,]\d)"), date),
        Rule(
            re.compile(rf"(?<![\w.,])1(?:º|°|er|\.)?(?= (?:de )?(?:{months})\b)", re.IGNORECASE), vocabulary.first_day
        ),
    )


def _clock_rules(vocabulary: Vocabulary) -> tuple[Rule, ...]:
    separator = "[:hH]" if vocabulary.language in {"fr", "pt", "es"} else ":"

    def clock(match: re.Match[str]) -> str:
        hour, minute = int(match[1]), int(match[2] or 0)
        if hour > 24 or minute > 59:
            return match[0]
        template = vocabulary.minutes if minute else vocabulary.hour
        said = template.format(h=hour, m=minute)
        if vocabulary.language == "fr" and hour in {0, 1}:
            said = said.replace("1 heures", "une heure").replace("0 heures", "zéro heure")
        if vocabulary.language == "pt":
            said = {1: "uma hora", 2: "duas horas"}.get(hour, said) if not minute else said
            said = re.sub(r"^1 e", "uma e", re.sub(r"^2 e", "duas e", said))
        return said

    rules: list[Rule] = [
        Rule(
            re.compile(
                rf"(?<![\w:.,])(\d{{1,2}}){separator}(\d{{2}})(?:\s?(?:h|horas|heures|hs|बजे)(?!\w)\.?)?(?![\w:])"
            ),
            clock,
        )
    ]
    if vocabulary.language in {"fr", "pt"}:
        rules.append(Rule(re.compile(r"(?<![\w:.,])(\d{1,2})\s?h()(?![\w:])"), clock))
    rules.append(Rule(re.compile(r"(?<![\d:.])(\d{1,3}):(\d{1,3})(?![\d:])"), rf"\1 {vocabulary.to} \2"))
    return tuple(rules)


def _part_rules(vocabulary: Vocabulary) -> tuple[Rule, ...]:
    """The rules for a unit after a fraction: `half a kilogram`."""
    names = "|".join(re.escape(name) for pair in vocabulary.fractions.values() for name in pair)

    def part(match: re.Match[str]) -> str:
        return f"{match[1]} {unit_name(match[2], vocabulary.language, plural=False)}"

    article = "(?:un )?" if vocabulary.language == "es" else ""
    return (Rule(re.compile(rf"\b{article}({names}) (kg|g|km|m|l|L|h|t)(?!\w)"), part),)


def _roman_left(match: re.Match[str]) -> str:
    """A numeral after no known word; espeak-ng would say that it is Roman."""
    return str(roman_value(match[1]) or match[1])


def _ordinal_rules(vocabulary: Vocabulary) -> tuple[Rule, ...]:
    language = vocabulary.language
    if language == "hi":
        words = {"1": "पहल", "2": "दूसर", "3": "तीसर", "4": "चौथ"}
        return (
            Rule(re.compile(r"(?<![\w.,])([1-4])(?:ला|रा|था)(?!\w)"), lambda match: f"{words[match[1]]}ा"),
            Rule(re.compile(r"(?<![\w.,])([1-4])(?:ली|री|थी)(?!\w)"), lambda match: f"{words[match[1]]}ी"),
            Rule(re.compile(r"(?<=\d)(?=व[ाे]ँ|व[ीें])"), ""),
        )

    def marked(match: re.Match[str]) -> str:
        return _gendered(int(match[1]), language, feminine=bool(match[3]))

    def ruler(match: re.Match[str]) -> str:
        value = roman_value(match[2])
        if not value:
            return match[0]
        said = ordinal(value, language) if value <= _LAST_ORDINAL[language] else str(value)
        return f"{match[1]} {said}"

    def cardinal(match: re.Match[str]) -> str:
        value = roman_value(match[2])
        return f"{match[1]} {value}" if value else match[0]

    def before_century(match: re.Match[str]) -> str:
        value = roman_value(match[1])
        return ordinal(value, language) if value else match[0]

    century = _CENTURY[language]
    return (
        Rule(re.compile(rf"(?<![\w.,]){_ORDINAL_MARKS[language]}"), marked),
        Rule(re.compile(rf"(?<!\w)({century}) ({_ROMAN})\b"), cardinal),
        Rule(re.compile(rf"(?<!\w)((?:{century}) \d+ (?:y|e|et|a|al|ao)) ({_ROMAN})\b"), cardinal),
        Rule(re.compile(r"\b(?!Ie)([IVX]{1,7})(?:e|ème)\b" if language == "fr" else "(?!)"), before_century),
        Rule(re.compile(rf"\b({_ROMAN})(?:e|ème)?(?= (?:{century}))"), before_century),
        Rule(re.compile(rf"\b({_RULERS[language]}) ({_ROMAN})(?:er)?\b(?!')"), ruler),
        Rule(re.compile(rf"\b({_NUMBERED[language]}) ({_ROMAN})\b(?!')"), cardinal),
        Rule(re.compile(rf"\b(?=II)({_ROMAN})(?= (?:Guerra|guerra))"), _before_war(language)),
        Rule(re.compile(rf"\b([A-ZÀ-Ý][\w'-]{{3,20}}) (?!I\b|V\b|X\b|L\b|XL\b)({_ROMAN})\b(?![.'-]\w)"), cardinal),
    )


def _before_war(language: str) -> str:
    """The word for `II` before a war."""
    return {"es": "Segunda", "it": "Seconda", "pt": "Segunda"}.get(language, "II")


def _gendered(number: int, language: str, *, feminine: bool) -> str:
    said = ordinal(number, language)
    if not feminine:
        return said
    if language == "fr":
        return {1: "première", 2: "seconde"}.get(number, said)
    return re.sub(r"o\b", "a", said)


def _abbreviation_rules(vocabulary: Vocabulary) -> tuple[Rule, ...]:
    table = vocabulary.abbreviations

    def expanded(match: re.Match[str]) -> str:
        key = match[1].lower()
        follows = (match[2] or "").strip()
        if key in vocabulary.before_names and not (follows[:1].isupper() or follows[:1].isdigit() or "।" in follows):
            if not (vocabulary.language == "hi" and follows):
                return match[0]
        elif len(key) <= 2 and not follows:
            return match[0]
        said = table[key]
        said = said[0].upper() + said[1:] if match[1][0].isupper() and key not in vocabulary.before_names else said
        ends = not follows or (
            follows[:1].isupper() and key not in vocabulary.before_names and key not in {"a. c", "d. c"}
        )
        return f"{said}." if ends else said

    dotted = "|".join(re.escape(name) for name in table if "." in name[:-1] and " " not in name)
    names = "|".join(re.escape(name).replace(r"\ ", r"\s?") for name in sorted(table, key=len, reverse=True))

    def plain(match: re.Match[str]) -> str:
        return table[match[1].lower()]

    undotted = {"fr": r"\b(Mme|Mlle|Mmes|Dr|Me|St|Ste)(?=[ -][A-ZÀ-Ý])", "hi": "(?!)"}.get(
        vocabulary.language, r"\b(Sr|Sra|Dr|Dra)(?=\s[A-ZÀ-Ý])"
    )
    return (
        Rule(re.compile(rf"(?<![\w.])({names})[.॰](?=(,|\s+\S|\s*$|[;:)!?]))", re.IGNORECASE), expanded),
        *((Rule(re.compile(rf"(?<![\w.])({dotted})(?=\s[A-ZÀ-Ý])", re.IGNORECASE), plain),) if dotted else ()),
        Rule(re.compile(undotted), lambda match: table.get(match[1].lower(), match[1])),
    )
