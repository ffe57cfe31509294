"""`/api/extra/transcribe`: what is said in a sound, for clients of KoboldCpp."""

import json
import re
from dataclasses import dataclass

from aiohttp import web

from callboard_edge.domain.abilities import unsupported
from callboard_edge.domain.transcription_stream import Transcript
from callboard_edge.http.bodies import AnswerBody
from callboard_edge.http.call import Call
from callboard_edge.http.context import EdgeContext
from callboard_edge.http.route import Answer, Route
from callboard_edge.http.transcription_bodies import (
    BASE64,
    Base64Body,
    FileForm,
    max_upload_bytes,
    transcription_request,
    uploaded,
)
from callboard_edge.protocols.kobold.errors import ANSWERS
from callboard_edge.protocols.kobold.perf import Figures

NAME = "kobold_transcribe"
_NOT_SPEECH = re.compile(r"\[[^\[\]]*\]|\([^()]*\)|[♩-♬]+")
"""How Whisper writes noises and music."""


class TranscriptText(AnswerBody):
    """What was said."""

    text: str


@dataclass(frozen=True, slots=True)
class _Writer:
    only_speech: bool
    content_type: str = "application/json"

    def whole(self, transcript: Transcript) -> bytes:
        text = transcript.text
        if self.only_speech:
            text = " ".join(_NOT_SPEECH.sub(" ", text).split())
        return json.dumps({"text": text}, ensure_ascii=False).encode("utf-8", "replace")


def routes(context: EdgeContext, figures: Figures) -> list[Route]:
    """The route of this module."""
    most_bytes = context.settings.stt.max_upload_bytes

    async def transcribe(call: Call) -> web.StreamResponse:
        offered = (await context.offers.to(call.caller)).recognition_models
        if not offered.models:
            raise unsupported("Speech is not recognized here.", BASE64)
        async with uploaded(call, most_bytes, is_labelled=False) as upload:
            # These clients name no model of this kind, or one that is another server's.
            model = offered.find(upload.body.model or "") or offered.resolve(None)
            request = transcription_request(upload.body, model)
            writer = _Writer(bool(upload.body.suppress_non_speech))
            answer = await context.transcriptions.respond(call, NAME, request, model, upload.sound, writer)
        figures.transcribed += 1
        return answer

    return [
        Route(
            "POST",
            "/api/extra/transcribe",
            transcribe,
            NAME,
            "Write down what is said in a sound",
            "KoboldCpp speech",
            body=Base64Body,
            form=FileForm,
            max_body_bytes=max_upload_bytes(most_bytes),
            answers={200: Answer("The text.", TranscriptText), **ANSWERS},
        )
    ]
