"""MP3 through LAME, at the voices' own sample rate."""

import lameenc  # pyright: ignore[reportMissingImports]

from callboard_contracts.speech import SAMPLE_RATE_HZ
from callboard_edge.media.samples import SampleAligner

BITRATE_KBPS = 160
"""The most that MP3 allows at 24 kHz; LAME lowers a higher figure silently. A constant bitrate lets players that
buffer a number of bytes start soonest."""
QUALITY = 5
"""LAME's quality level, 2 (best) to 7 (fastest). 5 costs 1.4 ms of CPU for a second of audio, 2 costs 3.6 ms."""


class Mp3Encoder:
    """One MP3 stream without an information frame, so that its first bytes are audio."""

    def __init__(self) -> None:
        encoder = lameenc.Encoder()
        encoder.set_in_sample_rate(SAMPLE_RATE_HZ)
        encoder.set_channels(1)
        encoder.set_bit_rate(BITRATE_KBPS)
        encoder.set_quality(QUALITY)
        encoder.silence()
        self._encoder = encoder
        self._aligner = SampleAligner()
        self._started = False

    def set_length(self, total_pcm_bytes: int) -> None:
        """Does nothing: players derive the length from the constant bitrate."""

    def feed(self, pcm: bytes) -> bytes:
        """Returns the frames that are complete."""
        samples = self._aligner.align(pcm)
        if not samples:
            return b""
        self._started = True
        return bytes(self._encoder.encode(samples))

    def finish(self) -> bytes:
        """Returns the last frames; without samples there are none, as LAME cannot flush an unused encoder."""
        return bytes(self._encoder.flush()) if self._started else b""

    def close(self) -> None:
        """Does nothing: LAME holds memory only."""
