"""Splits text into fragments that sound well on their own, while the text still arrives.

A decision depends only on the characters before a place and a few that follow it, never on the tokens in which the
text arrived: the same text always gives the same fragments. Text that cannot be decided yet waits; `finish` decides
the rest.
"""

import unicodedata
from dataclasses import dataclass

from callboard_tts.domain.boundaries import Pause, Undecided, boundary
from callboard_tts.domain.pronunciation import inside_pronunciation
from callboard_tts.domain.script import is_cjk, sound_units, word_share


@dataclass(frozen=True, slots=True)
class Fragment:
    """A part of the text as it was written, and the pause after it."""

    text: str
    pause: Pause


@dataclass(frozen=True, slots=True)
class Limits:
    """How long pieces become, in sound units (about one Latin letter each) and in words.

    The first piece ends as early as it still sounds well. `targets` and `bounds` grow slowly, because each piece plays
    while the next is made, and pieces of other utterances are made in between.
    """

    clause_words: float = 4
    fragment_words: float = 5
    following_words: float = 3
    targets: tuple[float, ...] = (0, 60, 60, 60, 80, 80, 100, 130)
    bounds: tuple[float, ...] = (200, 160, 180, 180, 200, 200, 220, 240)

    def target(self, count: int) -> float:
        """The length from which on the end of a sentence ends the piece of this number."""
        return self.targets[min(count, len(self.targets) - 1)]

    def bound(self, count: int) -> float:
        """The length at which the piece of this number is cut at the best place so far."""
        return self.bounds[min(count, len(self.bounds) - 1)]


@dataclass(slots=True)
class _Places:
    """The last place to cut for each kind of boundary; 0 means none."""

    sentence: int = 0
    clause: int = 0
    gap: int = 0


class Splitter:
    """Splits text as it arrives and returns each fragment once it is complete."""

    def __init__(self, limits: Limits | None = None) -> None:
        self._limits = limits or Limits()
        self._text = ""
        self._count = 0
        self._begin()

    def feed(self, text: str) -> list[Fragment]:
        """Takes more text and returns the fragments that it completes."""
        self._text += text
        return self._scan(final=False)

    def forget(self) -> None:
        """Drops the text that no fragment was made of yet."""
        self._text = ""
        self._begin()

    def drop_unfinished(self) -> None:
        """Drops what follows the last whole sentence of the text that no fragment was made of yet."""
        ends = (at + 1 for at in reversed(range(len(self._text))) if self._ends_sentence(at))
        self._text = self._text[: next(ends, 0)]

    def _ends_sentence(self, at: int) -> bool:
        return boundary(self._text, at, final=True) is Pause.SENTENCE

    def finish(self) -> list[Fragment]:
        """Ends the text and returns the remaining fragments."""
        fragments = self._scan(final=True)
        if self._text.strip():
            fragments.append(Fragment(self._text, Pause.SENTENCE))
            self._count += 1
        self.forget()
        return fragments

    def _begin(self) -> None:
        self._at = 0
        self._units = 0.0
        self._words = 0.0
        self._places = _Places()

    def _scan(self, *, final: bool) -> list[Fragment]:
        fragments: list[Fragment] = []
        while self._at < len(self._text):
            kind = boundary(self._text, self._at, final=final)
            if isinstance(kind, Undecided):
                break
            units, words = self._measured()
            place = self._decide(kind, units, words, final=final)
            if isinstance(place, Undecided):
                break
            self._units, self._words = units, words
            self._at += 1
            if place:
                fragments.append(self._cut(place))
        return fragments

    def _measured(self) -> tuple[float, float]:
        character = self._text[self._at]
        follows_word = self._at > 0 and (self._text[self._at - 1].isalnum() or self._text[self._at - 1] in "'’")
        if character.isspace() and (self._at == 0 or self._text[self._at - 1].isspace()):
            return self._units, self._words
        return self._units + sound_units(character), self._words + word_share(character, follows_word)

    def _decide(self, kind: Pause | None, units: float, words: float, *, final: bool) -> int | Undecided:
        """Where to cut at the current character: a position, or 0 for nowhere."""
        end = self._at + 1
        limits = self._limits
        bound = limits.bound(self._count)
        first = self._count == 0
        is_due = False
        if kind is not None and inside_pronunciation(self._text, end):
            # The word in brackets and its phonemes are spoken as one.
            kind = None
        if kind is Pause.SENTENCE and words >= limits.fragment_words:
            self._places.sentence = end
            is_due = units >= limits.target(self._count)
        elif kind is Pause.CLAUSE and words >= (limits.clause_words if first else limits.fragment_words):
            self._places.clause = end
            is_due = first
        if kind is Pause.NONE and words > 0:
            self._places.gap = end
        if units >= bound:
            places = self._places
            place = places.sentence or places.clause or places.gap
            return place or (0 if inside_pronunciation(self._text, end) else _inside_word(self._text, end))
        if not is_due:
            return 0
        if _words_follow(self._text, end, limits.following_words):
            return end
        if not final:
            return Undecided.YET
        # The last few words sound better with the piece before than alone.
        rest = sum(map(sound_units, self._text[end:]))
        return end if units + rest > bound else 0

    def _cut(self, place: int) -> Fragment:
        places = self._places
        if place == places.sentence:
            pause = Pause.SENTENCE
        elif place == places.clause:
            pause = Pause.CLAUSE
        else:
            pause = Pause.NONE
        fragment = Fragment(self._text[:place], pause)
        self._text = self._text[place:]
        self._count += 1
        self._begin()
        return fragment


def _inside_word(text: str, end: int) -> int:
    """A place inside a word that is too long, never between a letter and its combining marks."""
    place = end - 1
    while place > 0 and (_joins(text[place]) or text[place - 1] == "\u200d"):
        place -= 1
    return place or end


def _joins(character: str) -> bool:
    return unicodedata.category(character).startswith("M") or character == "\u200d"


def _words_follow(text: str, start: int, wanted: float) -> bool:
    """Whether enough complete words follow; a word is complete once another character follows it."""
    words = 0.0
    for position in range(start, len(text)):
        character = text[position]
        if is_cjk(character):
            words += word_share(character, follows_word=False)
        elif position > start and not character.isalnum() and text[position - 1].isalnum():
            words += 1.0
        if words >= wanted:
            return True
    return False
