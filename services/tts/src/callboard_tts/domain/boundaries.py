"""Finds the ends of sentences and clauses in text that still arrives."""

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

_ABBREVIATION_WORDS = (
    "mr mrs ms dr prof st sr jr rev gen col sgt capt lt hon mt ft no nr vs etc eg ie cf al approx dept est fig inc ltd "
    "co corp vol ed pp ca bzw usw sra dña ud uds mme mlle m"
)
_ABBREVIATIONS = frozenset(_ABBREVIATION_WORDS.split())
_SENTENCE_END = SENTENCE_MARKS + WIDE_SENTENCE_MARKS
_CLAUSE_END = CLAUSE_MARKS + WIDE_CLAUSE_MARKS
_WIDE = WIDE_SENTENCE_MARKS + WIDE_CLAUSE_MARKS
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
    if run == ".":
        if word.replace(".", "").lower() in _ABBREVIATIONS:
            return Pause.NONE
        if _is_initials(word):
            return Pause.NONE
        if word.isdigit() and not text[:word_begin].rsplit("\n", 1)[-1].strip(" \t*-#>"):
            return Pause.NONE
    following = _next_visible(text, after)
    if following is None:
        return Pause.SENTENCE if final else Undecided.YET
    if following.islower():
        return Pause.NONE if run == "." else Pause.CLAUSE
    return Pause.SENTENCE


def _is_initials(word: str) -> bool:
    """Whether a word is an initial or several, as in `U.S.`; `I` is a word."""
    return word != "I" and all(len(letter) == 1 and letter.isupper() for letter in word.split("."))


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
