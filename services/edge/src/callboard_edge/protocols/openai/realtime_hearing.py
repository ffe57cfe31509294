"""How the sound of a session of `/v1/realtime` is written down."""

import binascii
import logging
from base64 import b64decode

from callboard_contracts.errors import CallboardError, ErrorCode, ErrorInfo
from callboard_contracts.transcription import TranscriptionRequest
from callboard_edge.domain.abilities import check_hears
from callboard_edge.domain.catalogue import Catalogue, RecognitionModel, unknown_model
from callboard_edge.domain.sounds import Sound
from callboard_edge.http.call import Call
from callboard_edge.http.context import EdgeContext
from callboard_edge.http.event_socket import EventSocket
from callboard_edge.media.telephone import decoded
from callboard_edge.protocols.openai.errors import error_fields
from callboard_edge.protocols.openai.realtime_bodies import BetaFormat
from callboard_edge.protocols.openai.realtime_items import Item, Part
from callboard_edge.protocols.openai.realtime_session import Session
from callboard_edge.protocols.openai.realtime_settings import Transcription
from callboard_edge.protocols.openai.realtime_voice import TurnFigures

log = logging.getLogger(__name__)

NAME = "realtime"
FAILED = ErrorInfo(code=ErrorCode.INTERNAL, message="Something failed inside.")


async def write_down(
    context: EdgeContext,
    call: Call,
    socket: EventSocket,
    session: Session,
    item: Item,
    part: Part,
    sound: bytes,
    seconds: float,
    figures: TurnFigures,
) -> None:
    """Has a sound written down, and tells the session what was heard or why nothing was."""
    wanted = session.settings.transcription or Transcription()
    # Nothing else keeps the bytes once they are stored.
    held = Sound(sound)
    del sound
    try:
        model = _recogniser((await context.offers.to(call.caller)).recognition_models, wanted.model)
        _check_size(held, context.settings.stt.max_upload_bytes)
        request = TranscriptionRequest(model=model.name, language=wanted.language, prompt=wanted.prompt)
        check_hears(request, model, context.workers.model("stt", model.pool, model.name))
        held_ms = max(1, min(context.settings.stt.hold_slice_ms, int(seconds * 1000)))
        async with await context.admission.transcription(call.caller, request, model, held, held_ms) as stream:
            sent = 0
            async for _ in stream:
                text = stream.text
                session.hears(item, part, text[sent:])
                sent = max(sent, len(text))
                await socket.room()
            transcript = stream.transcript
        figures.transcript()
        session.heard(item, part, transcript.text, seconds)
    except CallboardError as error:
        context.metrics.errors.labels(NAME, error.info.code.value).inc()
        session.not_heard(item, part, error.info, error_fields(error.info))
    except Exception:
        log.exception("hearing_failed", extra={"request_id": call.fresh_id, "route": NAME})
        session.not_heard(item, part, FAILED, error_fields(FAILED))


def pcm_of(audio: str, form: BetaFormat, param: str) -> bytes:
    """The samples of a sound that is base64; raises CallboardError where it is not."""
    try:
        sound = b64decode(audio, validate=True)
    except (binascii.Error, ValueError):
        raise CallboardError(ErrorCode.INVALID_REQUEST, f"'{param}' is not valid base64.", param=param) from None
    return sound if form == "pcm16" else decoded(sound, "mu" if form == "g711_ulaw" else "a")


def _recogniser(offered: Catalogue[RecognitionModel], name: str | None) -> RecognitionModel:
    if not offered.models:
        raise unknown_model(())
    return offered.resolve(name)


def _check_size(sound: Sound, most_bytes: int) -> None:
    if sound.size_bytes > most_bytes:
        raise CallboardError(ErrorCode.BODY_TOO_LARGE, f"The sound is larger than the limit of {most_bytes} bytes.")
