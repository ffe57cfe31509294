"""Pronunciations that a site or a text gives for words: `[word](/ipa/)`, and a list of words."""

import re
from collections.abc import Mapping

PRONUNCIATION = re.compile(r"\[([^\[\]\n]{1,80})\]\(/(?=[^()\n]{0,119}[^\x00-\x7f])([^()\n]{1,120})/\)")
"""A written word and its phonemes, which have a character outside ASCII: `[docs](/docs/)` is a link."""


_OPENING = "](/"
_LABEL = re.compile(r"\[[^\[\]\n]{1,80}\Z")
_LONGEST_LABEL = 81
_MAX_HELD = 1000
"""How many characters a pronunciation that is not closed is waited for."""
_UNFINISHED = re.compile(r"\[[^\[\]\n]{0,80}(?:\](?:\((?:/[^()\n]{0,121})?)?)?")
_LONGEST = 81 + 3 + 121 + 1


def inside_pronunciation(text: str, at: int) -> bool:
    """Whether a place may lie inside a pronunciation, as far as the text before it tells."""
    opened = text.rfind("[", max(0, at - _LONGEST), at)
    return opened >= 0 and _UNFINISHED.fullmatch(text, opened, at) is not None


class PronunciationFilter:
    """Drops the phonemes of pronunciations that are not well-formed, in a text that still arrives.

    What is in brackets after them is then spoken as it is written: marks and phonemes are never read. A pronunciation
    is not well-formed if it is not closed in its line, too long, or has brackets. Links stay as they are.
    """

    def __init__(self) -> None:
        self._text = ""
        self._before = ""
        """The end of what was returned, in which the word of a pronunciation stands."""
        self._drops_on = False
        """Whether what follows up to a blank still belongs to phonemes that are dropped."""

    def feed(self, text: str) -> str:
        """Takes more text and returns what is decided."""
        self._text += text
        return self._released(final=False)

    def finish(self) -> str:
        """Ends the text and returns the rest."""
        rest = self._released(final=True)
        self.forget()
        return rest

    def forget(self) -> None:
        """Drops the text that was not returned yet."""
        self._text = self._before = ""
        self._drops_on = False

    def _released(self, *, final: bool) -> str:
        released: list[str] = []
        while True:
            if self._drops_on:
                blank = re.search(r"\s", self._text)
                self._text = self._text[blank.start() :] if blank else ""
                self._drops_on = blank is None
            at = self._text.find(_OPENING)
            if at < 0:
                kept = 0 if final else _beginning(self._text)
                released.append(self._take(len(self._text) - kept))
                return "".join(released)
            released.append(self._take(at))
            length = self._length(final=final)
            if length is None:
                return "".join(released)
            given = self._take(length)
            released.append(given if given != _OPENING and self._is_kept(given) else "](/)")

    def _take(self, length: int) -> str:
        taken, self._text = self._text[:length], self._text[length:]
        self._before = (self._before + taken)[-_LONGEST_LABEL - _LONGEST :]
        return taken

    def _length(self, *, final: bool) -> int | None:
        """How long the phonemes are, from the bracket before them; None while that is not known."""
        line, newline, _ = self._text[:_MAX_HELD].partition("\n")
        is_whole = bool(newline) or final or len(line) == _MAX_HELD
        end = line.find(")", len(_OPENING)) + 1
        if end and (line[:end].isascii() or line[:end].endswith("/)")):
            return end
        # Phonemes may have brackets of their own.
        if end and (rest := re.compile(r"\S*?/\)").match(line, end)):
            return rest.end()
        if not is_whole and not (end and re.search(r"\s", line[end:])):
            return None
        # What is not closed ends at a blank.
        self._drops_on = not end
        return end or len(_OPENING)

    def _is_kept(self, given: str) -> bool:
        before = self._before[: len(self._before) - len(given)]
        label = _LABEL.search(before)
        return given.isascii() or bool(label and PRONUNCIATION.fullmatch(label[0] + given))


def _beginning(text: str) -> int:
    """How many of the last characters may begin a pronunciation's phonemes."""
    return next((n for n in (2, 1) if text.endswith(_OPENING[:n])), 0)


def without_pronunciations(text: str) -> str:
    """Leaves the written words alone, for engines that read them by themselves."""
    return PRONUNCIATION.sub(r"\1", text)


class WordList:
    """How some words are spoken: by another spelling, or by phonemes between slashes.

    A word in small letters is found in any case, one with a capital only as it is written.
    """

    def __init__(self, words: Mapping[str, str] | None = None) -> None:
        self._words = dict(words or {})
        self._folded = {word.casefold(): spoken for word, spoken in self._words.items()}
        longest_first = sorted(self._words, key=lambda word: (-len(word), word))
        alternatives = "|".join(
            f"(?i:{re.escape(word)})" if word == word.lower() else re.escape(word) for word in longest_first
        )
        self._pattern = re.compile(rf"(?<!\w)(?:{alternatives})(?!\w)") if longest_first else None

    def with_words(self, own: Mapping[str, str]) -> "WordList":
        """A list with more entries over those of this one."""
        return WordList({**self._words, **own})

    def parts(self, text: str) -> list[tuple[str, bool]]:
        """Splits a text; each part says whether it is final, because the list or the text gives its pronunciation."""
        parts: list[tuple[str, bool]] = []
        at = 0
        for match in PRONUNCIATION.finditer(text):
            parts += [*self._found(text[at : match.start()]), (match[0], True)]
            at = match.end()
        return parts + self._found(text[at:])

    def _found(self, text: str) -> list[tuple[str, bool]]:
        if self._pattern is None:
            return [(text, False)]
        parts: list[tuple[str, bool]] = []
        at = 0
        for match in self._pattern.finditer(text):
            parts += [(text[at : match.start()], False), (self._spoken(match[0]), True)]
            at = match.end()
        return [*parts, (text[at:], False)]

    def _spoken(self, word: str) -> str:
        spoken = self._words.get(word) or self._folded.get(word.casefold(), word)
        return f"[{word}]({spoken})" if PRONUNCIATION.fullmatch(f"[{word}]({spoken})") else spoken.strip("/")


NO_WORDS = WordList()


class WordLists:
    """The list of words of each voice: its own entries over those for all voices."""

    def __init__(
        self, words: Mapping[str, str] | None = None, by_voice: Mapping[str, Mapping[str, str]] | None = None
    ) -> None:
        self._all = WordList(words)
        self._voices = {voice: WordList({**(words or {}), **own}) for voice, own in (by_voice or {}).items()}

    def of(self, voice: str, own: Mapping[str, str] | None = None) -> WordList:
        """The list for a voice, or for a blend of voices by its whole name, with a request's own entries over it."""
        found = self._voices.get(voice, self._all)
        return found.with_words(own) if own else found


NO_WORD_LISTS = WordLists()
