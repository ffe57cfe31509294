"""The sounds of the spirit box that nobody says, as PCM."""

import math
import struct

from callboard_contracts.speech import BYTES_PER_MS, SAMPLE_RATE_HZ

KNOCKS = 2
KNOCK_S = 0.22
KNOCK_HZ = 110.0
LOUDNESS = 0.3
FADE_S = 0.06
SILENCE_MS = 400


def refusal() -> bytes:
    """Two dull knocks: the box will not answer."""
    return b"".join(_knock() for _ in range(KNOCKS))


def silence() -> bytes:
    """A short silence, for an answer without a word."""
    return bytes(SILENCE_MS * BYTES_PER_MS)


def _knock() -> bytes:
    count = round(KNOCK_S * SAMPLE_RATE_HZ)
    samples = (
        32767
        * LOUDNESS
        * math.exp(-at / (FADE_S * SAMPLE_RATE_HZ))
        * math.sin(2 * math.pi * KNOCK_HZ * at / SAMPLE_RATE_HZ)
        for at in range(count)
    )
    return struct.pack(f"<{count}h", *map(round, samples))
