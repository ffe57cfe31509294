"""Speech for clients of KoboldCpp, of XTTS servers and of AllTalk: whole files, in any voice that they name."""

import asyncio
from collections.abc import Mapping
from typing import Annotated, Any, cast, get_args
from urllib.parse import parse_qsl

from aiohttp import web
from pydantic import AliasChoices, BeforeValidator, Field

from callboard_contracts.errors import CallboardError, ErrorCode
from callboard_contracts.speech import SpeechRequest
from callboard_edge.domain.catalogue import SpeechModel
from callboard_edge.domain.speech_text import check_text
from callboard_edge.http.bodies import AnswerBody, Body, parse, parse_query
from callboard_edge.http.call import Call
from callboard_edge.http.context import EdgeContext
from callboard_edge.http.multipart import FORM, FormParser, is_form
from callboard_edge.http.route import Answer, Handler, Route
from callboard_edge.http.speech_responder import RawAudio
from callboard_edge.media.formats import FORMATS, AudioFormat
from callboard_edge.protocols.kobold.bodies import AnyBody
from callboard_edge.protocols.kobold.errors import ANSWERS
from callboard_edge.protocols.kobold.info import fixed

TAG = "KoboldCpp speech"
MAX_FORM_BYTES = 256 * 1024
MAX_FORM_FIELDS = 64
MAX_INSTRUCTIONS = 4096
URL_ENCODED = "application/x-www-form-urlencoded"
TTS_SETTINGS: Mapping[str, Any] = {
    "temperature": 0.75,
    "speed": 1.0,
    "length_penalty": 1.0,
    "repetition_penalty": 5.0,
    "top_p": 0.85,
    "top_k": 50,
    "enable_text_splitting": True,
    "stream_chunk_size": 100,
}
"""The settings that XTTS servers begin with; here they change nothing."""


def _flag(value: Any) -> bool:
    return value is True or str(value).lower() in {"1", "true", "yes"}


def _speed(value: Any) -> float:
    try:
        return min(4.0, max(0.25, float(value)))
    except (TypeError, ValueError, OverflowError):
        return 1.0


class SpeechBody(Body):
    """What is to be spoken, by the names of each kind of client; everything else that they send is ignored."""

    input: Annotated[str, Field(validation_alias=AliasChoices("input", "text", "text_input"))]
    voice: Annotated[
        str | None, Field(validation_alias=AliasChoices("voice", "speaker_wav", "character_voice_gen"))
    ] = None
    model: str | None = None
    instruction: str | None = None
    response_format: str | None = None
    use_mp3: Annotated[bool, BeforeValidator(_flag)] = False
    speed: Annotated[float, BeforeValidator(_speed)] = 1.0

    @property
    def audio_format(self) -> AudioFormat:
        """The format that was asked for, WAV where it is not known."""
        if self.use_mp3:
            return "mp3"
        asked = (self.response_format or "").lower()
        return cast("AudioFormat", asked) if asked in get_args(AudioFormat) else "wav"


class VoiceNames(AnswerBody):
    """The names of the voices on offer."""

    status: str
    voices: list[str]


def routes(context: EdgeContext) -> list[Route]:
    """The routes of this module."""

    async def models(call: Call) -> list[SpeechModel]:
        """The speech models that a caller is offered, the default first."""
        offered = (await context.offers.to(call.caller)).speech_models
        return sorted(offered.models, key=lambda model: model.name != offered.default)

    async def names(call: Call) -> list[str]:
        await context.admission.identify(call.caller)
        listed = (name for model in await models(call) for name in model.catalog(context.workers).listed())
        return list(dict.fromkeys(listed))

    async def speakers_list(call: Call) -> web.StreamResponse:
        return call.answer(await names(call))

    async def speakers(call: Call) -> web.StreamResponse:
        return call.answer([{"name": name, "voice_id": name, "preview_url": ""} for name in await names(call)])

    async def alltalk_voices(call: Call) -> web.StreamResponse:
        return call.answer({"status": "success", "voices": await names(call)})

    async def audio_voices(call: Call) -> web.StreamResponse:
        return call.answer({"status": "ok", "voices": await names(call)})

    async def speak(call: Call) -> web.StreamResponse:
        body = await _read(call)
        check_text(body.input, context.settings.speech.max_input_characters)
        offered = await models(call)
        if not offered:
            raise CallboardError(ErrorCode.UNKNOWN_MODEL, "There is no model for speech here.", param="model")
        model = _chosen(offered, body, context)
        name = body.audio_format
        voices = model.catalog(context.workers)
        request = SpeechRequest(
            model=model.name,
            text=body.input,
            voice=voices.resolve_any(body.voice),
            words=voices.words_of(body.voice),
            speed=body.speed,
            instructions=(body.instruction or "")[:MAX_INSTRUCTIONS],
        )
        disposition = {"Content-Disposition": f'attachment; filename="output.{name}"'}
        writer = RawAudio(FORMATS[name].content_type)
        return await context.speech.respond(call, "kobold_speech", request, model, name, writer, disposition)

    def get(path: str, handler: Handler, name: str, summary: str, answer: type[AnswerBody] | None = None) -> Route:
        return Route("GET", path, handler, f"kobold_{name}", summary, TAG, answers={200: Answer("They.", answer)})

    def post(path: str, summary: str) -> Route:
        answers = {200: Answer("The sound, as a whole file.", media_types=("audio/wav", "audio/mpeg")), **ANSWERS}
        return Route("POST", path, speak, "kobold_speech", summary, TAG, body=SpeechBody, answers=answers)

    return [
        post("/api/extra/tts", "Speak a text, as KoboldCpp does"),
        post("/audio/speech", "Speak a text, as KoboldCpp does"),
        post("/tts_to_audio", "Speak a text, as XTTS servers do"),
        post("/api/tts-generate", "Speak a text, as AllTalk does; the body is a form"),
        get("/speakers_list", speakers_list, "speakers_list", "List the names of the voices"),
        get("/api/extra/speakers_list", speakers_list, "speakers_list", "List the names of the voices"),
        get("/speakers", speakers, "speakers", "List the voices, as XTTS servers do"),
        get("/api/voices", alltalk_voices, "voices", "List the names of the voices, as AllTalk does", VoiceNames),
        get(
            "/audio/voices", audio_voices, "audio_voices", "List the names of the voices, as KoboldCpp does", VoiceNames
        ),
        get("/get_tts_settings", fixed(dict(TTS_SETTINGS)), "tts_settings", "Show the settings that XTTS servers have"),
        Route(
            "POST",
            "/set_tts_settings",
            fixed({"message": "Settings successfully applied"}),
            "kobold_set_tts_settings",
            "Take settings that XTTS servers have, which change nothing here",
            TAG,
            body=AnyBody,
            security="none",
            answers={200: Answer("A message.")},
        ),
    ]


def _chosen(offered: list[SpeechModel], body: SpeechBody, context: EdgeContext) -> SpeechModel:
    """The model that a client names, else the first that has the voice, else the first."""
    for model in offered:
        if body.model in (model.name, *model.aliases):
            return model
    return next((model for model in offered if body.voice in model.catalog(context.workers).listed()), offered[0])


async def _read(call: Call) -> SpeechBody:
    """The body, as JSON or as a form; JSON that is sent as a form, as curl does, is read as what it is.

    Raises:
        CallboardError: as `Call.json` does.
    """
    raw = await call.read()
    if call.request.content_type not in (URL_ENCODED, FORM) or raw.lstrip().startswith(b"{"):
        return parse(SpeechBody, raw)
    if len(raw) > MAX_FORM_BYTES:
        raise CallboardError(ErrorCode.BODY_TOO_LARGE, f"A form may have {MAX_FORM_BYTES} bytes.")
    try:
        fields = await asyncio.to_thread(form_fields, call.request.headers["Content-Type"], raw)
    except ValueError:
        raise CallboardError(ErrorCode.INVALID_REQUEST, "The body is not a valid form.") from None
    return parse_query(SpeechBody, fields)


def form_fields(content_type: str, raw: bytes) -> dict[str, str]:
    """The text fields of a form; raises ValueError or CallboardError."""
    if not is_form({"Content-Type": content_type}):
        return dict(parse_qsl(raw.decode(), keep_blank_values=True, max_num_fields=MAX_FORM_FIELDS))
    parser = FormParser(content_type, max_field_bytes=MAX_FORM_BYTES)
    parser.feed(raw)
    return {name: texts[-1] for name, texts in parser.close().fields.items()}
