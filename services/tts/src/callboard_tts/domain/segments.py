"""Cuts a piece's PCM into segments and remembers where a worker that takes over goes on."""

from collections.abc import Iterable
from dataclasses import dataclass, replace

from callboard_contracts.ordering import newest
from callboard_contracts.quota import Hold
from callboard_contracts.speech import (
    BYTES_PER_MS,
    MAX_SEGMENT_BYTES,
    AudioSegment,
    SpeechEnd,
    SpokenWord,
    order_of_segments,
)


@dataclass(frozen=True, slots=True)
class Progress:
    """How far an utterance has come, over all attempts.

    `next_n` is the number of the next segment; `piece` and `offset_bytes` say where in the text's sound it starts.
    `extensions` are the holds beside the job's own, in the order in which they were taken.
    """

    next_n: int = 0
    piece: int = 0
    offset_bytes: int = 0
    sent_bytes: int = 0
    extensions: tuple[Hold, ...] = ()
    end: SpeechEnd | None = None

    @property
    def audio_ms(self) -> int:
        """The length of all sound sent so far."""
        return self.sent_bytes // BYTES_PER_MS


def progress_of(published: Iterable[AudioSegment]) -> Progress:
    """The state that the published segments leave.

    The holds of all attempts count, since they were taken, also those in segments that a newer attempt replaced.
    """
    segments = list(published)
    kept = newest(order_of_segments(), segments)
    sent_bytes = sum(len(segment.pcm) for segment in kept)
    extensions = tuple({hold.id: hold for segment in segments for hold in segment.info.extensions}.values())
    if not kept:
        return Progress(extensions=extensions)
    last, info = kept[-1], kept[-1].info
    return Progress(
        next_n=last.n + 1,
        piece=info.piece + 1 if info.piece_done else info.piece,
        offset_bytes=0 if info.piece_done else info.offset_bytes + len(last.pcm),
        sent_bytes=sent_bytes,
        extensions=extensions,
        end=info.end,
    )


@dataclass(frozen=True, slots=True)
class Segment:
    """A stretch of a piece's PCM and where it starts in the piece; the first has the piece's text.

    `words` are those that begin in it.
    """

    piece: int
    offset_bytes: int
    pcm: bytes
    piece_done: bool = False
    text: str = ""
    words: tuple[SpokenWord, ...] = ()


class PieceCutter:
    """Cuts the PCM of one piece, which arrives in parts, into segments of bounded size, leaving out what was sent."""

    def __init__(self, piece: int, skip_bytes: int = 0, text: str = "") -> None:
        self._piece = piece
        self._text = text
        self._skip = skip_bytes
        self._offset = 0
        self._words: list[SpokenWord] = []

    def expect(self, words: Iterable[SpokenWord]) -> None:
        """Takes words of the PCM that follows; those that begin in what was sent are left out."""
        self._words += [word for word in words if word.start_ms * BYTES_PER_MS >= self._skip]

    def feed(self, pcm: bytes) -> list[Segment]:
        """Takes PCM and returns it as segments."""
        start = max(0, min(len(pcm), self._skip - self._offset))
        segments = [
            Segment(
                self._piece,
                self._offset + begin,
                pcm[begin : begin + MAX_SEGMENT_BYTES],
                text=self._text if self._offset + begin == 0 else "",
                words=self._words_before(self._offset + min(begin + MAX_SEGMENT_BYTES, len(pcm))),
            )
            for begin in range(start, len(pcm), MAX_SEGMENT_BYTES)
        ]
        self._offset += len(pcm)
        return segments

    def finish(self, pcm: bytes) -> list[Segment]:
        """Takes the last PCM of the piece; the last segment, which may be empty, says that the piece is done."""
        segments = self.feed(pcm)
        words, self._words = tuple(self._words), []
        if not segments:
            return [Segment(self._piece, max(self._offset, self._skip), b"", piece_done=True, words=words)]
        last = segments[-1]
        return [*segments[:-1], replace(last, piece_done=True, words=last.words + words)]

    def _words_before(self, end: int) -> tuple[SpokenWord, ...]:
        words = tuple(word for word in self._words if word.start_ms * BYTES_PER_MS < end)
        self._words = self._words[len(words) :]
        return words
