"""Transcripts in OpenAI's forms: as JSON, plain text, captions and events."""

import json
import zlib
from dataclasses import dataclass
from typing import Any, Literal

from callboard_contracts.errors import ErrorInfo
from callboard_contracts.transcription import TranscribedSegment, TranscriptionTask
from callboard_edge.domain.languages import english_name
from callboard_edge.domain.transcription_stream import Transcript
from callboard_edge.http.bodies import AnswerBody
from callboard_edge.http.captions import Caption, subrip, webvtt
from callboard_edge.protocols.openai.errors import error_event

PLAIN = "text/plain; charset=utf-8"


class DurationUsage(AnswerBody):
    """How much sound was charged."""

    type: Literal["duration"]
    seconds: float


class WordObject(AnswerBody):
    """A word, and when it was said, in seconds."""

    word: str
    start: float
    end: float


class SegmentObject(AnswerBody):
    """A stretch of speech."""

    id: int
    seek: int
    start: float
    end: float
    text: str
    tokens: list[int]
    temperature: float
    avg_logprob: float
    compression_ratio: float
    no_speech_prob: float


class TranscriptObject(AnswerBody):
    """What was said; with `verbose_json` also in which language, and when."""

    text: str
    usage: DurationUsage
    task: TranscriptionTask | None = None
    language: str | None = None
    duration: float | None = None
    segments: list[SegmentObject] | None = None
    words: list[WordObject] | None = None


@dataclass(frozen=True, slots=True)
class TranscriptJson:
    """The text as an object."""

    content_type: str = "application/json"

    def whole(self, transcript: Transcript) -> bytes:
        """The answer; see `TranscriptWriter`."""
        return _json({"text": transcript.text, "usage": _usage(transcript)})


@dataclass(frozen=True, slots=True)
class VerboseJson:
    """The text with its times, as far as they are asked for."""

    task: TranscriptionTask
    temperature: float
    segments: bool
    words: bool
    content_type: str = "application/json"

    def whole(self, transcript: Transcript) -> bytes:
        """The answer; see `TranscriptWriter`."""
        end = transcript.end
        language = "english" if self.task == "translate" else english_name(end.language or "").lower()
        found: dict[str, Any] = {
            "task": self.task,
            "language": language,
            "duration": end.duration_ms / 1000,
            "text": transcript.text,
        }
        if self.segments:
            found["segments"] = [self._segment(n, one) for n, one in enumerate(transcript.segments)]
        if self.words:
            found["words"] = [
                {"word": word.word.strip(), "start": _seconds(word.start_s), "end": _seconds(word.end_s)}
                for segment in transcript.segments
                for word in segment.words
            ]
        return _json({**found, "usage": _usage(transcript)})

    def _segment(self, number: int, one: TranscribedSegment) -> dict[str, Any]:
        ratio = one.compression_ratio
        return {
            "id": number,
            "seek": one.seek or 0,
            "start": _seconds(one.start_s),
            "end": _seconds(one.end_s),
            "text": one.text,
            "tokens": list(one.tokens),
            "temperature": self.temperature if one.temperature is None else one.temperature,
            "avg_logprob": one.avg_logprob or 0.0,
            "compression_ratio": _compression_ratio(one.text) if ratio is None else ratio,
            "no_speech_prob": one.no_speech_probability or 0.0,
        }


@dataclass(frozen=True, slots=True)
class PlainText:
    """The text alone."""

    content_type: str = PLAIN

    def whole(self, transcript: Transcript) -> bytes:
        """The answer; see `TranscriptWriter`."""
        return _bytes(transcript.text + "\n")


@dataclass(frozen=True, slots=True)
class Captions:
    """The segments as a file of captions."""

    form: Literal["srt", "vtt"]

    @property
    def content_type(self) -> str:
        """The type of the answer."""
        return "text/vtt; charset=utf-8" if self.form == "vtt" else PLAIN

    def whole(self, transcript: Transcript) -> bytes:
        """The answer; see `TranscriptWriter`."""
        captions = [Caption(_ms(one.start_s), _ms(one.end_s), one.text) for one in transcript.segments]
        return _bytes((webvtt if self.form == "vtt" else subrip)(captions))


@dataclass(frozen=True, slots=True)
class TranscriptEventStream:
    """The text as server-sent events, segment by segment."""

    content_type: str = "text/event-stream; charset=utf-8"
    keep_alive: bytes = b": keep-alive\n\n"

    def delta(self, text: str) -> bytes:
        """A part of the text."""
        return _event({"type": "transcript.text.delta", "delta": text})

    def closing(self, transcript: Transcript, tokens: int) -> bytes:
        """The whole text, and what was charged."""
        usage = {
            "type": "tokens",
            "input_tokens": tokens,
            "output_tokens": 0,
            "total_tokens": tokens,
            "input_token_details": {"audio_tokens": tokens, "text_tokens": 0},
        }
        return _event({"type": "transcript.text.done", "text": transcript.text, "usage": usage})

    def failure(self, error: ErrorInfo) -> bytes:
        """The error."""
        return error_event(error)


def _usage(transcript: Transcript) -> dict[str, Any]:
    return {"type": "duration", "seconds": transcript.end.heard_ms / 1000}


def _compression_ratio(text: str) -> float:
    """How repetitive a text is, as Whisper reckons it."""
    raw = text.encode("utf-8", "replace")
    return len(raw) / len(zlib.compress(raw)) if raw else 0.0


def _ms(seconds: float) -> int:
    return max(0, round(seconds * 1000))


def _seconds(seconds: float) -> float:
    return round(seconds, 3)


def _json(content: dict[str, Any]) -> bytes:
    return _bytes(json.dumps(content, ensure_ascii=False, separators=(",", ":")))


def _event(event: dict[str, Any]) -> bytes:
    return b"data: " + _json(event) + b"\n\n"


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "replace")
