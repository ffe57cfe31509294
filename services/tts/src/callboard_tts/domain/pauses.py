"""Makes the pauses inside a piece as long as those between pieces."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from callboard_contracts.speech import SAMPLE_RATE_HZ
from callboard_tts.domain.boundaries import Pause
from callboard_tts.domain.ports import Samples
from callboard_tts.domain.sound import faded, quiet_stretches

_REACH = SAMPLE_RATE_HZ // 20
"""How far the silence of a mark may lie outside the time that the engine gives the mark."""
_SHORTEST = SAMPLE_RATE_HZ * 3 // 100
"""A shorter silence is the closure of a consonant: the engine made no pause there."""
_WINDOW = SAMPLE_RATE_HZ // 100


@dataclass(frozen=True, slots=True)
class Mark:
    """A mark of punctuation inside a piece: the samples during which it sounds, and the pause that it asks for."""

    begin: int
    end: int
    pause: Pause


def even_pauses(samples: Samples, marks: Sequence[Mark], pauses_ms: Mapping[Pause, int]) -> Samples:
    """Gives each silence at a mark the length of its kind of pause.

    Where the engine ran over the end of a sentence, the pause is made at the quietest place; a comma that it ran over
    has none.
    """
    stretches = quiet_stretches(samples)
    parts: list[Samples] = []
    at = 0
    for mark in marks:
        near = [
            (begin, end)
            for begin, end in stretches
            if begin > at and end < samples.size and begin < mark.end + _REACH and end > mark.begin - _REACH
        ]
        begin, end = max(near, key=lambda stretch: stretch[1] - stretch[0], default=(0, 0))
        if end - begin < _SHORTEST:
            if mark.pause is not Pause.SENTENCE:
                continue
            begin = end = _quietest(samples, max(at, mark.begin - _REACH), min(samples.size, mark.end + _REACH))
        parts += [faded(samples[at:begin]), np.zeros(pauses_ms[mark.pause] * SAMPLE_RATE_HZ // 1000, np.float32)]
        at = end
    return np.concatenate([*parts, faded(samples[at:])]) if parts else samples


def _quietest(samples: Samples, begin: int, end: int) -> int:
    """The middle of the 10 ms with the least power."""
    if end - begin < _WINDOW:
        return begin
    power = np.convolve(np.square(samples[begin:end]), np.ones(_WINDOW, np.float32), "valid")
    return begin + _WINDOW // 2 + int(np.argmin(power))
