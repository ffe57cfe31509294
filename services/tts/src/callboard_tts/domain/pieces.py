"""Turns text into the numbered pieces that an engine speaks."""

from dataclasses import dataclass

from callboard_tts.domain.boundaries import Pause, without_inner_stops
from callboard_tts.domain.markup import BlockFilter, is_speakable, without_markup, without_speaker
from callboard_tts.domain.normalization import normalize_text
from callboard_tts.domain.pronunciation import NO_WORDS, PronunciationFilter, WordList
from callboard_tts.domain.role_play import Passage, RolePlay, RolePlayFilter
from callboard_tts.domain.splitting import Fragment, Limits, Splitter


@dataclass(frozen=True, slots=True)
class Piece:
    """A numbered piece of speakable text, and the pause before it; an action of role-play has a voice of its own."""

    index: int
    text: str
    pause_before: Pause
    is_action: bool = False
    written: str = ""
    """The text as it was written, without markup."""
    source: str = ""
    """The text as it was written, with markup."""


@dataclass(frozen=True, slots=True)
class PieceBatch:
    """The pieces that a text completed as it arrived; `is_last` says that no others follow."""

    pieces: tuple[Piece, ...]
    is_last: bool


class PieceStream:
    """Turns text that arrives in chunks into pieces; the pieces do not depend on the chunks.

    The one exception is reasoning that shows itself only by its end: of it the pieces that were returned stay, and
    what waits is dropped.
    """

    def __init__(
        self,
        language: str,
        limits: Limits | None = None,
        words: WordList = NO_WORDS,
        role_play: RolePlay = "pause",
    ) -> None:
        self._language = language
        self._words = words
        self._splitter = Splitter(limits)
        self._actions = RolePlayFilter(role_play)
        self._blocks = BlockFilter(self._forget)
        self._pronunciations = PronunciationFilter()
        self._count = 0
        self._pause = Pause.NONE
        self._first = True

    def feed(self, text: str) -> list[Piece]:
        """Takes more text and returns the pieces that it completes."""
        return self._spoken(self._actions.feed(self._pronunciations.feed(self._blocks.feed(text))))

    def finish(self, *, whole_sentences: bool = False) -> list[Piece]:
        """Ends the text and returns the remaining pieces; a sentence that broke off is dropped where asked for."""
        rest = self._pronunciations.feed(self._blocks.finish()) + self._pronunciations.finish()
        pieces = self._spoken([*self._actions.feed(rest), *self._actions.finish()])
        if whole_sentences:
            self._splitter.drop_unfinished()
        return pieces + self._pieces(self._splitter.finish())

    def _forget(self) -> None:
        self._pronunciations.forget()
        self._splitter.forget()
        self._actions.forget()

    def _spoken(self, passages: list[Passage]) -> list[Piece]:
        pieces: list[Piece] = []
        for passage in passages:
            if passage.is_action:
                pieces += self._pieces(self._splitter.finish())
            pieces += self._pieces(self._splitter.feed(passage.text), is_action=passage.is_action)
            if passage.is_action:
                pieces += self._pieces(self._splitter.finish(), is_action=True)
        return pieces

    def _pieces(self, fragments: list[Fragment], *, is_action: bool = False) -> list[Piece]:
        pieces: list[Piece] = []
        for fragment in fragments:
            text = without_speaker(fragment.text) if self._first else fragment.text
            self._first = False
            written = without_markup(text)
            spoken = without_inner_stops(normalize_text(written, self._language, self._words))
            if is_speakable(spoken):
                pause = self._pause if self._count else Pause.NONE
                pieces.append(Piece(self._count, spoken, pause, is_action, written, text))
                self._count += 1
                self._pause = fragment.pause
            else:
                self._pause = max(self._pause, fragment.pause)
        return pieces


def split_text(
    text: str,
    language: str,
    limits: Limits | None = None,
    words: WordList = NO_WORDS,
    role_play: RolePlay = "pause",
) -> list[Piece]:
    """Splits a whole text into pieces."""
    stream = PieceStream(language, limits, words, role_play)
    return stream.feed(text) + stream.finish()
