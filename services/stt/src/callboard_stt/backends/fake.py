"""A scripted engine: words for what stands in the sound, and every fault on demand."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from urllib.parse import parse_qsl

import numpy as np

from callboard_contracts.errors import ErrorCode, ErrorInfo
from callboard_contracts.transcription import TranscribedSegment, TranscribedWord, TranscriptionRequest
from callboard_contracts.workers import Ability
from callboard_stt.domain.ports import SAMPLE_RATE_HZ, SAMPLES_PER_MS, Recognised, Samples, Sound
from callboard_worker.engine import EngineFailed, EngineRefused, EngineUnavailable

LANGUAGES = ("de", "en", "es", "fr")
LOUD = 500
"""The least peak of a second in which somebody speaks."""


@dataclass(frozen=True, slots=True)
class Script:
    """What the engine is to do; segment numbers count from 0 in each call, and -1 means never.

    `latency_s` passes before each segment. `unavailable_times` refusals come before the first success of a process.
    """

    latency_s: float = 0.0
    fail_segment: int = -1
    hang_segment: int = -1
    unavailable_times: int = 0

    @classmethod
    def parse(cls, text: str) -> "Script":
        """Reads `latency_s=0.2&fail_segment=1`; raises ValueError for a name or a number that is none."""
        script = cls()
        for name, value in parse_qsl(text, strict_parsing=True) if text else ():
            if name == "latency_s":
                script = replace(script, latency_s=float(value))
            elif name in cls.__slots__:
                script = replace(script, **{name: int(value)})
            else:
                raise ValueError(f"no such fault: {name}")
        return script


class FakeEngine:
    """Writes down every second of sound as its pitch, such as `tone 440`, and nothing where it is silent.

    The script may be given here, or, to have several in one process, after a question mark in the engine's name for
    the model: `fake?fail_segment=1`.
    """

    in_process = True

    def __init__(self, script: Script | None = None) -> None:
        self._script = script or Script()
        self._refusals = 0
        self.active = 0
        self.stopped = 0

    @property
    def abilities(self) -> AbstractSet[Ability]:
        """All there are."""
        return frozenset({"translation", "word_timestamps", "hotwords"})

    def languages(self) -> Sequence[str]:
        """A few."""
        return LANGUAGES

    async def load(self) -> None:
        """Has nothing to load."""

    async def close(self) -> None:
        """Has nothing to close."""

    async def ready(self) -> str | None:
        """Always ready."""
        return None

    def broken(self) -> str | None:
        """Never."""
        return None

    async def transcribe(
        self, model: str, sound: Sound, request: TranscriptionRequest, start_ms: int = 0
    ) -> AsyncGenerator[Recognised, None]:
        """Yields one segment for each second that has sound."""
        script = self._script_for(model)
        if self._refusals < script.unavailable_times:
            self._refusals += 1
            raise EngineUnavailable("scripted")
        if request.language is not None and request.language not in LANGUAGES:
            raise EngineRefused(unknown_language(LANGUAGES))
        self.active += 1
        try:
            language = "en" if request.task == "translate" else request.language or "en"
            said = 0
            for begin in range(start_ms * SAMPLES_PER_MS, sound.samples.size, SAMPLE_RATE_HZ):
                second = sound.samples[begin : begin + SAMPLE_RATE_HZ]
                if np.abs(second.astype(np.int32)).max(initial=0) < LOUD:
                    continue
                await asyncio.sleep(script.latency_s)
                if said == script.fail_segment:
                    raise EngineFailed("scripted")
                if said == script.hang_segment:
                    await asyncio.Event().wait()
                yield Recognised((_segment(second, begin, words=request.word_timestamps),), language, 1.0)
                said += 1
        except (asyncio.CancelledError, GeneratorExit):
            self.stopped += 1
            raise
        finally:
            self.active -= 1

    def _script_for(self, model: str) -> Script:
        _, mark, text = model.partition("?")
        if not mark:
            return self._script
        try:
            return Script.parse(text)
        except ValueError as error:
            info = ErrorInfo(code=ErrorCode.INVALID_REQUEST, message="The fake engine's script is wrong.")
            raise EngineRefused(info) from error


def unknown_language(offered: Sequence[str]) -> ErrorInfo:
    """What a client is told that names a language which the engine does not hear."""
    return ErrorInfo(
        code=ErrorCode.INVALID_REQUEST,
        message="The model does not know this language.",
        param="language",
        offered=tuple(offered),
    )


def _segment(second: Samples, begin: int, *, words: bool) -> TranscribedSegment:
    crossings = np.count_nonzero(np.diff(np.signbit(second)))
    # The nearest ten, so that it stays the same through encoders that lose a little.
    pitch_hz = round(crossings * SAMPLE_RATE_HZ / second.size / 20) * 10
    start_s, end_s = begin / SAMPLE_RATE_HZ, (begin + second.size) / SAMPLE_RATE_HZ
    middle_s = (start_s + end_s) / 2
    spoken = (
        TranscribedWord(word=" tone", start_s=start_s, end_s=middle_s, probability=1.0),
        TranscribedWord(word=f" {pitch_hz}", start_s=middle_s, end_s=end_s, probability=1.0),
    )
    return TranscribedSegment(
        start_s=start_s, end_s=end_s, text="".join(word.word for word in spoken), words=spoken if words else ()
    )
