"""What is heard in a room while nobody speaks: silence, or a file that repeats."""

from array import array
from fractions import Fraction
from pathlib import Path

from callboard_contracts.speech import BYTES_PER_MS, BYTES_PER_SAMPLE, SAMPLE_RATE_HZ

MAX_LOOP_S = 600
FADE_MS = 50
_FADE_SAMPLES = FADE_MS * BYTES_PER_MS // BYTES_PER_SAMPLE
_LOUDEST = 32_767


class IdleLoopError(Exception):
    """The file cannot be played; the message says why."""


def read_loop(path: Path) -> bytes:
    """Decodes a file to PCM at 24 kHz, mono, of at most ten minutes; blocks for some seconds.

    Raises:
        IdleLoopError: there is no such file, or no sound in it.
    """
    import av  # it takes 25 MB of memory, and few sites have a loop
    from av.error import FFmpegError

    resampler = av.AudioResampler(format="s16", layout="mono", rate=SAMPLE_RATE_HZ)
    found = bytearray()
    try:
        with av.open(str(path)) as file:
            for frame in file.decode(audio=0):
                frame.pts, frame.time_base = None, Fraction(1, frame.sample_rate)
                for part in resampler.resample(frame):
                    found += bytes(part.planes[0])[: part.samples * BYTES_PER_SAMPLE]
                if len(found) > MAX_LOOP_S * 1000 * BYTES_PER_MS:
                    raise IdleLoopError(f"longer than {MAX_LOOP_S} s")
    except (FFmpegError, OSError, IndexError) as error:
        raise IdleLoopError(type(error).__name__) from None
    if not found:
        raise IdleLoopError("no sound in it")
    return bytes(found)


class IdleLoop:
    """One room's place in the loop, and how loud it is at the moment."""

    def __init__(self, pcm: bytes) -> None:
        self._pcm = pcm
        self._position = 0
        self._level = 0
        """From 0, silent, to `_FADE_SAMPLES`."""

    def mix(self, pcm: bytes, *, audible: bool) -> bytes:
        """Puts the loop under so much sound; it fades within 50 ms when it becomes audible or no longer is."""
        target = _FADE_SAMPLES if audible else 0
        if self._level == target:
            return self._next(len(pcm)) if audible else pcm
        loop, mixed = array("h", self._next(len(pcm))), array("h", pcm)
        level, step = self._level, 1 if audible else -1
        for n, sample in enumerate(loop):
            if level != target:
                level += step
            mixed[n] = max(-_LOUDEST, min(_LOUDEST, mixed[n] + sample * level // _FADE_SAMPLES))
        self._level = level
        return mixed.tobytes()

    def _next(self, size: int) -> bytes:
        parts: list[bytes] = []
        while size:
            part = self._pcm[self._position : self._position + size]
            self._position = (self._position + len(part)) % len(self._pcm)
            size -= len(part)
            parts.append(part)
        return b"".join(parts)
