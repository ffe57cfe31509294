"""OpenAI's speech: `/v1/audio/speech`, as raw audio or as events, sent while it is being spoken."""

import base64
import json
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from aiohttp import web
from pydantic import Field

from callboard_contracts.errors import ErrorInfo
from callboard_contracts.speech import SpeechEnd, SpeechRequest
from callboard_edge.domain.abilities import unsupported
from callboard_edge.domain.speech_text import check_text
from callboard_edge.domain.word_times import TimedWord, check_word_times
from callboard_edge.http.bodies import Body
from callboard_edge.http.call import Call
from callboard_edge.http.context import EdgeContext
from callboard_edge.http.error_objects import ErrorAnswer
from callboard_edge.http.route import Answer, Route
from callboard_edge.http.speech_responder import raw_audio
from callboard_edge.media.formats import FORMATS, AudioFormat
from callboard_edge.protocols.openai.bodies import VoiceName
from callboard_edge.protocols.openai.errors import ANSWERS, error_event
from callboard_edge.protocols.openai.words import GRANULARITIES, word_objects

NAME = "speech"
MAX_INSTRUCTIONS = 4096
MAX_LANGUAGE = 35
"""So long is the longest language tag in use."""


class SpeechBody(Body):
    """What is to be spoken, by whom, and in which form it is wanted.

    `language` is a tag such as `en-gb`, left out for the voice's own; `lang_code` is what Kokoro servers call it. With
    `["word"]` in `timestamp_granularities`, as for transcriptions, events say when each word of the text is heard.
    """

    model: str | None = None
    input: str
    voice: VoiceName = None
    language: Annotated[str, Field(max_length=MAX_LANGUAGE)] | None = None
    lang_code: Annotated[str, Field(max_length=MAX_LANGUAGE)] | None = None
    instructions: Annotated[str, Field(max_length=MAX_INSTRUCTIONS)] | None = None
    response_format: AudioFormat | None = None
    speed: Annotated[float, Field(ge=0.25, le=4.0)] | None = None
    stream_format: Literal["audio", "sse"] | None = None
    timestamp_granularities: Annotated[list[Literal["word"]], Field(max_length=1)] | None = None


class SpeechEvents:
    """The sound as server-sent events."""

    content_type = "text/event-stream; charset=utf-8"
    length_is_sound = False

    def keep_alive(self, *, waking: bool) -> bytes:
        """A comment."""
        del waking
        return b": keep-alive\n\n"

    def audio(self, sound: bytes) -> bytes:
        """A part of the sound."""
        return _event({"type": "speech.audio.delta", "audio": base64.b64encode(sound).decode()})

    def words(self, words: Sequence[TimedWord]) -> bytes:
        """When the words of the sound that follows are heard."""
        return _event({"type": "speech.audio.words", "words": word_objects(words)})

    def closing(self, end: SpeechEnd, tokens: int) -> bytes:
        """The end, and what was charged."""
        usage = {"input_tokens": 0, "output_tokens": tokens, "total_tokens": tokens, "audio_ms": end.audio_ms}
        return _event({"type": "speech.audio.done", "usage": usage})

    def failure(self, error: ErrorInfo) -> bytes:
        """The error, or the limit that ended the speech."""
        return error_event(error)


def routes(context: EdgeContext) -> list[Route]:
    """The routes of this module."""

    async def speak(call: Call) -> web.StreamResponse:
        body = await call.json(SpeechBody)
        offered = (await context.offers.to(call.caller)).speech_models
        model = offered.resolve(body.model or offered.default or next(iter(offered.names), None))
        check_text(body.input, context.settings.speech.max_input_characters)
        if body.timestamp_granularities:
            if body.stream_format != "sse":
                raise unsupported("Word timestamps come in the events of stream_format 'sse' only.", GRANULARITIES)
            check_word_times(model, context.workers, GRANULARITIES)
        voices = model.catalog(context.workers)
        request = SpeechRequest(
            model=model.name,
            text=body.input,
            # OpenAI's clients name a model, KoboldCpp's do not, whose voices are made up where they are not known.
            voice=voices.resolve(body.voice) if body.model else voices.resolve_any(body.voice),
            words=voices.words_of(body.voice),
            speed=1.0 if body.speed is None else body.speed,
            language=body.language or body.lang_code or None,
            instructions=body.instructions or "",
            word_times=bool(body.timestamp_granularities),
        )
        name = body.response_format or "mp3"
        writer = SpeechEvents() if body.stream_format == "sse" else raw_audio(name)
        return await context.speech.respond(call, NAME, request, model, name, writer)

    return [
        Route(
            "POST",
            "/v1/audio/speech",
            speak,
            name=NAME,
            summary="Speak a text",
            tag="Audio",
            body=SpeechBody,
            answers={
                200: Answer(
                    "The clip, sent while it is being spoken.",
                    media_types=(*(info.content_type for info in FORMATS.values()), "text/event-stream"),
                ),
                **ANSWERS,
                400: Answer(
                    "A field is wrong, the voice is unknown, or the text holds nothing that can be spoken.", ErrorAnswer
                ),
            },
        )
    ]


def _event(event: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(event, separators=(",", ":")).encode() + b"\n\n"
