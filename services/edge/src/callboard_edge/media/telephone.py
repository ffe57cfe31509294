"""Telephone sound: G.711 in both its laws, 8 kHz, and how 24 kHz becomes that."""

from typing import Literal

import numpy as np
from numpy.typing import NDArray

Law = Literal["mu", "a"]
RATE_HZ = 8000
RATIO = 3
"""How many samples of 24 kHz become one."""
TAPS = 63
CUTOFF = 3600 / 24_000
_Samples = NDArray[np.int16]


def _mu_table() -> _Samples:
    codes = ~np.arange(256, dtype=np.int32) & 0xFF
    magnitude = (((codes & 0x0F) << 3) + 0x84 << ((codes & 0x70) >> 4)) - 0x84
    return np.where(codes & 0x80, -magnitude, magnitude).astype(np.int16)


def _a_table() -> _Samples:
    codes = np.arange(256, dtype=np.int32) ^ 0x55
    exponent, mantissa = (codes & 0x70) >> 4, codes & 0x0F
    low = (mantissa << 4) + 8
    magnitude = np.where(exponent == 0, low, (low + 0x100) << np.maximum(exponent - 1, 0))
    return np.where(codes & 0x80, magnitude, -magnitude).astype(np.int16)


_TABLES: dict[Law, _Samples] = {"mu": _mu_table(), "a": _a_table()}


def _nearest(table: _Samples) -> NDArray[np.uint8]:
    """The code of every sample: the one whose sound comes closest."""
    order = np.argsort(table, kind="stable")
    values = table[order].astype(np.int32)
    bounds = (values[1:] + values[:-1]) / 2
    return order[np.searchsorted(bounds, np.arange(-32768, 32768))].astype(np.uint8)


_CODES: dict[Law, NDArray[np.uint8]] = {law: _nearest(table) for law, table in _TABLES.items()}


def decoded(sound: bytes, law: Law) -> bytes:
    """PCM of 16 bits and 8 kHz."""
    return _TABLES[law][np.frombuffer(sound, np.uint8)].astype("<i2").tobytes()


class TelephoneEncoder:
    """Encodes PCM of 24 kHz, which comes in parts of whole samples."""

    def __init__(self, law: Law) -> None:
        self._codes = _CODES[law]
        moments = np.arange(TAPS) - (TAPS - 1) / 2
        filter_taps = 2 * CUTOFF * np.sinc(2 * CUTOFF * moments) * np.hamming(TAPS)
        self._filter = filter_taps / filter_taps.sum()
        self._rest = np.zeros(TAPS - 1)

    def encode(self, pcm: bytes) -> bytes:
        """The codes that this PCM completes."""
        sound = np.concatenate((self._rest, np.frombuffer(pcm, "<i2")))
        count = max(0, (sound.size - TAPS + 1 + RATIO - 1) // RATIO)
        self._rest = sound[count * RATIO :]
        if not count:
            return b""
        narrow = np.convolve(sound, self._filter, "valid")[::RATIO][:count]
        samples = np.clip(np.rint(narrow), -32768, 32767).astype(np.int32)
        return self._codes[samples + 32768].tobytes()
