"""Works on sound: cuts away an engine's silence, fades the cut ends, and writes 16-bit PCM."""

import numpy as np

from callboard_contracts.speech import BYTES_PER_SAMPLE, SAMPLE_RATE_HZ
from callboard_tts.domain.ports import Samples

SILENCE_RMS = 0.004
"""About -48 dB: above the noise floor of the engines, below the quietest breath that belongs to a word."""
WINDOW_S = 0.005
FADE_S = 0.004
_WINDOW = int(WINDOW_S * SAMPLE_RATE_HZ)
_FADE = int(FADE_S * SAMPLE_RATE_HZ)


class Trimmer:
    """Takes the silence off both ends of a piece whose sound arrives in parts; silence between words stays.

    The silence at an end is found by its loudness in windows of 5 ms, and the new ends get fades of 4 ms, so that
    nothing clicks.
    """

    def __init__(self) -> None:
        self._held = np.zeros(0, dtype=np.float32)
        self._begun = False

    def feed(self, samples: Samples) -> Samples:
        """Takes sound and returns what of it surely belongs to the piece."""
        held = np.concatenate([self._held, samples.astype(np.float32, copy=False)])
        loud = _loud_windows(held)
        if loud.size == 0:
            keep = held.size if self._begun else held.size % _WINDOW
            self._held = held[held.size - keep :]
            return held[:0]
        begin = 0 if self._begun else int(loud[0]) * _WINDOW
        # The fade at the end needs the last samples, so a little sound always waits.
        end = max(begin, (int(loud[-1]) + 1) * _WINDOW - _FADE)
        out = held[begin:end].copy()
        if not self._begun:
            _fade_in(out)
            self._begun = True
        self._held = held[end:]
        return out

    def finish(self) -> Samples:
        """Returns the rest of the sound without the silence at its end."""
        held, self._held = self._held, self._held[:0]
        begun, self._begun = self._begun, False
        loud = _loud_windows(held, partial=True)
        if loud.size == 0:
            # What waited for the fade belongs to the word before it.
            out = held[: min(_FADE, held.size)].copy() if begun else held[:0]
        else:
            begin = 0 if begun else int(loud[0]) * _WINDOW
            out = held[begin : (int(loud[-1]) + 1) * _WINDOW].copy()
        if not begun:
            _fade_in(out)
        _fade_out(out)
        return out


def to_pcm(samples: Samples) -> bytes:
    """Signed 16-bit little-endian PCM; louder than full scale is held at full scale."""
    return (np.clip(samples, -1.0, 1.0) * 32767.0).astype("<i2").tobytes()


def from_pcm(pcm: bytes) -> Samples:
    """Sound from signed 16-bit little-endian PCM; an odd last byte is ignored."""
    whole = len(pcm) - len(pcm) % BYTES_PER_SAMPLE
    return np.frombuffer(pcm[:whole], dtype="<i2").astype(np.float32) / 32768.0


def silence(duration_ms: int) -> bytes:
    """PCM of the given length without sound."""
    return bytes(duration_ms * SAMPLE_RATE_HZ // 1000 * BYTES_PER_SAMPLE)


def _loud_windows(samples: Samples, *, partial: bool = False) -> np.ndarray[tuple[int], np.dtype[np.intp]]:
    whole = samples.size // _WINDOW
    used = samples[: whole * _WINDOW]
    if partial and samples.size % _WINDOW:
        used = np.concatenate([samples, np.zeros(_WINDOW - samples.size % _WINDOW, dtype=np.float32)])
    rms = np.sqrt(np.mean(np.square(used.reshape(-1, _WINDOW)), axis=1))
    return np.flatnonzero(rms > SILENCE_RMS)


def _fade_in(samples: Samples) -> None:
    length = min(_FADE, samples.size)
    samples[:length] *= np.linspace(0.0, 1.0, length, dtype=np.float32)


def _fade_out(samples: Samples) -> None:
    length = min(_FADE, samples.size)
    samples[samples.size - length :] *= np.linspace(1.0, 0.0, length, dtype=np.float32)
