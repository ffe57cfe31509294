"""Tells speech from silence and noise in a live sound, by its loudness and the shape of its spectrum.

A sound counts as speech where it stands out of the background and has peaks, as voices have: noise that comes up
suddenly is as even over all pitches as noise that was always there. The background is the least loudness of the last
three seconds, so that a sound without a dip for so long, a hum or a fan, becomes background. What this cannot do: tell
speech from music, a ringing telephone or other voices, nor hear whispers, which are as even as noise.
"""

from collections import deque
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Samples = NDArray[np.int16]
_Levels = NDArray[np.float64]

FRAME_MS = 20
WINDOW_MS = 40
"""How much is looked at for each frame, so that the pitches of a voice lie apart."""
LOWEST_HZ, HIGHEST_HZ = 150, 3800
SILENCE_DB = -96.0
FIRST_BACKGROUND_DB = -55.0
"""What the background is taken for while nothing is known of it."""
BLOCK_FRAMES = 15
BLOCKS = 10
"""The background is the least of so many blocks of so many frames: three seconds."""
BACKGROUND_BIAS_DB = 2.0
"""By how much the least of a noise lies below its usual level."""
SMOOTHING = 0.6
MOST_EVEN = 0.33
"""Noise is more even than this, from white to brown, and voiced speech less."""
ONSET_FRAMES, ONSET_WINDOW = 4, 6
"""So many of so many frames must be voiced before speech has begun, which a click is not."""
HYSTERESIS_DB = 4.0


@dataclass(frozen=True, slots=True)
class TurnDetection:
    """When a turn begins and ends: how loud it must be, what counts to it before, and the silence that ends it."""

    threshold: float = 0.5
    prefix_padding_ms: int = 300
    silence_duration_ms: int = 500


@dataclass(frozen=True, slots=True)
class Activity:
    """Where speech begins or ends, counted from the beginning of the sound; it ends where its last word does."""

    kind: Literal["started", "stopped"]
    at_ms: int
    known_at_ms: int
    """How much of the sound had to be heard to know it."""


class VoiceActivity:
    """Follows one sound, 16-bit and mono, in parts of any length."""

    def __init__(self, rate_hz: int, settings: TurnDetection, start_ms: int = 0) -> None:
        self.settings = settings
        self.speaking = False
        self._frame = rate_hz * FRAME_MS // 1000
        size = rate_hz * WINDOW_MS // 1000
        self._window = np.hanning(size)
        bins = np.arange(size // 2 + 1) * rate_hz / size
        self._band = (bins >= LOWEST_HZ) & (bins <= min(HIGHEST_HZ, 0.48 * rate_hz))
        # Weighed by its frequency, every usual noise is about as even as the next.
        self._weights = bins[self._band]
        self._scale = 2.0 / (size * float(np.sum(self._window**2)) * 32768.0**2)
        self._rest: Samples = np.zeros(size - self._frame, np.int16)
        self._heard_ms = start_ms
        self._blocks = deque([FIRST_BACKGROUND_DB] * BLOCKS, maxlen=BLOCKS)
        self._block_least = 0.0
        self._block_frames = 0
        self._smoothed: float | None = None
        self._voiced: deque[bool] = deque(maxlen=ONSET_WINDOW)
        self._last_active_ms = start_ms

    def feed(self, samples: Samples) -> list[Activity]:
        """Takes more of the sound and returns what begins and ends in it."""
        sound = np.concatenate((self._rest, samples))
        overlap = self._window.size - self._frame
        count = (sound.size - overlap) // self._frame
        self._rest = sound[max(0, count) * self._frame :]
        if count <= 0:
            return []
        windows = np.lib.stride_tricks.sliding_window_view(sound, self._window.size)[:: self._frame][:count]
        found: list[Activity] = []
        for level, evenness in zip(*self._measured(windows), strict=True):
            self._heard_ms += FRAME_MS
            if (activity := self._step(float(level), float(evenness))) is not None:
                found.append(activity)
        return found

    def reset(self) -> None:
        """Forgets that somebody speaks; what is known of the background stays."""
        self.speaking = False
        self._voiced.clear()

    def _measured(self, windows: Samples) -> tuple[_Levels, _Levels]:
        """How loud each window is, in decibels below full scale, and how even its spectrum, from 0 to 1."""
        spectrum = np.abs(np.fft.rfft(windows * self._window, axis=1)[:, self._band]) ** 2
        power = np.sum(spectrum, axis=1) * self._scale
        levels = np.maximum(10 * np.log10(np.maximum(power, 1e-12)), SILENCE_DB)
        weighed = spectrum * self._weights + 1e-3
        evenness = np.exp(np.mean(np.log(weighed), axis=1)) / np.mean(weighed, axis=1)
        return levels, evenness

    def _step(self, level: float, evenness: float) -> Activity | None:
        background = self._follow_background(level)
        settings = self.settings
        least = max(background + 4 + 12 * settings.threshold, -62 + 20 * settings.threshold)
        if not self.speaking:
            self._voiced.append(level >= least and evenness <= MOST_EVEN)
            if sum(self._voiced) < ONSET_FRAMES:
                return None
            first = len(self._voiced) - self._voiced.index(True)
            self.speaking, self._last_active_ms = True, self._heard_ms
            self._voiced.clear()
            return Activity("started", max(0, self._heard_ms - first * FRAME_MS), self._heard_ms)
        if level >= least - HYSTERESIS_DB:
            self._last_active_ms = self._heard_ms
        elif self._heard_ms - self._last_active_ms >= settings.silence_duration_ms:
            self.speaking = False
            return Activity("stopped", self._last_active_ms, self._heard_ms)
        return None

    def _follow_background(self, level: float) -> float:
        self._smoothed = level if self._smoothed is None else SMOOTHING * self._smoothed + (1 - SMOOTHING) * level
        self._block_least = min(self._block_least, self._smoothed)
        self._block_frames += 1
        least = min(self._block_least, *self._blocks)
        if self._block_frames == BLOCK_FRAMES:
            self._blocks.append(self._block_least)
            self._block_least, self._block_frames = 0.0, 0
        return least + BACKGROUND_BIAS_DB
