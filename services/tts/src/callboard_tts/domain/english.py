"""Reads English abbreviations, Roman numerals, ordinals and postal addresses."""

import re

from num2words import num2words

from callboard_tts.domain.addresses import address_rules, decimal_rules, phone_rules, version_rules
from callboard_tts.domain.amounts import lone_sign_rules, money_rules, unit_rules
from callboard_tts.domain.english_time import spoken_year_digits, time_rules
from callboard_tts.domain.mathematics import difference_rules, fraction_rules, sign_rules
from callboard_tts.domain.numbers import ASCII_DIGITS, Rule, digits, letters_and_digits, needing, ordinal, roman_value
from callboard_tts.domain.tables import pairs
from callboard_tts.domain.units import unit_name
from callboard_tts.domain.vocabulary import ENGLISH

_TITLES = pairs(
    "mr=Mister|mrs=Missus|ms=Miz|dr=Doctor|prof=Professor|rev=Reverend|gen=General|col=Colonel|sgt=Sergeant|"
    "capt=Captain|lt=Lieutenant|maj=Major|gov=Governor|sen=Senator|rep=Representative|pres=President|hon=Honorable|"
    "cmdr=Commander|adm=Admiral|cpl=Corporal|pvt=Private|supt=Superintendent|insp=Inspector|det=Detective|fr=Father|"
    "st=Saint|mt=Mount|ft=Fort|messrs=Messieurs|atty=Attorney"
)
"""Titles, which stand before a name."""
_SHORTENED = pairs(
    "jr=Junior|sr=Senior|vs=versus|etc=et cetera|approx=approximately|dept=Department|inc=Incorporated|ltd=Limited|"
    "corp=Corporation|co=company|est=established|max=maximum|min=minimum|misc=miscellaneous|temp=temperature|"
    "tel=telephone|cf=compare|govt=government|univ=University|assn=Association|bros=Brothers|ave=Avenue|"
    "blvd=Boulevard|rd=Road|hwy=Highway|apt=Apartment|esq=Esquire|intl=International|natl=National|ext=extension|"
    "assoc=Associates"
)
_REFERENCES = pairs(
    "no=number|nos=numbers|vol=volume|ch=chapter|p=page|pp=pages|fig=figure|figs=figures|sec=section|art=article|"
    "eq=equation|para=paragraph|pt=part|ed=edition|pg=page|nr=number"
)
"""Abbreviations that stand before a number."""
_STREETS = pairs(
    "st=Street|ave=Avenue|blvd=Boulevard|rd=Road|dr=Drive|ln=Lane|ct=Court|hwy=Highway|expy=Expressway|pkwy=Parkway|"
    "pl=Place|sq=Square|ter=Terrace"
)
_DIRECTIONS = pairs("N=North|S=South|E=East|W=West|NE=Northeast|NW=Northwest|SE=Southeast|SW=Southwest")
_STATES = pairs(
    "AL=Alabama|AK=Alaska|AZ=Arizona|AR=Arkansas|CA=California|CO=Colorado|CT=Connecticut|DE=Delaware|FL=Florida|"
    "GA=Georgia|HI=Hawaii|ID=Idaho|IL=Illinois|IN=Indiana|IA=Iowa|KS=Kansas|KY=Kentucky|LA=Louisiana|ME=Maine|"
    "MD=Maryland|MA=Massachusetts|MI=Michigan|MN=Minnesota|MS=Mississippi|MO=Missouri|MT=Montana|NE=Nebraska|"
    "NV=Nevada|NH=New Hampshire|NJ=New Jersey|NM=New Mexico|NY=New York|NC=North Carolina|ND=North Dakota|OH=Ohio|"
    "OK=Oklahoma|OR=Oregon|PA=Pennsylvania|RI=Rhode Island|SC=South Carolina|SD=South Dakota|TN=Tennessee|TX=Texas|"
    "UT=Utah|VT=Vermont|VA=Virginia|WA=Washington|WV=West Virginia|WI=Wisconsin|WY=Wyoming|DC=D C"
)
_NUMBERED = (
    "War|Chapter|Part|Act|Scene|Book|Volume|Section|Article|Appendix|Phase|Type|Level|Stage|Class|Title|Grade|Bowl|"
    "Episode|Season|Mark|Round|Tier|Category|Unit|Figure|Table|Group|Factor|Schedule|Area|Zone|Chapters|Parts|Acts|"
    "Corps|Region|Division|Step|Lesson|Module|Question|Problem|Theorem|Lemma|Canto|Psalm|Symphony|Sonata|Opus|Wars|"
    "Rocky|Fantasy|Quest|Apollo|Vatican|Windows|Saturn|Civilization|Diablo"
)
"""Words whose number is a plain one."""
_RULERS = (
    "King|Queen|Pope|Emperor|Empress|Tsar|Czar|Kaiser|Prince|Princess|Duke|Sultan|Pharaoh|Shah|Henry|Henri|Louis|"
    "Charles|George|Edward|William|Wilhelm|James|Elizabeth|Mary|Richard|John|Paul|Pius|Benedict|Francis|Leo|Gregory|"
    "Clement|Innocent|Alexander|Nicholas|Peter|Catherine|Philip|Felipe|Ferdinand|Frederick|Friedrich|Napoleon|Robert|"
    "David|Alfonso|Juan|Carlos|Pedro|Ivan|Otto|Rudolf|Leopold|Joseph|Constantine|Theodosius|Justinian|Ramses|Ramesses|"
    "Thutmose|Amenhotep|Ptolemy|Xerxes|Darius|Cyrus|Artaxerxes|Antiochus|Mehmed|Mehmet|Selim|Murad|Suleiman|Gustav|"
    "Christian|Harald|Haakon|Olaf|Oscar|Albert|Victor|Emmanuel|Umberto|Margaret|Margrethe|Anne|Malcolm|Stephen|Harold|"
    "Urban|Julius|Sixtus|Boniface|Celestine|Adrian|Martin|Eugene|Callixtus|Tutankhamun|Seti|Cleopatra|Wilhelmina|Abbas"
)
"""Titles and names of rulers, whose number is an ordinal."""
_AFTER_I = (
    r"(?=[,.;:)!?]|$|\s(?:of|was|is|and|had|has|reigned|ruled|died|became|began|ended|broke|in|from|by|to|on|at)\b)"
)
_ROMAN = r"(?=[IVXL]+\b)[IVXL]{1,8}"
_OPENINGS = "The|Then|There|They|This|That|These|Those|It|He|She|We|You|I|And|But|So|If|In|At|On|A|An|When|What|Why|Now"
"""Words that begin a sentence, so that the letter and full stop before one are not an initial."""


def _title(match: re.Match[str]) -> str:
    return _TITLES[match[1].lower()]


def _shortened(match: re.Match[str]) -> str:
    key, follows = match[1].lower(), (match[2] or "").strip()
    word = _SHORTENED[key]
    word = word if match[1][0].isupper() or key in {"jr", "sr"} else word.lower()
    ends = not follows or (
        follows[:1].isupper() and key in {"etc", "inc", "ltd", "corp", "co", "jr", "sr", "ave", "esq"}
    )
    return f"{word}." if ends else word


def _reference(match: re.Match[str]) -> str:
    word = _REFERENCES[match[1].lower()]
    return f"{word.capitalize() if match[1][0].isupper() and match[1].lower() != 'no' else word} "


def _roman_cardinal(match: re.Match[str]) -> str:
    value = roman_value(match[2])
    return f"{match[1]} {value}" if value else match[0]


def _roman_ordinal(match: re.Match[str]) -> str:
    value = roman_value(match[2])
    return f"{match[1]} the {ordinal(value)}" if value else match[0]


def _roman_century(match: re.Match[str]) -> str:
    value = roman_value(match[1])
    return ordinal(value) if value else match[0]


def _roman_alone(match: re.Match[str]) -> str:
    value = roman_value(match[1])
    return f"{value}{match[2]}" if value else match[0]


def _roman_left(match: re.Match[str]) -> str:
    """A numeral after no known word; espeak-ng would say `Roman` before it."""
    value = roman_value(match[1])
    return " ".join(match[1]) if not value or match[1] in {"IV", "XX", "XXX"} else str(value)


def _ordinal(match: re.Match[str]) -> str:
    return ordinal(int(match[1].replace(",", "")))


def _street(match: re.Match[str]) -> str:
    direction = _DIRECTIONS.get((match[2] or "").strip(" ."), "")
    name = re.sub(
        r"\b(\d{1,3})(?:st|nd|rd|th)\b", lambda number: ordinal(int(number[1])), match[3], flags=re.IGNORECASE
    )
    stop = "." if match[5] and not match[6] else ""
    middle = f" {direction}" if direction else ""
    return f"{spoken_year_digits(match[1])}{middle}{name} {_STREETS[match[4].lower()]}{stop}"


def _street_name(match: re.Match[str]) -> str:
    return f"{match[1]} {_STREETS[match[2].lower()]}"


def _state(match: re.Match[str]) -> str:
    code = f", {digits(match[2])}" if match[2] else ""
    if match[3]:
        code = f"{code}, {digits(match[3])}"
    return f"{_STATES[match[1]]}{code.replace(',', '', 1)}"


def _initials(match: re.Match[str]) -> str:
    letters = " ".join(match[1].replace(".", ""))
    return letters if match[2] else f"{letters}."


def _hashtag(match: re.Match[str]) -> str:
    words = re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])|(?<=[A-Za-z])(?=\d)|_", " ", match[1])
    return f"hashtag {words}"


def _keyword_code(match: re.Match[str]) -> str:
    return f"{match[1]}{letters_and_digits(match[2])}"


def _long_number(match: re.Match[str]) -> str:
    return str(num2words(int(match[0].replace(",", "")))).replace(",", "")


def _serial(match: re.Match[str]) -> str:
    return " ".join(re.findall(r"\d+|[A-Za-z]+", match[0]))


def _range(match: re.Match[str]) -> str:
    first, last = match[1], match[2]
    rises = len(first) <= len(last) <= 12 and int(first) < int(last)
    if rises or (len(first) < 4 and int(first) < 200):
        return f"{first} to {last}"
    return match[0]


def _scientific(match: re.Match[str]) -> str:
    return f"{match[1]} × 10^{match[2]}"


def _room(match: re.Match[str]) -> str:
    return f"{match[1]} {match[2]} oh {match[3]}"


def _names(table: dict[str, str]) -> str:
    return "|".join(sorted(table, key=len, reverse=True))


def english_rules(*, day_first: bool) -> tuple[Rule, ...]:
    """All rules for English, in order; `day_first` reads 10/06 as the tenth of June."""
    return (
        Rule(re.compile(r"\be\.\s?g\.,?", re.IGNORECASE), "for example,"),
        Rule(re.compile(r"\bi\.\s?e\.,?", re.IGNORECASE), "that is,"),
        Rule(re.compile(r"\bw/o(?=\s)"), "without"),
        Rule(re.compile(r"\bw/(?=\s)"), "with"),
        Rule(re.compile(r"\band/or\b"), "and or"),
        Rule(re.compile(r"\bn/a\b", re.IGNORECASE), "N A"),
        Rule(re.compile(r"\bPh\.\s?D\b\.?"), "P H D"),
        Rule(re.compile(r"\b401\(k\)"), "four oh one K"),
        *address_rules(ENGLISH),
        Rule(
            re.compile(r"(?<!\w)1-800-((?:[A-Z0-9]+-){0,4}[A-Z]+)\b"),
            lambda match: f"one, eight hundred, {match[1].replace('-', ' ')}",
        ),
        *needing(ASCII_DIGITS, phone_rules(ENGLISH)),
        Rule(
            re.compile(r"(?<![\w.,$€£-])(\d{3})-(\d{2})-(\d{4})(?![\w-])"),
            lambda match: ", ".join(digits(group) for group in match.groups()),
        ),
        Rule(
            re.compile(
                r"\b((?:[Cc]all|[Dd]ial|[Pp]hone|[Tt]el\.?|[Tt]ext|[Ff]ax|[Nn]umber is|(?<=\d{3}, )|(?=555-)|"
                r"(?=0\d\d-\d{4}))"
                r":?\s?)(\d{3})-(\d{4})(?![\w-])"
            ),
            lambda match: f"{match[1]}{digits(match[2])}, {digits(match[3])}",
        ),
        Rule(re.compile(r"\b((?:[Cc]all|[Dd]ial|[Rr]ing) )(\d{3})\b(?![-\d])"), _keyword_code),
        Rule(re.compile(r"(?<![\w$€£.,-])()(911)(?![\w-]|[.,]\d|\s[a-z]+s\b)"), _keyword_code),
        Rule(
            re.compile(
                r"\b((?:(?:code|pin|PIN|otp|OTP|pnr|PNR|passcode|password|zip|ZIP)(?: code)?(?: is|:)?|ending in) )"
                r"([A-Za-z]{0,6}\d[A-Za-z\d]{2,20})\b"
            ),
            _keyword_code,
        ),
        Rule(
            re.compile(
                rf"(?<![\w#$.,-])(\d{{1,5}})( (?:N|S|E|W|NE|NW|SE|SW)\.?(?= ))?((?: [A-Z0-9][\w'’.]{{0,30}}){{1,4}}?) "
                rf"({_names(_STREETS)})\b(\.?)(?=(\s[a-z0-9])?)",
                re.IGNORECASE,
            ),
            lambda match: _street(match) if match[3].strip()[0] in "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789" else match[0],
        ),
        Rule(
            re.compile(rf"(?<=[a-z], )({_names(_STATES)})(?:,? (\d{{5}})(?:-(\d{{4}}))?)?(?=[,.;)!?]|$|\s(?![a-z]))"),
            _state,
        ),
        Rule(re.compile(r"(?<=\d\d-\d\d)T(\d\d:\d\d)(?::\d\d(?:\.\d{1,9})?)?(?:Z|[+-]\d\d:?\d\d)?(?!\w)"), r" \1", "T"),
        Rule(
            re.compile(r"\b([Rr]oom|[Ss]uite|[Rr]oute|[Hh]ighway|[Ff]light|Apartment|Apt\.) (\d)0([1-9])\b"), _room, "0"
        ),
        Rule(re.compile(r"(?<!\w)~\s?(?=[$€£]?\d)"), "about ", "~"),
        Rule(
            re.compile(
                r"(?<=\d)\s?in\.(?=\s(?:of|long|wide|tall|high|deep|thick|by|x)\b|[,;)])|(?<=\d)in\b\.?(?=\s|$)"
            ),
            " inches",
        ),
        *time_rules(day_first=day_first),
        *needing(ASCII_DIGITS, version_rules(ENGLISH)),
        Rule(re.compile(r"(?<![\w.])(\d+(?:\.\d+)?)[eE]\+?(-?\d{1,3})(?!\w|\.\d)"), _scientific, "eE"),
        *((Rule(re.compile(r"(?<![\w.,])(\d{1,2})p\b"), r"\1 pence", "p"),) if day_first else ()),
        *needing(ASCII_DIGITS, money_rules(ENGLISH)),
        *fraction_rules(ENGLISH),
        Rule(
            re.compile(
                r"(?P<mixed>(?<=\d) and )?(?P<part>a half|one [a-z]{4,12}|\d{1,2} [a-z]{4,12}s) "
                r"(?P<unit>lbs?|kg|km|mi|ft|hrs?|oz|tsp|tbsp|cm|mm|ml|mL|gal|yd|min)\b(?:\.(?=\s+[a-z]))?"
            ),
            _fraction_unit,
        ),
        Rule(re.compile(r"(?<=\d)x(?=\d[\d.]{0,8} ?(?:m2|m²|cm|ft|in|m|mm|km)\b)"), " by "),
        *needing(ASCII_DIGITS, unit_rules(ENGLISH)),
        Rule(
            re.compile(r"(million|billion|trillion|thousand) (kg|km|mi|ft|lbs?|g|m|L|GB|TB|MB|W|MW|kWh|Hz)\b"),
            lambda match: f"{match[1]} {unit_name(match[2], 'en', plural=True)}",
        ),
        Rule(re.compile(r"(?<![\w.,])(\d{1,3}(?:,\d{3})+|\d{1,15})(?:st|nd|rd|th)\b", re.IGNORECASE), _ordinal),
        Rule(re.compile(rf"\b({_NUMBERED}|Vol\.|chapter|part|act|volume) (?!I\b)({_ROMAN})\b(?!')"), _roman_cardinal),
        Rule(re.compile(rf"\b({_NUMBERED}|chapter|part|act|volume) (I)\b{_AFTER_I}"), _roman_cardinal),
        Rule(re.compile(rf"\b({_RULERS}) (?!I\b)({_ROMAN})\b(?!\.\w)"), _roman_ordinal),
        Rule(
            re.compile(rf"\b({_RULERS}) (I)(?=[,.;:)!?]|$|'s\b|\s(?:of|was|is|had|reigned|ruled|died|became|and)\b)"),
            _roman_ordinal,
        ),
        Rule(re.compile(rf"\b({_ROMAN})(?=(?:th)? (?:century|centuries)\b)"), _roman_century),
        Rule(
            re.compile(
                rf"\b(?<!')(?!(?:{_OPENINGS}|His|Her|My|Your|Our|An)\b)([A-Z][\w'-]{{2,20}}) "
                rf"(?!I\b|V\b|X\b|L\b|XL\b)({_ROMAN})\b(?![.'-]\w)"
            ),
            _roman_cardinal,
        ),
        Rule(re.compile(rf"^(?!I\b|V\b|X\b|L\b|XL\b)({_ROMAN})(\.?)(?=\s|$)"), _roman_alone),
        Rule(
            re.compile(
                r"\b([A-Z][\w']{1,30}) (St|Ave|Rd|Blvd|Dr|Ln)\b\.?"
                rf"(?=\s*$|[,;)]|\s(?:and|in|near|at|is|was|on)\b|(?<=\.)\s(?:{_OPENINGS})\b)"
            ),
            _street_name,
        ),
        Rule(re.compile(rf"\b({'|'.join(_TITLES)})\.(?=\s+['“\"(]?[A-Z]|$)", re.IGNORECASE), _titled),
        Rule(re.compile(r"\b(Mr|Mrs|Ms|Dr|Prof|Messrs)(?=\s[A-Z])"), _title),
        Rule(re.compile(r"\bSt(?= [A-Z][a-z])"), "Saint"),
        Rule(re.compile(rf"\b({_names(_REFERENCES)})\.\s?(?=\d|[IVX]+\b)", re.IGNORECASE), _reference),
        Rule(re.compile(r"\bNo\s(?=\d+\b(?! (?:of|people|more|was|is)))"), "number "),
        Rule(re.compile(rf"\b({_names(_SHORTENED)})\.(?=(,|\s+\S|\s*$|[;:)!?]))", re.IGNORECASE), _shortened),
        Rule(re.compile(r"\bvs\b"), "versus"),
        Rule(re.compile(r"#(?=[A-Z]{0,3}\d)"), "number ", "#"),
        Rule(re.compile(r"\b([A-G])#(?!\w)"), r"\1 sharp", "#"),
        Rule(re.compile(r"(?<![\w&])#([A-Za-z]\w{1,60})#?"), _hashtag),
        Rule(re.compile(r"(?<=\w)#"), " hash "),
        *needing("=<>≤≥≠×÷", difference_rules(ENGLISH)),
        Rule(re.compile(r"(?<![\w-])(\d+)\s?[–—-]\s?(\d+)(?![\d-])"), _range),
        Rule(re.compile(r"(?<=\d)\s?[–—]\s?(?=\d)|(?<=(?:lars|uros|ents|unds| yen))\s?[-–—]\s?(?=\d)"), " to "),
        *sign_rules(ENGLISH),
        Rule(re.compile(r"\s?&\s?"), " and "),
        Rule(re.compile(r"@\s?"), " at "),
        Rule(re.compile(r"(?<![\w'’-])([IVX]{2,8})(?![\w'’-])"), _roman_left, "IVX"),
        *lone_sign_rules(ENGLISH),
        Rule(re.compile(r"\b((?:[A-Za-z]\.){2,})(?=(\s+[^\sA-Z]|[-'’,;:)])?)"), _initials),
        Rule(re.compile(rf"(?<![AP] )\b([A-HJ-Z])\.(?=\s+(?!(?:{_OPENINGS})\b)[A-Z])"), r"\1"),
        Rule(re.compile(r"(?<![\w.,])(?:\d{1,3}(?:,\d{3}){4,11})(?!\w|[,.]\d)"), _long_number),
        *needing(ASCII_DIGITS, decimal_rules(ENGLISH)),
        Rule(
            re.compile(r"\b(?=[A-Za-z]{0,8}\d)(?=\d{0,8}[A-Za-z])(?:[A-Za-z]{1,8}\d{1,8}){1,8}[A-Za-z]{0,8}\b"), _serial
        ),
        Rule(re.compile(r"(?<=\d)k\b"), " thousand", "k"),
        Rule(
            re.compile(r"(?<=\w)\s?/\s?(?=(?:day|week|month|year|hour|night|person|unit|piece|game|minute|second)\b)"),
            " per ",
            "/",
        ),
    )


def _titled(match: re.Match[str]) -> str:
    return _title(match) if match[1][0].isupper() else match[0]


def _fraction_unit(match: re.Match[str]) -> str:
    return f"{match['mixed'] or ''}{match['part']} {unit_name(match['unit'], 'en', plural=bool(match['mixed']))}"
