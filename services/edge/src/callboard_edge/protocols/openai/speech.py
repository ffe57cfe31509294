"""OpenAI's speech: `/v1/audio/speech`, as raw audio or as events, sent while it is being spoken."""

import base64
import json
import socket
import struct
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from aiohttp import HttpVersion11, web
from pydantic import BeforeValidator, Field, WithJsonSchema

from callboard_contracts.errors import CallboardError, ErrorCode, ErrorInfo
from callboard_contracts.quota import UNITS_PER_TOKEN
from callboard_contracts.speech import SpeechEnd, SpeechRequest
from callboard_contracts.speech_duration import max_audio_ms
from callboard_edge.domain.job_stream import FailedAfterOutput
from callboard_edge.domain.ports import Segment
from callboard_edge.domain.speech_stream import Utterance
from callboard_edge.domain.speech_text import check_text, nothing_to_speak
from callboard_edge.domain.voices import resolve_voice
from callboard_edge.http.bodies import Body
from callboard_edge.http.call import Call
from callboard_edge.http.context import EdgeContext
from callboard_edge.http.rate_limits import rate_limit_headers
from callboard_edge.http.route import Answer, Route
from callboard_edge.media.formats import FORMATS, AudioFormat
from callboard_edge.metrics import EdgeMetrics
from callboard_edge.protocols.openai.bodies import ErrorAnswer
from callboard_edge.protocols.openai.errors import error_event
from callboard_edge.protocols.openai.text import ERRORS

NAME = "speech"
WAIT_S = 15.0
"""How long one look into the inbox lasts; the request's own deadline ends the waiting."""
MAX_INSTRUCTIONS = 4096
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)


def _voice_name(value: Any) -> Any:
    """A voice is named by a string, or by an object that holds nothing but its id."""
    if isinstance(value, dict) and isinstance(value.get("id"), str):
        return value["id"]
    return value


_VOICE_SCHEMA = {
    "anyOf": [
        {"type": "string"},
        {"type": "object", "properties": {"id": {"type": "string"}}, "required": ["id"]},
        {"type": "null"},
    ],
    "description": "A voice, a blend such as `af_bella(2)+af_sky(1)`, or left out for the model's default voice.",
}


class SpeechBody(Body):
    """What is to be spoken, by whom, and in which form it is wanted."""

    model: str
    input: str
    voice: Annotated[str | None, BeforeValidator(_voice_name), WithJsonSchema(_VOICE_SCHEMA)] = None
    instructions: Annotated[str, Field(max_length=MAX_INSTRUCTIONS)] | None = None
    response_format: AudioFormat | None = None
    speed: Annotated[float, Field(ge=0.25, le=4.0)] | None = None
    stream_format: Literal["audio", "sse"] | None = None


class SpeechWriter:
    """Where a clip's bytes go: straight into the body, or as events; the answer begins with the first of them."""

    def __init__(self, call: Call, name: AudioFormat, *, events: bool) -> None:
        self._call = call
        self._info = FORMATS[name]
        self._events = events
        self.content_length: int | None = None

    @property
    def open(self) -> bool:
        """Whether the status has been decided."""
        return self._call.response is not None

    async def send(self, chunk: bytes) -> None:
        """Sends encoded sound."""
        if not chunk:
            return
        if self._events:
            await self._event({"type": "speech.audio.delta", "audio": base64.b64encode(chunk).decode()})
            return
        if not self.open:
            headers = {} if self.content_length is None else {"Content-Length": str(self.content_length)}
            await self._call.stream(self._info.content_type, headers)
        await self._call.write(chunk)

    async def done(self, end: SpeechEnd, tokens: int, metrics: EdgeMetrics) -> web.StreamResponse:
        """Ends the answer; a clip that a limit ended is whole as far as it goes, and events say which limit it was."""
        if end.reason == "limit":
            info = end.error or _unexplained(end)
            metrics.errors.labels(NAME, info.code.value).inc()
            return await self._call.finish(error_event(info) if self._events else b"")
        if self._events:
            usage = {"input_tokens": 0, "output_tokens": tokens, "total_tokens": tokens, "audio_ms": end.audio_ms}
            await self._event({"type": "speech.audio.done", "usage": usage})
        return await self._call.finish()

    async def fail(self, error: CallboardError, metrics: EdgeMetrics) -> web.StreamResponse:
        """Shows in the middle of an answer that it is not whole; raises where an event cannot tell the client."""
        if not self._events:
            if self._call.request.version < HttpVersion11:
                _reset_on_close(self._call)
            raise error
        metrics.errors.labels(NAME, error.info.code.value).inc()
        return await self._call.finish(error_event(error.info))

    async def _event(self, event: dict[str, Any]) -> None:
        if not self.open:
            await self._call.stream("text/event-stream; charset=utf-8")
        await self._call.write(b"data: " + json.dumps(event, separators=(",", ":")).encode() + b"\n\n")


def routes(context: EdgeContext) -> list[Route]:
    """The routes of this module."""

    async def speak(call: Call) -> web.StreamResponse:
        body = await call.json(SpeechBody)
        model = context.speech_models.resolve(body.model)
        speech = context.settings.speech
        check_text(body.input, speech.max_input_characters)
        request = SpeechRequest(
            model=model.name,
            text=body.input,
            voice=resolve_voice(model, body.voice),
            speed=1.0 if body.speed is None else body.speed,
            instructions=body.instructions or "",
        )
        most_ms = max_audio_ms(request.text, request.speed, speech.comma_pause_ms, speech.sentence_pause_ms)
        # The worker holds the rest while it speaks, as far as the text turns out to need it.
        audio_ms = min(most_ms, speech.hold_slice_ms)
        name = body.response_format or "mp3"
        outlet = SpeechWriter(call, name, events=body.stream_format == "sse")
        with await context.admission.speech(call.caller, request, model, audio_ms, call.fresh_id) as utterance:
            call.headers.update(rate_limit_headers(utterance.states))
            with context.metrics.open_streams.labels(NAME).track_inprogress():
                try:
                    end = await _send(context, utterance, name, outlet)
                    return await outlet.done(end, _charged_tokens(utterance, end.audio_ms), context.metrics)
                except CallboardError as error:
                    if not outlet.open:
                        raise
                    return await outlet.fail(error, context.metrics)

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
                **ERRORS,
                400: Answer(
                    "A field is wrong, the voice is unknown, or the text holds nothing that can be spoken.", ErrorAnswer
                ),
            },
        )
    ]


async def _send(context: EdgeContext, utterance: Utterance, name: AudioFormat, outlet: SpeechWriter) -> SpeechEnd:
    """Sends an utterance through one encoder, as it comes, and returns its end.

    Raises:
        CallboardError: the utterance failed; nothing has been sent if the outlet is not open.
    """
    async with context.media.session(name) as session:
        segments: Sequence[Segment] = await _opening(utterance)
        if segments[-1].info.end is not None:
            outlet.content_length = session.set_length(sum(len(segment.pcm) for segment in segments))
        while True:
            for segment in segments:
                if segment.info.end is not None:
                    await outlet.send(await session.finish())
                    return segment.info.end
                for chunk in session.chunks(segment.pcm) if segment.pcm else ():
                    await outlet.send(await session.feed(chunk))
            segments = await _next(utterance)


async def _opening(utterance: Utterance) -> list[Segment]:
    """The segments up to the first sound.

    Raises:
        CallboardError: the utterance failed, or ended without a sound.
    """
    segments: list[Segment] = []
    while not any(segment.pcm for segment in segments):
        end = segments[-1].info.end if segments else None
        if end is not None and end.reason == "limit":
            raise CallboardError.of(end.error or _unexplained(end))
        if end is not None:
            raise nothing_to_speak()
        segments += await _next(utterance)
    return segments


async def _next(utterance: Utterance) -> Sequence[Segment]:
    """The next segments; an utterance that failed raises at once, so that its last sounds never make it look whole."""
    segments = await utterance.take(WAIT_S)
    end = segments[-1].info.end if segments else None
    if end is not None and end.reason not in {"stop", "limit"}:
        info = end.error or _unexplained(end)
        if end.audio_ms:
            charged = FailedAfterOutput(info.code, info.message)
            charged.info = info
            raise charged
        raise CallboardError.of(info)
    return segments


def _unexplained(end: SpeechEnd) -> ErrorInfo:
    if end.reason == "limit":
        return ErrorInfo(code=ErrorCode.QUOTA_EXCEEDED, message="A limit ended the speech.")
    if end.reason == "cancelled":
        return ErrorInfo(code=ErrorCode.INTERRUPTED, message="The speech was stopped before its end.")
    return ErrorInfo(code=ErrorCode.ENGINE_FAILED, message="The speech engine failed.")


def _charged_tokens(utterance: Utterance, audio_ms: int) -> int:
    """What quota charges for the speech, in whole tokens; 0 where no hold was taken."""
    rate = utterance.hold.rates.audio_units_per_s if utterance.hold is not None else 0
    return -(-audio_ms * rate // (1000 * UNITS_PER_TOKEN))


def _reset_on_close(call: Call) -> None:
    """Has the connection end in a reset: an HTTP/1.0 client takes a plain close for the proper end of the body."""
    transport = call.request.transport
    endpoint = transport.get_extra_info("socket") if transport is not None else None
    if endpoint is not None:
        endpoint.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
