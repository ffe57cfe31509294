"""Splits a speed between the engine and a time-stretch of what it says, and stretches."""

import math
from fractions import Fraction

import av.filter
import numpy as np
from av.audio.frame import AudioFrame
from av.filter.context import FilterContext

from callboard_contracts.speech import SAMPLE_RATE_HZ
from callboard_tts.domain.ports import Samples

_TIME_BASE = Fraction(1, SAMPLE_RATE_HZ)
SLOWEST, FASTEST = 0.7, 1.2
"""The speeds between which engines speak naturally; beyond them they drop and slur words."""
_MOST_BLENDED = 2.0
"""FFmpeg's `atempo` skips sound above this factor, and two filters one after the other do not."""


def engine_speed(speed: float) -> float:
    """The speed at which the engine speaks; `Stretcher` does the rest."""
    return min(max(speed, SLOWEST), FASTEST)


class Stretcher:
    """Makes speech slower or faster at the same pitch; the result does not depend on the chunks.

    One stretcher is for one piece, so that a worker that takes over makes the same sound from any piece on.
    """

    def __init__(self, factor: float) -> None:
        steps = max(1, math.ceil(abs(math.log(factor)) / math.log(_MOST_BLENDED)))
        self._graph = av.filter.Graph()
        source = self._graph.add_abuffer(sample_rate=SAMPLE_RATE_HZ, format="flt", layout="mono", time_base=_TIME_BASE)
        filters = [self._graph.add("atempo", f"{factor ** (1 / steps):.6f}") for _ in range(steps)]
        self._sink: FilterContext = self._graph.add("abuffersink")
        self._graph.link_nodes(source, *filters, self._sink).configure()
        self._source = source
        self._position = 0

    def feed(self, samples: Samples, *, final: bool = False) -> Samples:
        """Takes samples and returns those that are ready; with `final`, all that is left."""
        if samples.size:
            frame = AudioFrame.from_ndarray(samples.reshape(1, -1), format="flt", layout="mono")
            frame.sample_rate = SAMPLE_RATE_HZ
            frame.time_base = _TIME_BASE
            frame.pts = self._position
            self._position += samples.size
            self._source.push(frame)
        if final:
            self._source.push(None)
        return self._pulled()

    def _pulled(self) -> Samples:
        parts = [np.zeros(0, dtype=np.float32)]
        while True:
            try:
                frame = self._sink.pull()
            except (BlockingIOError, EOFError):
                return np.concatenate(parts)
            assert isinstance(frame, AudioFrame)
            parts.append(frame.to_ndarray().ravel().astype(np.float32, copy=False))
