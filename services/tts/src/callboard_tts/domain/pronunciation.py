"""Pronunciations that a site or a text gives for words: `[word](/ipa/)`, and a list of words."""

import re
from collections.abc import Mapping

PRONUNCIATION = re.compile(r"\[([^\[\]\n]{1,80})\]\(/(?=[^()\n]{0,119}[^\x00-\x7f])([^()\n]{1,120})/\)")
"""A written word and its phonemes, which have a character outside ASCII: `[docs](/docs/)` is a link."""


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
