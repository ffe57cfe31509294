"""Makes the pauses inside a piece as long as those between pieces."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

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


class Cut(NamedTuple):
    """A stretch of sound in whose place there is a silence of `length` samples."""

    begin: int
    end: int
    length: int


def moved(position: int, cuts: Sequence[Cut], *, after: bool) -> int:
    """Where a position in sound lies once its cuts are made; one inside a cut goes before the silence or `after` it."""
    shift = 0
    for begin, end, length in cuts:
        if position > end or (after and position == end):
            shift += length - (end - begin)
        elif position > begin or (after and position == begin):
            return begin + shift + (length if after else 0)
    return position + shift


def even_pauses(
    samples: Samples, marks: Sequence[Mark], pauses_ms: Mapping[Pause, int]
) -> tuple[Samples, Sequence[Cut]]:
    """Gives each silence at a mark the length of its kind of pause; returns the sound and what was cut of it.

    Where the engine ran over the end of a sentence, the pause is made at the quietest place; a comma that it ran over
    has none.
    """
    stretches = quiet_stretches(samples)
    parts: list[Samples] = []
    cuts: list[Cut] = []
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
        cuts.append(Cut(begin, end, pauses_ms[mark.pause] * SAMPLE_RATE_HZ // 1000))
        parts += [faded(samples[at:begin]), np.zeros(cuts[-1].length, np.float32)]
        at = end
    return (np.concatenate([*parts, faded(samples[at:])]) if parts else samples), cuts


def _quietest(samples: Samples, begin: int, end: int) -> int:
    """The middle of the 10 ms with the least power."""
    if end - begin < _WINDOW:
        return begin
    power = np.convolve(np.square(samples[begin:end]), np.ones(_WINDOW, np.float32), "valid")
    return begin + _WINDOW // 2 + int(np.argmin(power))
