"""When the words of an utterance sound, counted from the beginning of the audio that a client gets."""

from collections.abc import Sequence
from dataclasses import dataclass

from callboard_contracts.speech import BYTES_PER_MS, AudioSegment
from callboard_edge.domain.abilities import unsupported
from callboard_edge.domain.catalogue import SpeechModel
from callboard_edge.domain.workers import Workers


@dataclass(frozen=True, slots=True)
class TimedWord:
    """A word as the text writes it, and when it sounds."""

    word: str
    start_ms: int
    end_ms: int


class WordClock:
    """Counts the sound of the segments, which must come in order and without repeats.

    `delay_ms` is the silence that the audio's format puts before all sound.
    """

    def __init__(self, delay_ms: int = 0) -> None:
        self._delay_ms = delay_ms
        self._passed_bytes = 0

    def words_of(self, segment: AudioSegment) -> Sequence[TimedWord]:
        """The words that begin in the next segment."""
        info = segment.info
        piece_ms = (self._passed_bytes - info.offset_bytes) // BYTES_PER_MS + self._delay_ms
        self._passed_bytes += len(segment.pcm)
        return [TimedWord(word.word, piece_ms + word.start_ms, piece_ms + word.end_ms) for word in info.words]


def check_word_times(model: SpeechModel, workers: Workers, param: str) -> None:
    """Refuses a model whose workers cannot tell when words sound.

    Raises:
        CallboardError: `unsupported`.
    """
    offered = workers.model("tts", model.pool, model.name)
    if offered is not None and not offered.word_times:
        raise unsupported("This model cannot tell when each word sounds.", param)
