"""Finds the actions of role-play between asterisks, as in `*waves* Hello.`, in a text that still arrives.

Asterisks mark emphasis too, so a span is an action only where it stands alone: as a line or a sentence of its own, or
at the beginning or the end of a line. Beside small letters, in a list or a heading, and between two words of a sentence
it is emphasis, since a dropped word does more harm than an action that is read.
"""

import re
from dataclasses import dataclass
from typing import Literal

RolePlay = Literal["pause", "silence", "voice"]
"""What becomes of an action: a pause in its place, nothing at all, or another voice that reads it."""

MAX_ACTION_CHARACTERS = 600
_CONTEXT_CHARACTERS = 100
"""How much of a line before an asterisk is looked at."""
_LIST_OR_HEADING = re.compile(r"\s*(?:[-+*•·◦▪–#>|]+|\d{1,3}[.)])\s")
_SENTENCE_ENDS = ".!?…:。！？\"'”’»)]"
"""What may stand before an action within a line; a colon follows the speaker's name."""
_CLAUSE_ENDS = ",;—–，、；"
_ATTACHED_ENDS = ".!?…"
_OPENINGS = "\"'“‘«‹([{¿¡*…-–—"


@dataclass(frozen=True, slots=True)
class Passage:
    """A part of a text, which is speech or an action to be read by another voice."""

    text: str
    is_action: bool = False


class RolePlayFilter:
    """Replaces actions as the mode says; the result does not depend on the chunks in which the text arrives."""

    def __init__(self, mode: RolePlay) -> None:
        self._mode = mode
        self.forget()

    def forget(self) -> None:
        """Drops the text that was not returned yet."""
        self._text = ""
        self._context = ""

    def feed(self, text: str) -> list[Passage]:
        """Takes more text and returns what is decided."""
        self._text += text
        return self._scan(final=False)

    def finish(self) -> list[Passage]:
        """Ends the text and returns the rest."""
        passages = self._scan(final=True)
        self.forget()
        return passages

    def _scan(self, *, final: bool) -> list[Passage]:
        passages: list[Passage] = []
        at = 0
        while True:
            star = self._text.find("*", at)
            if star < 0:
                passages += self._release(len(self._text))
                return passages
            run = _run(self._text, star)
            action = self._action(star, run, final=final)
            if action is None:
                passages += self._release(star)
                return passages
            if not action:
                at = star + run
                continue
            passages += self._release(star)
            passages.append(self._replaced(self._text[1 : action - star]))
            self._text = self._text[action - star :]
            self._context = ""
            at = 0

    def _release(self, length: int) -> list[Passage]:
        released, self._text = self._text[:length], self._text[length:]
        self._context = (self._context + released).rpartition("\n")[2][-_CONTEXT_CHARACTERS:]
        return [Passage(released)] if released else []

    def _replaced(self, span: str) -> Passage:
        if self._mode == "voice":
            return Passage(span.replace("*", ""), is_action=True)
        # An empty line is a pause, whatever mark stands before it.
        return Passage("\n\n" if self._mode == "pause" else " ")

    def _action(self, star: int, run: int, *, final: bool) -> int | None:
        """Where the action that begins at an asterisk ends; 0 where none does, None while that is not known."""
        text = self._text
        if star + run == len(text) and not final:
            return None
        line = (self._context + text[:star]).rpartition("\n")[2]
        if run > 1 or line[-1:].isalnum() or line[-1:] in ("_", "\\") or _LIST_OR_HEADING.match(line):
            return 0
        close = _closing(text, star + 1, final=final)
        if not close:
            return close
        end = close + 1
        while text[end : end + 1] in tuple(_ATTACHED_ENDS):
            end += 1
        after = re.compile(r"[ \t]*").match(text, end)
        assert after is not None
        if after.end() == len(text) and not final:
            return None
        following = text[after.end() : after.end() + 1].strip()
        attached = text[close + 1 : close + 2].strip()
        stands_alone = _stands_alone(line.rstrip(), text[star + 1 : close], attached, following)
        return end if stands_alone else 0


def _stands_alone(before: str, span: str, attached: str, following: str) -> bool:
    """Whether a span is an action, by the line before it and the characters right after and next in the line."""
    begins = not before or before[-1] in _SENTENCE_ENDS
    if attached in tuple(_ATTACHED_ENDS):
        return begins
    if attached.isalnum() or attached in tuple(_CLAUSE_ENDS):
        return False
    if not following:
        return begins or before[-1] in _CLAUSE_ENDS or span[0].islower()
    if not begins:
        return False
    if following.islower():
        return span[0].islower()
    return following.isalnum() or following in _OPENINGS


def _closing(text: str, start: int, *, final: bool) -> int | None:
    """Where the asterisk is that ends a span; 0 where none does, None while that is not known."""
    if text[start : start + 1].isspace():
        return 0
    at = start
    while at < min(len(text), start + MAX_ACTION_CHARACTERS):
        if text[at] == "\n":
            return 0
        run = _run(text, at)
        if run and at + run == len(text) and not final:
            return None
        if run == 1 and at > start and not text[at - 1].isspace():
            return at
        at += max(1, run)
    return 0 if final or at >= start + MAX_ACTION_CHARACTERS else None


def _run(text: str, start: int) -> int:
    """How many asterisks stand at a place."""
    end = start
    while end < len(text) and text[end] == "*":
        end += 1
    return end - start
