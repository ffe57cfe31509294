"""What this service needs from a speech engine."""

from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from callboard_tts.domain.boundaries import Pause
from callboard_tts.domain.voices import Voice, VoiceChoice
from callboard_worker.engine import Engine

Samples = NDArray[np.float32]
"""Mono sound at 24 kHz, between -1 and 1."""


@dataclass(frozen=True, slots=True)
class PieceRequest:
    """One piece of text for an engine; `model` is the engine's own name for the model.

    An engine that knows where the marks of the text sound makes each pause there as long as `pauses_ms` says.
    """

    index: int
    text: str
    voice: VoiceChoice
    speed: float
    model: str
    instructions: str = ""
    pauses_ms: Mapping[Pause, int] = field(default_factory=dict[Pause, int])


class SpeechEngine(Engine, Protocol):
    """Turns one piece of text after another into sound, never on the event loop's own thread."""

    def voices(self) -> Sequence[Voice]:
        """The voices that the engine knows; empty when it takes any name and judges itself."""
        ...

    def synthesise(self, piece: PieceRequest) -> AsyncGenerator[Samples, None]:
        """Yields the sound of a piece as it is made.

        Closing the generator, or cancelling the task that waits on it, stops the engine within 250 ms.

        Raises:
            EngineUnavailable: nothing was made and a later try may succeed.
            EngineFailed: this piece cannot be spoken.
            EngineRefused: the request asks for what the engine does not have, such as an unknown voice.
        """
        ...
