"""What of a response is timed, and how its sound takes its client's form."""

import asyncio
from collections.abc import Sequence

from prometheus_client import Histogram

from callboard_contracts.chat import ChatFrame
from callboard_contracts.speech import BYTES_PER_MS, AudioSegment
from callboard_edge.domain.word_times import WordClock
from callboard_edge.media.samples import SampleAligner
from callboard_edge.media.telephone import TelephoneEncoder
from callboard_edge.metrics import EdgeMetrics
from callboard_edge.protocols.openai.realtime_bodies import BetaFormat
from callboard_edge.protocols.openai.realtime_response import Response

SOUND_BYTES = 24_000
"""The most sound of one event: half a second."""


class TurnFigures:
    """Observes how long after a turn its text, and the first text and the first sound of its answer come."""

    def __init__(self, metrics: EdgeMetrics, turn: tuple[float, str] | None) -> None:
        self._metrics = metrics
        self._turn = turn
        self._seen = set[Histogram]()

    def transcript(self) -> None:
        """Takes that the turn is written down."""
        self._observe(self._metrics.realtime_transcript)

    def text(self, frames: Sequence[ChatFrame]) -> None:
        """Takes frames of the answer."""
        if any(frame.text for frame in frames):
            self._observe(self._metrics.realtime_first_text)

    def sound(self) -> None:
        """Takes that there is sound."""
        self._observe(self._metrics.realtime_first_audio)

    def _observe(self, histogram: Histogram) -> None:
        """Observes what comes for the first time, where there is a turn."""
        if self._turn is not None and histogram not in self._seen:
            ended_at, turn = self._turn
            self._seen.add(histogram)
            histogram.labels(turn).observe(asyncio.get_running_loop().time() - ended_at)


class ResponseVoice:
    """Gives the sound of an answer in its client's form."""

    def __init__(self, response: Response, form: BetaFormat) -> None:
        self._response = response
        self._encoder = None if form == "pcm16" else TelephoneEncoder("mu" if form == "g711_ulaw" else "a")
        self._aligner = SampleAligner()
        self._clock = WordClock()
        self._passed_bytes = 0

    def speak(self, segment: AudioSegment) -> None:
        """Adds a segment to the answer."""
        words = self._clock.words_of(segment)
        pcm = self._aligner.align(segment.pcm)
        for begin in range(0, len(pcm), SOUND_BYTES):
            piece = pcm[begin : begin + SOUND_BYTES]
            before_ms = self._passed_bytes // BYTES_PER_MS
            self._passed_bytes += len(piece)
            sound = piece if self._encoder is None else self._encoder.encode(piece)
            self._response.spoken(sound, self._passed_bytes // BYTES_PER_MS - before_ms, words if not begin else ())
