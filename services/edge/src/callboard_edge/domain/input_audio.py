"""The sound of a live microphone, cut into turns by its client or by voice activity."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from callboard_contracts.errors import CallboardError, ErrorCode
from callboard_edge.domain.voice_activity import FRAME_MS, ONSET_WINDOW, TurnDetection, VoiceActivity

BYTES_PER_SAMPLE = 2
LEAST_TURN_MS = 100
"""A shorter turn says nothing."""
OFF_LOOP_BYTES = 32 * 1024
"""The activity of more sound than this is looked at in a thread: it takes longer than a millisecond."""


@dataclass(frozen=True, slots=True)
class SpeechStarted:
    """Somebody begins to speak; the turn begins here, with what is put before it."""

    start_ms: int


@dataclass(frozen=True, slots=True)
class Turn:
    """What was said: PCM of 16 bits, and where it lies in the whole sound.

    `silence_ms` passed after the last word until it was known to be that.
    """

    pcm: bytes
    start_ms: int
    end_ms: int
    silence_ms: int = 0


class InputAudio:
    """The sound that is not yet part of a turn; without turn detection the client alone says when one ends.

    With it, what lies before a turn is forgotten but for its padding.
    """

    def __init__(self, rate_hz: int, max_ms: int, detection: TurnDetection | None) -> None:
        self.rate_hz = rate_hz
        self._max_ms = max_ms
        self._pcm = bytearray()
        self._half_sample = b""
        self._begin_ms = 0.0
        """Where the kept sound begins in the whole."""
        self._activity: VoiceActivity | None = None
        self._start_ms: int | None = None
        """Where the running turn begins."""
        self.detect(detection)

    @property
    def heard_ms(self) -> int:
        """How much sound there was in all."""
        return int(self._begin_ms + self.kept_ms)

    @property
    def kept_ms(self) -> float:
        """How much sound is kept."""
        return self._ms(len(self._pcm))

    @property
    def speaking(self) -> bool:
        """Whether a turn runs that was detected."""
        return self._start_ms is not None

    def detect(self, detection: TurnDetection | None) -> None:
        """Turns the detection of turns on or off, or changes how it works."""
        if detection is None:
            self._activity, self._start_ms = None, None
        elif self._activity is None:
            self._activity = VoiceActivity(self.rate_hz, detection, self.heard_ms)
        else:
            self._activity.settings = detection

    def append(self, pcm: bytes) -> Sequence[SpeechStarted | Turn]:
        """Takes more sound and returns what begins and ends in it; half a sample waits for its other half.

        Raises:
            CallboardError: there is more than may be kept, and none of it was taken.
        """
        pcm = self._half_sample + pcm
        if self._activity is None and self.kept_ms + self._ms(len(pcm)) > self._max_ms:
            raise CallboardError(
                ErrorCode.INVALID_REQUEST,
                f"The buffer holds at most {self._max_ms // 1000} seconds; commit or clear it first.",
                param="audio",
            )
        size = len(pcm) // BYTES_PER_SAMPLE * BYTES_PER_SAMPLE
        self._half_sample, pcm = pcm[size:], pcm[:size]
        self._pcm += pcm
        if self._activity is None:
            return ()
        found: list[SpeechStarted | Turn] = []
        padding_ms = self._activity.settings.prefix_padding_ms
        for activity in self._activity.feed(np.frombuffer(pcm, "<i2").astype(np.int16, copy=False)):
            if activity.kind == "started":
                self._start_ms = max(int(self._begin_ms), activity.at_ms - padding_ms)
                found.append(SpeechStarted(self._start_ms))
            elif self._start_ms is not None:
                found.append(self._cut(self._start_ms, activity.known_at_ms, activity.known_at_ms - activity.at_ms))
        if self._start_ms is None:
            self._forget_before(self.heard_ms - padding_ms - (ONSET_WINDOW + 2) * FRAME_MS)
        elif self.heard_ms - self._start_ms >= self._max_ms:
            # Somebody who never pauses is answered all the same.
            found.append(self._cut(self._start_ms, self.heard_ms, 0))
            self._activity.reset()
        return found

    def commit(self) -> Turn:
        """Ends a turn with all that is kept.

        Raises:
            CallboardError: it is shorter than a tenth of a second.
        """
        if self.kept_ms < LEAST_TURN_MS:
            raise CallboardError(
                ErrorCode.INVALID_REQUEST,
                f"The buffer is too small to commit: it holds {self.kept_ms:.0f} ms, and needs {LEAST_TURN_MS} ms.",
            )
        if self._activity is not None:
            self._activity.reset()
        return self._cut(int(self._begin_ms), self.heard_ms, 0)

    def clear(self) -> None:
        """Forgets all that is kept, and a turn that runs."""
        self._half_sample = b""
        self._forget_before(self.heard_ms + FRAME_MS)
        self._start_ms = None
        if self._activity is not None:
            self._activity.reset()

    def _cut(self, start_ms: int, end_ms: int, silence_ms: int) -> Turn:
        self._forget_before(start_ms)
        size = min(self._bytes(end_ms - self._begin_ms), len(self._pcm))
        turn = Turn(bytes(self._pcm[:size]), start_ms, end_ms, silence_ms)
        self._forget_before(end_ms)
        self._start_ms = None
        return turn

    def _forget_before(self, begin_ms: float) -> None:
        size = min(self._bytes(begin_ms - self._begin_ms), len(self._pcm))
        if size > 0:
            del self._pcm[:size]
            self._begin_ms += self._ms(size)

    def _ms(self, size_bytes: int) -> float:
        return size_bytes * 1000 / (self.rate_hz * BYTES_PER_SAMPLE)

    def _bytes(self, duration_ms: float) -> int:
        return max(0, round(duration_ms * self.rate_hz / 1000)) * BYTES_PER_SAMPLE
