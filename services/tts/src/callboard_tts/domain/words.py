"""Names the words of a piece as its text writes them, for clients that ask when each of them sounds."""

import re
import unicodedata

from callboard_tts.domain.markup import plain_spelling
from callboard_tts.domain.normalization import normalize_text
from callboard_tts.domain.pieces import Piece
from callboard_tts.domain.pronunciation import PRONUNCIATION, WordList, without_pronunciations
from callboard_tts.domain.script import is_cjk

_TOKEN = re.compile(rf"(?:{PRONUNCIATION.pattern}|\S)+")


def piece_words(piece: Piece, language: str, words: WordList) -> list[tuple[str, str]]:
    """The words of a piece: each as the text writes it, and as it is spoken alone.

    A word is what stands between blanks, without markup; in Chinese and Japanese it is a character. A word with a
    given pronunciation is one, whatever blanks it has.
    """
    source = _Source(without_pronunciations(piece.source))
    tokens = [part for match in _TOKEN.finditer(piece.written) for part in _parts(match[0])]
    named = [(source.name_of(without_pronunciations(token)), token) for token in tokens]
    spoken = [(name, normalize_text(token, language, words)) for name, token in named]
    return [word for word in spoken if any(map(_is_spoken, word))]


def _is_spoken(text: str) -> bool:
    return any(character.isalnum() or unicodedata.category(character)[0] == "S" for character in text)


def _parts(token: str) -> list[str]:
    """Splits a token of Chinese or Japanese into its characters; marks stay with the character before them."""
    if PRONUNCIATION.search(token) or not any(map(is_cjk, token)):
        return [token]
    parts: list[str] = []
    for character in token:
        previous = parts[-1][-1] if parts else ""
        follows = character.isalnum() and not is_cjk(character) and previous.isalnum() and not is_cjk(previous)
        if not parts or (character.isalnum() and not follows and any(map(str.isalnum, parts[-1]))):
            parts.append(character)
        else:
            parts[-1] += character
    return parts


class _Source:
    """The text that a piece was made of, read from its beginning to its end."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._plain = ""
        """The text in plain spelling, as markup's removal leaves it."""
        self._places: list[int] = []
        """Where in the text each plain character begins."""
        for match in re.finditer(r"(?s).[\u0300-\u036f]*", text):
            plain = plain_spelling(unicodedata.normalize("NFC", match[0]))
            self._plain += plain
            self._places += [match.start()] * len(plain)
        self._places.append(len(text))

    def name_of(self, word: str) -> str:
        """The next word as the text writes it, without marks that stand there in place of markup."""
        core = word.strip("".join({mark for mark in word if not mark.isalnum()}))
        at = self._plain.find(core, self._at) if core else -1
        if at < 0:
            return word
        before, _, after = word.partition(core)
        begin, end = at, at + len(core)
        while before and begin > self._at and self._plain[begin - 1] == before[-1]:
            begin, before = begin - 1, before[:-1]
        while after and self._plain[end : end + 1] == after[0]:
            end, after = end + 1, after[1:]
        self._at = end
        return self._text[self._places[begin] : self._places[end]]
