"""What this service needs from a speech engine."""

from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from callboard_tts.domain.boundaries import Pause
from callboard_tts.domain.voices import Voice, VoiceChoice
from callboard_worker.engine import Engine

Samples = NDArray[np.float32]
"""Mono sound at 24 kHz, between -1 and 1."""


class WordTime(NamedTuple):
    """When a word of the request, by its number, sounds, in samples from the beginning of the piece's sound."""

    number: int
    begin: int
    end: int


class Part(NamedTuple):
    """A part of a piece's sound, and the words that begin in it where they are asked for."""

    samples: Samples
    words: Sequence[WordTime] = ()


@dataclass(frozen=True, slots=True)
class PieceRequest:
    """One piece of text for an engine; `model` is the engine's own name for the model.

    An engine that knows where the marks of the text sound makes each pause there as long as `pauses_ms` says.
    `words` are the words whose times are asked for, each as it would be spoken alone.
    """

    index: int
    text: str
    voice: VoiceChoice
    speed: float
    model: str
    instructions: str = ""
    pauses_ms: Mapping[Pause, int] = field(default_factory=dict[Pause, int])
    words: Sequence[str] = ()


class SpeechEngine(Engine, Protocol):
    """Turns one piece of text after another into sound, never on the event loop's own thread."""

    @property
    def tells_word_times(self) -> bool:
        """Whether the loaded engine knows when each word sounds."""
        ...

    def voices(self) -> Sequence[Voice]:
        """The voices that the engine knows; empty when it takes any name and judges itself."""
        ...

    def synthesise(self, piece: PieceRequest) -> AsyncGenerator[Part, None]:
        """Yields the sound of a piece as it is made.

        Closing the generator, or cancelling the task that waits on it, stops the engine within 250 ms.

        Raises:
            EngineUnavailable: nothing was made and a later try may succeed.
            EngineFailed: this piece cannot be spoken.
            EngineRefused: the request asks for what the engine does not have, such as an unknown voice.
        """
        ...
