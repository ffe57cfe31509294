"""MP3 through LAME, at a constant bitrate."""

from collections import deque

import lameenc  # pyright: ignore[reportMissingImports]

from callboard_contracts.speech import BYTES_PER_MS, SAMPLE_RATE_HZ
from callboard_edge.media.samples import SampleAligner

BITRATE_KBPS = 160
"""The most that MP3 allows at 24 kHz. A constant bitrate lets players that buffer a number of bytes start soonest."""
HIGH_SAMPLE_RATE_HZ = 48_000
"""The sample rate of bitrates that 24 kHz does not allow; LAME would lower those silently."""
FRAME_MS = 24
"""The length of a frame, at 24 kHz and at 48 kHz alike."""
BLOCK_BYTES = 5 * FRAME_MS * BYTES_PER_MS
"""The most that is encoded at once. For some more at a higher sample rate, the library's output buffer is too small."""
SETTLED_FRAMES = 4
"""So many equal frames of silence show that nothing of the sound before is left in them."""
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
    """Encodes a stream that never ends and hands it out in whole frames.

    In a lasting silence LAME makes one frame like the other. From the fourth of them on they are repeated without it:
    nothing but silence is in its buffers, and what it holds back of its last frame comes after all repeats.
    """

    def __init__(self, bitrate_kbps: int) -> None:
        self._encoder = lame_encoder(bitrate_kbps)
        self._frame_bytes = frame_bytes(bitrate_kbps)
        self._rest = b""
        self._silent_frames: deque[bytes] = deque(maxlen=SETTLED_FRAMES)

    def repeats(self, pcm: bytes) -> bool:
        """Whether so much sound is silence that goes on, for which the encoder is not needed."""
        silent = self._silent_frames
        return len(silent) == SETTLED_FRAMES and len(set(silent)) == 1 and not pcm.strip(b"\0")

    def feed(self, pcm: bytes) -> list[bytes]:
        """Returns the frames that are complete; `pcm` is some times 24 ms long."""
        frames: list[bytes] = []
        for begin in range(0, len(pcm), BLOCK_BYTES):
            frames += self._encode(pcm[begin : begin + BLOCK_BYTES])
        return frames

    def _encode(self, pcm: bytes) -> list[bytes]:
        if self.repeats(pcm):
            return [self._silent_frames[0]] * (len(pcm) // (FRAME_MS * BYTES_PER_MS))
        # What LAME hands out may end in the middle of a frame.
        data = self._rest + bytes(self._encoder.encode(pcm))
        size = self._frame_bytes
        whole = len(data) - len(data) % size
        self._rest = data[whole:]
        frames = [data[begin : begin + size] for begin in range(0, whole, size)]
        if pcm.strip(b"\0"):
            self._silent_frames.clear()
        else:
            self._silent_frames.extend(frames)
        return frames


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
