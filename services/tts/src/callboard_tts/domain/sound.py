"""Trims the silence of an engine's audio, fades its ends, and converts to 16-bit PCM."""

import numpy as np

from callboard_contracts.speech import BYTES_PER_SAMPLE, SAMPLE_RATE_HZ
from callboard_tts.domain.ports import Samples

SILENCE_RMS = 0.004
"""About -48 dB: above the noise floor of the engines, below the quietest breath in a word."""
WINDOW_S = 0.0025
FADE_S = 0.002
WINDOW_SAMPLES = int(WINDOW_S * SAMPLE_RATE_HZ)
_FADE = int(FADE_S * SAMPLE_RATE_HZ)


class Trimmer:
    """Trims the silence at both ends of a piece whose audio arrives in chunks; silence between words stays.

    The ends are found by RMS in windows of 2.5 ms and faded over 2 ms, so that nothing clicks. The result does not
    depend on the chunks.
    """

    def __init__(self) -> None:
        self._held = np.zeros(0, dtype=np.float32)
        self._begun = False
        self.trimmed = 0
        """How many samples were taken off the beginning so far."""

    @property
    def begun(self) -> bool:
        """Whether the first sound is here, so that `trimmed` stays as it is."""
        return self._begun

    def feed(self, samples: Samples) -> Samples:
        """Takes samples and returns those that certainly belong to the piece."""
        held = np.concatenate([self._held, samples.astype(np.float32, copy=False)])
        loud = _loud_windows(held)
        if loud.size == 0:
            # Before the first sound only whole windows are dropped, so that the windows never depend on the chunks.
            self._held = held if self._begun else held[held.size - held.size % WINDOW_SAMPLES :]
            self.trimmed += held.size - self._held.size
            return held[:0]
        # The last loud window waits: it may be the end and need its fade.
        begin, end = (0 if self._begun else int(loud[0]) * WINDOW_SAMPLES), int(loud[-1]) * WINDOW_SAMPLES
        out = held[begin:end].copy()
        self._held = held[end:]
        self.trimmed += begin
        if out.size and not self._begun:
            _fade_in(out)
            self._begun = True
        return out

    def finish(self) -> Samples:
        """Returns the remaining samples without the silence at the end."""
        held, self._held = self._held, self._held[:0]
        begun, self._begun = self._begun, False
        loud = _loud_windows(_in_windows(held))
        if loud.size == 0:
            return held[:0]
        out = held[(0 if begun else int(loud[0]) * WINDOW_SAMPLES) : (int(loud[-1]) + 1) * WINDOW_SAMPLES].copy()
        if not begun:
            self.trimmed += int(loud[0]) * WINDOW_SAMPLES
            _fade_in(out)
        _fade_out(out)
        return out


def sound_end(samples: Samples) -> int:
    """Where the last sound ends, as a trimmer finds it; 0 for silence alone."""
    loud = _loud_windows(_in_windows(samples))
    return min(samples.size, (int(loud[-1]) + 1) * WINDOW_SAMPLES) if loud.size else 0


def to_pcm(samples: Samples) -> bytes:
    """Converts samples to signed 16-bit little-endian PCM, clipped at full scale."""
    return (np.clip(samples, -1.0, 1.0) * 32767.0).astype("<i2").tobytes()


def from_pcm(pcm: bytes) -> Samples:
    """Converts signed 16-bit little-endian PCM to samples; an odd last byte is ignored."""
    whole = len(pcm) - len(pcm) % BYTES_PER_SAMPLE
    return np.frombuffer(pcm[:whole], dtype="<i2").astype(np.float32) / 32768.0


def silence(duration_ms: int) -> bytes:
    """Gives PCM of the given length without sound."""
    return bytes(duration_ms * SAMPLE_RATE_HZ // 1000 * BYTES_PER_SAMPLE)


def quiet_stretches(samples: Samples) -> list[tuple[int, int]]:
    """The first sample and the end of each silence of at least one window, in order."""
    loud = _loud_windows(samples)
    begins = np.concatenate([[0], loud + 1])
    ends = np.concatenate([loud, [samples.size // WINDOW_SAMPLES]])
    return [
        (int(begin) * WINDOW_SAMPLES, int(end) * WINDOW_SAMPLES)
        for begin, end in zip(begins, ends, strict=True)
        if begin < end
    ]


def faded(samples: Samples) -> Samples:
    """A copy with both ends faded over 2 ms."""
    copy = samples.copy()
    _fade_in(copy)
    _fade_out(copy)
    return copy


def _in_windows(samples: Samples) -> Samples:
    return np.concatenate([samples, np.zeros(-samples.size % WINDOW_SAMPLES, dtype=np.float32)])


def _loud_windows(samples: Samples) -> np.ndarray[tuple[int], np.dtype[np.intp]]:
    whole = samples.size // WINDOW_SAMPLES
    power = np.mean(np.square(samples[: whole * WINDOW_SAMPLES].reshape(-1, WINDOW_SAMPLES)), axis=1)
    return np.flatnonzero(power > SILENCE_RMS**2)


def _fade_in(samples: Samples) -> None:
    length = min(_FADE, samples.size)
    samples[:length] *= np.linspace(0.0, 1.0, length, dtype=np.float32)


def _fade_out(samples: Samples) -> None:
    length = min(_FADE, samples.size)
    samples[samples.size - length :] *= np.linspace(1.0, 0.0, length, dtype=np.float32)
