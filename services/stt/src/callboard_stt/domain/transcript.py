"""The text of one request as it comes into being, segment by segment and over all attempts."""

from collections.abc import Iterable, Sequence

from callboard_contracts.errors import ErrorInfo
from callboard_contracts.transcription import (
    TranscribedSegment,
    TranscriptionEnd,
    TranscriptionEndReason,
    TranscriptionFrame,
    TranscriptionResult,
    text_of,
)
from callboard_stt.domain.ports import Recognised

SEGMENTS_PER_FRAME = 50
"""An engine that hears a whole hour at once must still fit the bus's messages."""


class Transcript:
    """The frames of one request: `known` are those of earlier attempts, in order and from the first on."""

    def __init__(self, attempt: int, known: Iterable[TranscriptionFrame] = ()) -> None:
        self._attempt = attempt
        self._frames = list(known)
        self.duration_ms = max((frame.duration_ms for frame in self._frames), default=0)
        """How long the sound is; 0 until it is known."""

    @property
    def segments(self) -> list[TranscribedSegment]:
        """All segments so far."""
        return [segment for frame in self._frames for segment in frame.segments]

    @property
    def language(self) -> tuple[str | None, float | None]:
        """The language of the speech and how sure the engine is, as far as they are known."""
        found = next((frame for frame in self._frames if frame.language is not None), None)
        return (found.language, found.language_probability) if found else (None, None)

    @property
    def heard_ms(self) -> int:
        """Up to where in the sound there is text."""
        last_ms = max((round(segment.end_s * 1000) for segment in self.segments), default=0)
        return min(last_ms, self.duration_ms) if self.duration_ms else last_ms

    def take(self, recognised: Recognised) -> Sequence[TranscriptionFrame]:
        """The frames for what an engine has heard."""
        segments = recognised.segments
        parts = [segments[n : n + SEGMENTS_PER_FRAME] for n in range(0, len(segments), SEGMENTS_PER_FRAME)] or [()]
        first = len(self._frames)
        for part in parts:
            self._frames.append(
                TranscriptionFrame(
                    seq=len(self._frames),
                    attempt=self._attempt,
                    segments=part,
                    language=recognised.language,
                    language_probability=recognised.language_probability,
                    duration_ms=self.duration_ms,
                )
            )
        return self._frames[first:]

    def end(self, reason: TranscriptionEndReason, error: ErrorInfo | None = None) -> TranscriptionFrame:
        """The last frame. Sound in which nobody spoke costs nothing; of other sound what was heard is charged."""
        heard_ms = self.heard_ms
        if reason == "stop":
            heard_ms = self.duration_ms if text_of(self.segments) else 0
        language, probability = self.language
        end = TranscriptionEnd(
            reason=reason,
            language=language,
            language_probability=probability,
            duration_ms=self.duration_ms,
            heard_ms=heard_ms,
            error=error,
        )
        frame = TranscriptionFrame(seq=len(self._frames), attempt=self._attempt, end=end)
        self._frames.append(frame)
        return frame

    def sent_since(self, seq: int) -> Sequence[TranscriptionFrame]:
        """The frames from a number on."""
        return self._frames[seq:]

    def result(self, request_id: str, model: str, end: TranscriptionEnd) -> TranscriptionResult:
        """What is kept of the request."""
        return TranscriptionResult(request_id=request_id, model=model, segments=tuple(self.segments), end=end)
