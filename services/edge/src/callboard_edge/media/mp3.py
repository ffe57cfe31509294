"""MP3 through LAME, at a constant bitrate."""

import lameenc  # pyright: ignore[reportMissingImports]

from callboard_contracts.speech import BYTES_PER_MS, SAMPLE_RATE_HZ
from callboard_edge.media.samples import SampleAligner

BITRATE_KBPS = 160
"""The most that MP3 allows at 24 kHz. A constant bitrate lets players that buffer a number of bytes start soonest."""
HIGH_SAMPLE_RATE_HZ = 48_000
"""The sample rate of bitrates that 24 kHz does not allow; LAME would lower those silently."""
BLOCK_BYTES = 480 * BYTES_PER_MS
"""The most that is encoded at once: the library's output buffer is too small for more at a higher sample rate."""
FRAME_MS = 24
"""The length of a frame, at 24 kHz and at 48 kHz alike."""
QUALITY = 5
"""LAME's quality level, 2 (best) to 7 (fastest). 5 costs 1.4 ms of CPU for a second of audio, 2 costs 3.6 ms."""


def frame_bytes(bitrate_kbps: int) -> int:
    """The length of every frame; at these sample rates none is padded."""
    return bitrate_kbps * FRAME_MS // 8


def lame_encoder(bitrate_kbps: int) -> lameenc.Encoder:
    """An encoder without an information frame, so that its first bytes are audio."""
    encoder = lameenc.Encoder()
    encoder.set_in_sample_rate(SAMPLE_RATE_HZ)
    encoder.set_out_sample_rate(SAMPLE_RATE_HZ if bitrate_kbps <= BITRATE_KBPS else HIGH_SAMPLE_RATE_HZ)
    encoder.set_channels(1)
    encoder.set_bit_rate(bitrate_kbps)
    encoder.set_quality(QUALITY)
    encoder.silence()
    return encoder


class FrameEncoder:
    """Encodes a stream that never ends and hands it out in whole frames."""

    def __init__(self, bitrate_kbps: int) -> None:
        self._encoder = lame_encoder(bitrate_kbps)
        self._frame_bytes = frame_bytes(bitrate_kbps)
        self._rest = b""

    def feed(self, pcm: bytes) -> list[bytes]:
        """Returns the frames that are complete; `pcm` is cut between samples."""
        blocks = [pcm[begin : begin + BLOCK_BYTES] for begin in range(0, len(pcm), BLOCK_BYTES)]
        # What LAME hands out may end in the middle of a frame.
        data = b"".join([self._rest, *(self._encoder.encode(block) for block in blocks)])
        size = self._frame_bytes
        whole = len(data) - len(data) % size
        self._rest = data[whole:]
        return [data[begin : begin + size] for begin in range(0, whole, size)]


class Mp3Encoder:
    """One MP3 file."""

    def __init__(self) -> None:
        self._encoder = lame_encoder(BITRATE_KBPS)
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
