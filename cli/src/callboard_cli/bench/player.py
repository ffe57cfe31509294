"""A player that starts at once: what a listener would have heard of sound that arrives in pieces."""

import struct

UNDERRUN_S = 0.01
"""A shorter silence is no gap that anybody hears, but what a network does to any stream."""
MAX_HEADER_BYTES = 64 * 1024


class Player:
    """Plays from the first byte on and notes each time it has nothing left to play.

    Times are those of the arrivals; `feed` must see them in order.
    """

    def __init__(self, bytes_per_s: float) -> None:
        self._bytes_per_s = bytes_per_s
        self._lasts_until_s: float | None = None
        self.audio_s = 0.0
        self.underruns = 0
        self.underrun_s = 0.0

    def feed(self, at_s: float, size_bytes: int) -> None:
        """Takes what arrived."""
        if self._lasts_until_s is None:
            self._lasts_until_s = at_s
        silent_s = at_s - self._lasts_until_s
        if silent_s > 0:
            self.underrun_s += silent_s
            self.underruns += silent_s >= UNDERRUN_S
            self._lasts_until_s = at_s
        length_s = size_bytes / self._bytes_per_s
        self.audio_s += length_s
        self._lasts_until_s += length_s


class WavHeader:
    """Reads the head of a WAV file that arrives in pieces."""

    def __init__(self) -> None:
        self._held = b""
        self.bytes_per_s: float | None = None
        """How much of it is a second; None until the head is whole."""

    def sound_in(self, part: bytes) -> bytes:
        """What of a piece is sound. Raises ValueError for what is no WAV file of plain samples."""
        if self.bytes_per_s is not None:
            return part
        self._held += part
        if self._held[:4] != b"RIFF"[: len(self._held)]:
            raise ValueError("no WAV file")
        if len(self._held) > MAX_HEADER_BYTES:
            raise ValueError("a WAV file without sound")
        return self._after_header()

    def _after_header(self) -> bytes:
        position, rate = 12, 0
        while len(self._held) >= position + 8:
            name, size = struct.unpack_from("<4sI", self._held, position)
            position += 8
            if name == b"data":
                if not rate:
                    raise ValueError("a WAV file that does not say how fast it plays")
                self.bytes_per_s = float(rate)
                return self._held[position:]
            if name == b"fmt ":
                if len(self._held) < position + 16:
                    break
                (rate,) = struct.unpack_from("<I", self._held, position + 8)
            position += size + size % 2
        return b""
