"""A scripted engine: tones instead of speech, and every fault on demand."""

import asyncio
import zlib
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, replace
from urllib.parse import parse_qsl

import numpy as np

from callboard_contracts.errors import ErrorCode, ErrorInfo
from callboard_contracts.speech import SAMPLE_RATE_HZ
from callboard_contracts.voices import KOKORO_LANGUAGES, KOKORO_VOICES
from callboard_tts.domain.alignment import word_spans
from callboard_tts.domain.ports import Part, PieceRequest, Samples, WordTime
from callboard_tts.domain.voices import Voice
from callboard_worker.engine import EngineFailed, EngineRefused, EngineUnavailable

MS_PER_CHARACTER = 60
EDGE_SILENCE_MS = 300
CHUNK_MS = 500


@dataclass(frozen=True, slots=True)
class Script:
    """What the engine is to do; piece numbers count from 0, and -1 means never.

    `latency_s` passes before the sound of each piece, `chunk_latency_s` before each part of it. `unavailable_times`
    refusals come before the first success of a process.
    """

    latency_s: float = 0.0
    chunk_latency_s: float = 0.0
    fail_piece: int = -1
    break_piece: int = -1
    hang_piece: int = -1
    unavailable_times: int = 0

    @classmethod
    def parse(cls, text: str) -> "Script":
        """Reads `latency_s=0.2&fail_piece=1`; raises ValueError for a name or a number that is none."""
        values = dict(parse_qsl(text, strict_parsing=True)) if text else {}
        script = cls()
        for name, value in values.items():
            if name in {"latency_s", "chunk_latency_s"}:
                script = replace(script, **{name: float(value)})
            elif name in cls.__slots__:
                script = replace(script, **{name: int(value)})
            else:
                raise ValueError(f"no such fault: {name}")
        return script


class FakeEngine:
    """Speaks every word as a tone of its own, the same each time.

    The script may be given here, or, to have several in one process, after a question mark in the engine's name for
    the model: `fake?fail_piece=1`.
    """

    in_process = True
    tells_word_times = True

    def __init__(self, script: Script | None = None) -> None:
        self._script = script or Script()
        self._refusals = 0
        self.active = 0
        self.stopped = 0

    async def load(self) -> None:
        """Has nothing to load."""

    async def close(self) -> None:
        """Has nothing to close."""

    async def ready(self) -> str | None:
        """Always ready."""
        return None

    def voices(self) -> Sequence[Voice]:
        """The names of Kokoro's voices."""
        return [Voice(name, KOKORO_LANGUAGES[name[0]]) for name in KOKORO_VOICES]

    def broken(self) -> str | None:
        """Never."""
        return None

    async def synthesise(self, piece: PieceRequest) -> AsyncGenerator[Part, None]:
        """Yields the tones of a piece with 300 ms of silence on both sides, in parts of half a second."""
        self.active += 1
        try:
            script = self._script_for(piece)
            if self._refusals < script.unavailable_times:
                self._refusals += 1
                raise EngineUnavailable("scripted")
            await asyncio.sleep(script.latency_s)
            if piece.index == script.fail_piece:
                raise EngineFailed("scripted")
            if piece.index == script.hang_piece:
                await asyncio.Event().wait()
            sound, times = tones(piece), word_times(piece)
            size = CHUNK_MS * SAMPLE_RATE_HZ // 1000
            for begin in range(0, sound.size, size):
                await asyncio.sleep(script.chunk_latency_s)
                yield Part(sound[begin : begin + size], [time for time in times if begin <= time.begin < begin + size])
                if piece.index == script.break_piece:
                    raise EngineFailed("scripted")
        except (asyncio.CancelledError, GeneratorExit):
            self.stopped += 1
            raise
        finally:
            self.active -= 1

    def _script_for(self, piece: PieceRequest) -> Script:
        _, mark, text = piece.model.partition("?")
        if not mark:
            return self._script
        try:
            return Script.parse(text)
        except ValueError as error:
            info = ErrorInfo(code=ErrorCode.INVALID_REQUEST, message="The fake engine's script is wrong.")
            raise EngineRefused(info) from error


def tones(piece: PieceRequest) -> Samples:
    """The sound of a piece: for each word a tone whose pitch is the word's, as long as the word is at the speed."""
    edge = np.zeros(EDGE_SILENCE_MS * SAMPLE_RATE_HZ // 1000, dtype=np.float32)
    words = [_tone(f"{piece.voice.spec} {word}", len(word) / piece.speed) for word in piece.text.split()]
    return np.concatenate([edge, *words, edge])


def word_times(piece: PieceRequest) -> list[WordTime]:
    """When the words that are asked for sound: the beginning and the end of their characters' tones."""
    edges, at = [], EDGE_SILENCE_MS * SAMPLE_RATE_HZ // 1000
    for word in piece.text.split():
        length = _samples(len(word) / piece.speed)
        edges += [at + length * place // len(word) for place in range(len(word) + 1)]
        at += length
    return [
        WordTime(index, edges[span[0]], edges[span[1]])
        for index, span in enumerate(word_spans(" ".join(piece.text.split()), piece.words))
        if span is not None
    ]


def _samples(characters: float) -> int:
    return int(characters * MS_PER_CHARACTER * SAMPLE_RATE_HZ / 1000)


def _tone(name: str, characters: float) -> Samples:
    length = _samples(characters)
    pitch_hz = 200 + zlib.crc32(name.encode()) % 600
    moments = np.arange(length, dtype=np.float32) / SAMPLE_RATE_HZ
    return (0.3 * np.sin(2 * np.pi * pitch_hz * moments)).astype(np.float32)
