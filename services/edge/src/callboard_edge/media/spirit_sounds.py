"""The sounds of the spirit box that nobody says, as PCM."""

import math
import struct

from callboard_contracts.speech import BYTES_PER_MS, SAMPLE_RATE_HZ

THUDS = 2
THUD_S = 0.22
THUD_HZ = 110.0
LOUDNESS = 0.3
FADE_S = 0.06
SILENCE_MS = 400


def refusal() -> bytes:
    """Two dull thuds: the box will not answer."""
    return b"".join(_thud() for _ in range(THUDS))


def silence() -> bytes:
    """A short silence, for an answer without a word."""
    return bytes(SILENCE_MS * BYTES_PER_MS)


def _thud() -> bytes:
    count = round(THUD_S * SAMPLE_RATE_HZ)
    samples = (
        32767
        * LOUDNESS
        * math.exp(-at / (FADE_S * SAMPLE_RATE_HZ))
        * math.sin(2 * math.pi * THUD_HZ * at / SAMPLE_RATE_HZ)
        for at in range(count)
    )
    return struct.pack(f"<{count}h", *map(round, samples))
