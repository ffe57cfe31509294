"""The formats without a codec: bare PCM, and WAV, whose header may precede a known length."""

import struct

from callboard_contracts.speech import BYTES_PER_SAMPLE, SAMPLE_RATE_HZ
from callboard_edge.media.samples import SampleAligner

UNKNOWN_LENGTH = 0xFFFF_FFFF
"""Players, ffmpeg and Python's wave module take it for "until the end of the stream"."""
WAV_HEADER_BYTES = 44


class PcmEncoder:
    """Passes PCM on in whole samples."""

    def __init__(self) -> None:
        self._aligner = SampleAligner()

    def set_length(self, total_pcm_bytes: int) -> None:
        """Does nothing."""

    def feed(self, pcm: bytes) -> bytes:
        """Returns the whole samples."""
        return self._aligner.align(pcm)

    def finish(self) -> bytes:
        """Returns nothing; half a sample at the end is dropped."""
        return b""

    def close(self) -> None:
        """Does nothing."""


class WavEncoder:
    """Puts a WAV header before the PCM.

    Both length fields say "unknown" unless the length is set; a wrong length or zero would make players stop early.
    """

    def __init__(self) -> None:
        self._aligner = SampleAligner()
        self._header = wav_header(None)

    def set_length(self, total_pcm_bytes: int) -> None:
        """Writes the length into the header."""
        self._header = wav_header(total_pcm_bytes)

    @staticmethod
    def total_bytes(total_pcm_bytes: int) -> int:
        """The length of the whole file in bytes."""
        return WAV_HEADER_BYTES + total_pcm_bytes

    def feed(self, pcm: bytes) -> bytes:
        """Returns the whole samples, with the header before the first ones."""
        header, self._header = self._header, b""
        return header + self._aligner.align(pcm)

    def finish(self) -> bytes:
        """Returns the header if nothing was fed, so that no sound is a valid file too."""
        header, self._header = self._header, b""
        return header

    def close(self) -> None:
        """Does nothing."""


def wav_header(total_pcm_bytes: int | None, rate_hz: int = SAMPLE_RATE_HZ) -> bytes:
    """The header of a WAV file with one channel of 16-bit PCM, whose length may be unknown."""
    if total_pcm_bytes is None or total_pcm_bytes + WAV_HEADER_BYTES >= UNKNOWN_LENGTH:
        riff_bytes = data_bytes = UNKNOWN_LENGTH
    else:
        data_bytes = total_pcm_bytes
        riff_bytes = data_bytes + WAV_HEADER_BYTES - 8
    return struct.pack(
        "<4sI4s4sIHHIIHH4sI",
        b"RIFF",
        riff_bytes,
        b"WAVE",
        b"fmt ",
        16,
        1,
        1,
        rate_hz,
        rate_hz * BYTES_PER_SAMPLE,
        BYTES_PER_SAMPLE,
        8 * BYTES_PER_SAMPLE,
        b"data",
        data_bytes,
    )
