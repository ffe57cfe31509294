"""What both Kokoro engines share: voices, phonemes, warm-up, threads and errors."""

import logging
import re
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import ClassVar, Generic, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from callboard_contracts.speech import SAMPLE_RATE_HZ
from callboard_tts.backends.phonemes import Phonemizer, split_phonemes
from callboard_tts.backends.voice_files import Style, VoiceStore, style_row
from callboard_tts.domain.boundaries import Pause
from callboard_tts.domain.pauses import Mark, even_pauses
from callboard_tts.domain.ports import PieceRequest, Samples
from callboard_tts.domain.sound import Trimmer
from callboard_tts.domain.voices import Voice, VoiceChoice
from callboard_worker.engine import EngineError, EngineFailed, EngineUnavailable
from callboard_worker.threads import Cancelled, EngineThreads, StopSignal

log = logging.getLogger(__name__)

ModelT = TypeVar("ModelT")

FRAME = 600
"""How many samples one step of the model's durations is long."""
_MARKS = re.compile(r"[\s\"“”()]*[.!?,;:—…][.!?,;:—…\s\"“”()]*")


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
    warm_up_lengths: ClassVar[Sequence[int]]
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

    async def synthesise(self, piece: PieceRequest) -> AsyncGenerator[Samples, None]:
        """Yields the sound of a piece; one that is too long for the model comes in several parts."""
        model = self._model
        if model is None:
            raise EngineUnavailable("the engine is not loaded")
        for phonemes in await self._threads.run(lambda _stop: self._phonemes(piece)):
            yield await self._threads.run(lambda stop, phonemes=phonemes: self._part(model, phonemes, piece, stop))

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

    def _phonemes(self, piece: PieceRequest) -> list[str]:
        return split_phonemes(self._phonemizer.phonemes(piece.text, piece.voice.language))

    def _part(self, model: ModelT, phonemes: str, piece: PieceRequest, stop: StopSignal) -> Samples:
        """A part of a piece with its inner pauses and the one after it."""
        samples, frames = self._speak(model, phonemes, piece.voice, piece.speed, stop)
        if not piece.pauses_ms:
            return samples
        if frames is not None:
            samples = even_pauses(samples, find_marks(phonemes, frames), piece.pauses_ms)
        trimmer = Trimmer()
        pause = np.zeros(piece.pauses_ms[last_pause(phonemes)] * SAMPLE_RATE_HZ // 1000, np.float32)
        return np.concatenate([trimmer.feed(samples), trimmer.finish(), pause])

    def _speak(self, model: ModelT, phonemes: str, voice: VoiceChoice, speed: float, stop: StopSignal) -> Spoken:
        style = style_row(self._voices.style(voice), len(phonemes))
        try:
            return self._run(model, phonemes, style, speed, stop)
        except (Cancelled, EngineError):
            raise
        except Exception as error:
            stop.check()
            raise EngineFailed("the model failed on a piece") from error
