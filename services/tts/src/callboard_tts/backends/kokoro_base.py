"""What both Kokoro engines share: voices, phonemes, warm-up, threads and errors."""

import logging
import re
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Generic, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from callboard_contracts.speech import SAMPLE_RATE_HZ
from callboard_tts.backends.phonemes import Phonemizer, split_phonemes
from callboard_tts.backends.voice_files import Style, VoiceStore, style_row
from callboard_tts.domain.alignment import word_spans
from callboard_tts.domain.boundaries import Pause
from callboard_tts.domain.pauses import Cut, Mark, even_pauses, moved
from callboard_tts.domain.ports import Part, PieceRequest, Samples, WordTime
from callboard_tts.domain.sound import Trimmer, sound_end
from callboard_tts.domain.voices import Voice, VoiceChoice
from callboard_worker.engine import EngineError, EngineFailed, EngineUnavailable
from callboard_worker.threads import Cancelled, EngineThreads, StopSignal

log = logging.getLogger(__name__)

ModelT = TypeVar("ModelT")

FRAME = 600
"""How many samples one step of the model's durations is long."""
LEAD = 900
"""By how much a phoneme is heard before the model's durations say so: measured with three voices, 10 to 75 ms."""
_MARKS = re.compile(r"[\s\"“”()]*[.!?,;:—…][.!?,;:—…\s\"“”()]*")


class Span(NamedTuple):
    """The phonemes of a word, by its number, in a sequence."""

    number: int
    begin: int
    end: int


class PhonemeSequence(NamedTuple):
    """Phonemes that the model takes at once, and the words among them whose times are asked for."""

    phonemes: str
    words: Sequence[Span]


class Spoken(NamedTuple):
    """The sound of some phonemes, and how many frames each of them and the two pads take, where the model says it."""

    samples: Samples
    frames: NDArray[np.int64] | None


def find_marks(phonemes: str, frames: NDArray[np.int64]) -> list[Mark]:
    """When the marks inside some phonemes sound."""
    ends = np.cumsum(frames) * FRAME
    return [
        Mark(int(ends[match.start()]), int(ends[match.end()]), _pause_of(match[0]))
        for match in _MARKS.finditer(phonemes)
        if match.start() and match.end() < len(phonemes)
    ]


def last_pause(phonemes: str) -> Pause:
    """The pause after some phonemes."""
    last = next(iter(reversed(list(_MARKS.finditer(phonemes)))), None)
    return _pause_of(last[0]) if last and last.end() == len(phonemes) else Pause.NONE


def _pause_of(marks: str) -> Pause:
    return Pause.SENTENCE if any(mark in ".!?" for mark in marks) else Pause.CLAUSE


class KokoroBase(ABC, Generic[ModelT]):
    """Kokoro on some runtime; a subclass opens the model and runs it for one sequence of phonemes."""

    in_process = True
    warm_up_lengths: Sequence[int]
    """The lengths in phonemes that the model runs once for before the engine is ready."""

    def __init__(self, name: str, voices: VoiceStore, slots: int, device: str) -> None:
        self._name = name
        self._voices = voices
        self._device = device
        self._threads = EngineThreads(name, slots)
        self._phonemizer = Phonemizer({})
        self._model: ModelT | None = None

    async def load(self) -> None:
        """Opens the model and its voices, and warms the model up."""
        started = time.monotonic()
        await self._threads.run(self._load)
        seconds = round(time.monotonic() - started, 2)
        log.info("engine_loaded", extra={"engine": self._name, "device": self._device, "seconds": seconds})

    async def close(self) -> None:
        """Frees the model and ends the threads."""
        self._threads.close()
        self._model = None
        self._voices.close()

    def voices(self) -> Sequence[Voice]:
        """The voices that were found."""
        return self._voices.voices()

    async def ready(self) -> str | None:
        """None once the model is loaded."""
        return None if self._model is not None else "engine: not loaded"

    def broken(self) -> str | None:
        """Why the engine can do no more work, or None."""
        return self._threads.broken

    @property
    def active(self) -> int:
        """How many pieces are being worked on."""
        return self._threads.active

    async def synthesise(self, piece: PieceRequest) -> AsyncGenerator[Part, None]:
        """Yields the sound of a piece; one that is too long for the model comes in several parts."""
        model = self._model
        if model is None:
            raise EngineUnavailable("the engine is not loaded")
        length = 0
        for sequence in await self._threads.run(lambda _stop: self._sequences(piece)):
            samples, times = await self._threads.run(
                lambda stop, sequence=sequence: self._part(model, sequence, piece, stop)
            )
            yield Part(samples, [WordTime(number, length + begin, length + end) for number, begin, end in times])
            length += samples.size

    @property
    def tells_word_times(self) -> bool:
        """Whether the model gives durations."""
        return True

    @abstractmethod
    def _open(self) -> tuple[ModelT, Mapping[str, int]]:
        """Opens the model; gives it and its vocabulary.

        Raises:
            EngineUnavailable: the model is missing or unusable.
        """

    @abstractmethod
    def _run(self, model: ModelT, phonemes: str, style: Style, speed: float, stop: StopSignal) -> Spoken:
        """Runs the model once; a set signal ends the run with any error."""

    def _load(self, stop: StopSignal) -> None:
        model, vocabulary = self._open()
        self._phonemizer = Phonemizer(vocabulary)
        self._voices.open()
        self._phonemizer.prepare({"en-us"})
        first = self._voices.voices()[0]
        choice = VoiceChoice(first.name, ((first.name, 1.0),), first.language)
        for length in self.warm_up_lengths:
            self._speak(model, ("hˈɛlO " * length)[:length], choice, 1.0, stop)
        self._model = model

    def _sequences(self, piece: PieceRequest) -> list[PhonemeSequence]:
        """The phonemes of a piece as the model takes them, and where in each the words sound."""
        phonemes = self._phonemizer.phonemes(piece.text, piece.voice.language)
        spans: list[tuple[int, int] | None] = []
        if piece.words:
            spans = word_spans(phonemes, self._phonemizer.words(piece.words, piece.voice.language))
        sequences: list[PhonemeSequence] = []
        end = 0
        for part in split_phonemes(phonemes):
            begin, first = phonemes.index(part, end), end
            end = begin + len(part)
            words = [
                Span(index, max(0, span[0] - begin), min(max(0, span[1] - begin), len(part)))
                for index, span in enumerate(spans)
                if span is not None and (first <= span[0] < end or (span[0] >= end == len(phonemes)))
            ]
            sequences.append(PhonemeSequence(part, words))
        return sequences

    def _part(self, model: ModelT, sequence: PhonemeSequence, piece: PieceRequest, stop: StopSignal) -> Part:
        """A part of a piece with its inner pauses and the one after it."""
        phonemes = sequence.phonemes
        samples, frames = self._speak(model, phonemes, piece.voice, piece.speed, stop)
        cuts: Sequence[Cut] = ()
        trimmed, pause = 0, np.zeros(0, np.float32)
        if piece.pauses_ms:
            if frames is not None:
                samples, cuts = even_pauses(samples, find_marks(phonemes, frames), piece.pauses_ms)
            trimmer = Trimmer()
            samples = np.concatenate([trimmer.feed(samples), trimmer.finish()])
            trimmed = trimmer.trimmed
            pause = np.zeros(piece.pauses_ms[last_pause(phonemes)] * SAMPLE_RATE_HZ // 1000, np.float32)
        times: list[WordTime] = []
        if frames is not None:
            # The receiver trims the sound once more, and finds windows silent that were faded.
            last = sound_end(samples)
            ends = np.maximum(0, np.cumsum(frames) * FRAME - LEAD)
            for number, first, end in sequence.words:
                starts_at = moved(int(ends[first]), cuts, after=True) - trimmed
                ends_at = moved(int(ends[end]), cuts, after=False) - trimmed
                starts_at = min(max(0, starts_at), last)
                times.append(WordTime(number, starts_at, min(max(starts_at, ends_at), last)))
            if piece.pauses_ms and times:
                # Trimmed sound begins with the first word and ends with the last.
                times[0] = times[0]._replace(begin=0)
                times[-1] = times[-1]._replace(end=last)
        return Part(np.concatenate([samples, pause]), times)

    def _speak(self, model: ModelT, phonemes: str, voice: VoiceChoice, speed: float, stop: StopSignal) -> Spoken:
        style = style_row(self._voices.style(voice), len(phonemes))
        try:
            return self._run(model, phonemes, style, speed, stop)
        except (Cancelled, EngineError):
            raise
        except Exception as error:
            stop.check()
            raise EngineFailed("the model failed on a piece") from error
