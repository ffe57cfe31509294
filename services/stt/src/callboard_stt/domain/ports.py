"""What this service needs from a decoder and from an engine."""

from collections.abc import AsyncGenerator, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from callboard_contracts.transcription import TranscribedSegment, TranscriptionRequest
from callboard_contracts.workers import Ability
from callboard_worker.engine import Engine

SAMPLE_RATE_HZ = 16_000
SAMPLES_PER_MS = SAMPLE_RATE_HZ // 1000

Samples = NDArray[np.int16]
"""Mono sound at 16 kHz."""


@dataclass(frozen=True, slots=True)
class Sound:
    """A decoded sound, and the file that it was in; `container` is FFmpeg's name for its form."""

    samples: Samples
    file: bytes
    container: str

    @property
    def duration_ms(self) -> int:
        """How long it is; a started millisecond counts whole."""
        return -(-self.samples.size // SAMPLES_PER_MS)


class SoundDecoder(Protocol):
    """Decodes what clients send, away from the event loop and from the memory of this process."""

    async def start(self) -> None:
        """Gets ready for the first file."""
        ...

    async def decode(self, file: bytes) -> Sound:
        """The sound of a file.

        Raises:
            CallboardError: it has none, cannot be read, or is longer than a request may be.
        """
        ...

    async def close(self) -> None:
        """Ends what is under way."""
        ...


@dataclass(frozen=True, slots=True)
class Recognised:
    """What an engine has heard since the last time, and in which language; times count from the sound's beginning."""

    segments: tuple[TranscribedSegment, ...] = ()
    language: str | None = None
    language_probability: float | None = None


NOTHING = Recognised()
"""Says that the engine works, and has heard nobody."""


class RecognitionEngine(Engine, Protocol):
    """Writes down one sound after another, never on the event loop's own thread."""

    @property
    def abilities(self) -> AbstractSet[Ability]:
        """What the engine can do beside plain transcription."""
        ...

    def languages(self) -> Sequence[str]:
        """The codes of the languages that it hears; empty where it judges itself."""
        ...

    def transcribe(
        self, model: str, sound: Sound, request: TranscriptionRequest, start_ms: int = 0
    ) -> AsyncGenerator[Recognised, None]:
        """Yields what is said from `start_ms` on as it is recognised; nothing where nobody speaks.

        `model` is the engine's own name for the model. Closing the generator, or cancelling the task that waits on it,
        stops the engine after the segment that it is at.

        Raises:
            EngineUnavailable: nothing was heard and a later try may succeed.
            EngineFailed: this sound cannot be written down.
            EngineRefused: the request asks for what the engine does not have, such as a language.
        """
        ...
