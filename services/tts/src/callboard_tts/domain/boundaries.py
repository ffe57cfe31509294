"""Finds the ends of sentences and clauses in text that still arrives.

The rules are our own because the kept libraries judge whole texts; these decide as soon as the next word is complete.
"""

import re
from enum import Enum, IntEnum, auto

from callboard_tts.domain.script import (
    CLAUSE_MARKS,
    CLOSERS,
    SENTENCE_MARKS,
    WIDE_CLAUSE_MARKS,
    WIDE_SENTENCE_MARKS,
    is_cjk,
)


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_TITLES = _words(
    "mr mrs ms mx messrs dr dra drs prof profa rev fr gen col maj sgt cpl capt cmdr adm lt hon gov sen rep pres supt "
    "insp sr sra srta sres dña ud uds sig sigg dott avv mm mme mmes mlle mgr st ste mt ft exmo exma"
)
"""Abbreviations before names; they are written with a capital."""
_BEFORE_NUMBERS = _words(
    "no nos nr núm num p pp pg pág págs pag vol vols ch cap fig figs sec sect art arts eq ex approx ca c n ed tel ext "
    "apt rm aprox"
)
"""Abbreviations only before a number; several are words elsewhere, as in `I said no.`"""
_DATES = _words("jan feb mar apr jun jul aug sep sept oct nov dec mon tue tues wed thu thur thurs fri sat sun")
"""Months and weekdays; they are written with a capital."""
_INNER = _words("eg ie vs cf viz al approx bzw incl esp resp pej pex")
"""Abbreviations that never end a sentence."""
_LISTS = _words("etc ecc usw am pm")
"""Abbreviations after which a capital begins a sentence."""
_MAY_END = _words("inc ltd co corp jr sr dept est ave blvd rd hwy st bros assn univ govt phd md")
"""Abbreviations after which only a word that begins sentences does."""
_OPENINGS = _words(
    "the then there they this that these those it its he his she her we our you your i my and but so if in at on a an "
    "as when what who why how where now no not yes after before for from with all some every each el los las un una "
    "il elle ils elles je nous vous lo gli le la les ele ela os"
)
"""Words that begin sentences and no names, so that a capital on one tells them apart."""
_OPENING_MARKS = "\"'“‘«‹([{¿¡*_"
_TIME_ZONES = _words("est edt cst cdt mst mdt pst pdt gmt utc bst cet cest eastern central mountain pacific")
_SENTENCE_END = SENTENCE_MARKS + WIDE_SENTENCE_MARKS
_CLAUSE_END = CLAUSE_MARKS + WIDE_CLAUSE_MARKS
_WIDE = WIDE_SENTENCE_MARKS + WIDE_CLAUSE_MARKS
_STOPS = re.compile(rf"(?<![.…!?])[.…]+(?P<closers>[{re.escape(CLOSERS)}]*)(?=\s|$)")
_DOTTED = re.compile(r"(?<![\w.])(?:[^\W\d_]{1,2}\.)+[^\W\d_]{1,2}(?!\w)")
_ENTITY = re.compile(r"&#?\w{1,32};\Z")
"""The end of an HTML entity, whose mark is no pause."""
_BULLETS = "-*•·#>"


class Pause(IntEnum):
    """The silence after a fragment, shortest first."""

    NONE = 0
    CLAUSE = 1
    SENTENCE = 2


class Undecided(Enum):
    """The result of a decision that needs more text."""

    YET = auto()


def boundary(text: str, at: int, *, final: bool) -> Pause | Undecided | None:
    """Which boundary follows `text[at]`: the pause there, `NONE` for a gap between words, or None inside a word."""
    character = text[at]
    if character.isspace():
        return _line_end(text, at, final=final) if character == "\n" else Pause.NONE
    if character in _SENTENCE_END or character in _CLAUSE_END or character in CLOSERS:
        return _mark_end(text, at, final=final)
    return Pause.NONE if is_cjk(character) else None


def without_inner_stops(text: str) -> str:
    """Removes the full stops of abbreviations, at which an engine would pause.

    An ellipsis inside a sentence becomes one character, one at its end a full stop.
    """

    def rewrite(match: re.Match[str]) -> str:
        match boundary(text, match.end() - 1, final=True):
            case Pause.NONE:
                return match["closers"]
            case Pause.CLAUSE:
                return f"…{match['closers']}"
            case _:
                return f".{match['closers']}"

    return _DOTTED.sub(lambda match: match[0].replace(".", " "), _STOPS.sub(rewrite, text))


def _mark_end(text: str, at: int, *, final: bool) -> Pause | Undecided | None:
    start = at
    while start > 0 and text[start - 1] in CLOSERS:
        start -= 1
    mark = text[at] if text[at] not in CLOSERS else text[start - 1] if start > 0 else ""
    if not mark or (mark not in _SENTENCE_END and mark not in _CLAUSE_END):
        return None
    if at + 1 >= len(text):
        return (Pause.SENTENCE if mark in _SENTENCE_END else Pause.CLAUSE) if final else Undecided.YET
    following = text[at + 1]
    if following in _SENTENCE_END or following in CLOSERS or following in _CLAUSE_END:
        return None
    if not (following.isspace() or mark in _WIDE or is_cjk(following)):
        return None
    if mark == ";" and _ENTITY.search(text, max(0, at - 33), at + 1):
        return None
    if mark in _CLAUSE_END:
        return Pause.CLAUSE
    if mark not in ".…":
        return Pause.SENTENCE
    return _period(text, start if text[at] in CLOSERS else at, at + 1, final=final)


def _period(text: str, mark_end: int, after: int, *, final: bool) -> Pause | Undecided | None:
    """Classifies full stops; those of abbreviations, initials and list numbers end no sentence."""
    begin = mark_end
    while begin > 0 and text[begin - 1] in ".…":
        begin -= 1
    run = text[begin : mark_end + 1].rstrip(CLOSERS)
    word_begin = begin
    while word_begin > 0 and (text[word_begin - 1].isalnum() or text[word_begin - 1] == "."):
        word_begin -= 1
    word = text[word_begin:begin]
    if run == "." and word.isdigit() and not text[:word_begin].rsplit("\n", 1)[-1].strip(" \t*-#>"):
        return Pause.NONE
    following = _next_visible(text, after)
    if following is None:
        return Pause.SENTENCE if final else Undecided.YET
    if following.islower():
        return Pause.NONE if run == "." else Pause.CLAUSE
    if run == ".":
        half_day = word == "M" and text[max(0, word_begin - 3) : word_begin] in {" A ", " P "}
        return _abbreviation("pm" if half_day else word, text, after, final=final)
    return Pause.SENTENCE


def _abbreviation(word: str, text: str, after: int, *, final: bool) -> Pause | Undecided:
    """Decides by the word that follows whether the full stop of a possible abbreviation ends the sentence."""
    key, is_capital = word.replace(".", "").lower(), word[:1].isupper()
    is_example = key in {"ej", "ex"} and text[:after].lower().endswith(f"p. {word.lower()}.")
    if is_example or key in _INNER or (key in _TITLES and is_capital and key not in _MAY_END):
        return Pause.NONE
    is_open = (key in _DATES and is_capital) or key in _MAY_END or _is_initials(word) or _is_dotted(word)
    if not (is_open or key in _BEFORE_NUMBERS or key in _LISTS):
        return Pause.SENTENCE
    following = _next_word(text, after, final=final)
    if isinstance(following, Undecided):
        return following
    if key in _LISTS:
        continues = following.lower() in _TIME_ZONES | _DATES or following.lower().endswith("day")
    elif following[:1].isdigit() or _is_roman(following):
        continues = key in _BEFORE_NUMBERS or key in _DATES
    else:
        continues = is_open and following.lower() not in _OPENINGS
    return Pause.NONE if continues else Pause.SENTENCE


def _is_initials(word: str) -> bool:
    """Whether a word is an initial or several, such as J. or U.S.; the word I is none."""
    return word != "I" and all(len(letter) == 1 and letter.isupper() for letter in word.split("."))


def _is_dotted(word: str) -> bool:
    """Whether a word has full stops between one or two letters each, as in Ph.D. or EE.UU."""
    return "." in word and all(0 < len(part) <= 2 and part.isalpha() for part in word.split("."))


def _is_roman(word: str) -> bool:
    return word != "I" and bool(word) and set(word) <= set("IVXLC")


def _line_end(text: str, at: int, *, final: bool) -> Pause | Undecided:
    """An empty line ends a sentence; a line break before a capital or a list mark ends a clause."""
    following = _next_visible(text, at + 1)
    if following is None:
        return Pause.SENTENCE if final else Undecided.YET
    gap = text[at + 1 : len(text) - len(text[at + 1 :].lstrip())]
    if "\n" in gap or text[:at].rstrip(" \t\r").endswith("\n"):
        return Pause.SENTENCE
    if following.isupper() or following.isdigit() or following in _BULLETS or is_cjk(following):
        return Pause.CLAUSE
    return Pause.NONE


def _next_visible(text: str, start: int) -> str | None:
    for position in range(start, len(text)):
        if not text[position].isspace():
            return text[position]
    return None


def _next_word(text: str, start: int, *, final: bool) -> str | Undecided:
    """The next word, without the marks before it; undecided while it may go on."""
    while start < len(text) and (text[start].isspace() or text[start] in _OPENING_MARKS):
        start += 1
    end = start
    while end < len(text) and text[end].isalnum():
        end += 1
    return text[start:end] if end < len(text) or final else Undecided.YET
