"""OpenAI's `/v1/audio/transcriptions` and `/v1/audio/translations`."""

from aiohttp import web

from callboard_contracts.errors import CallboardError, ErrorCode
from callboard_contracts.transcription import TranscriptionTask
from callboard_edge.domain.abilities import unsupported
from callboard_edge.domain.catalogue import unknown_model
from callboard_edge.http.call import Call
from callboard_edge.http.context import EdgeContext
from callboard_edge.http.error_objects import ErrorAnswer
from callboard_edge.http.route import Answer, Handler, Route
from callboard_edge.http.transcription_bodies import (
    Base64Body,
    FileForm,
    TranscriptionBody,
    max_upload_bytes,
    transcription_request,
    uploaded,
)
from callboard_edge.http.transcription_responder import TranscriptEvents, TranscriptWriter
from callboard_edge.protocols.openai.errors import ANSWERS
from callboard_edge.protocols.openai.transcripts import (
    PLAIN,
    Captions,
    PlainText,
    TranscriptEventStream,
    TranscriptJson,
    TranscriptObject,
    VerboseJson,
)

STREAMED = (None, "json", "text")
"""The formats that a stream may be asked for beside; its events are the same for all."""


def routes(context: EdgeContext) -> list[Route]:
    """The routes of this module."""
    most_bytes = context.settings.stt.max_upload_bytes

    def writing(task: TranscriptionTask, name: str) -> Handler:
        async def handler(call: Call) -> web.StreamResponse:
            offered = (await context.offers.to(call.caller)).recognition_models
            if not offered.models:
                raise unknown_model(())
            async with uploaded(call, most_bytes) as upload:
                model, writer = offered.resolve(upload.body.model), writer_of(upload.body, task)
                request = transcription_request(upload.body, model, task)
                return await context.transcriptions.respond(call, name, request, model, upload.sound, writer)

        return handler

    def post(path: str, name: str, task: TranscriptionTask, summary: str) -> Route:
        return Route(
            "POST",
            path,
            writing(task, name),
            name=name,
            summary=summary,
            tag="Audio",
            body=Base64Body,
            form=FileForm,
            max_body_bytes=max_upload_bytes(most_bytes),
            answers={
                200: Answer(
                    "The text, in the form that was asked for.",
                    TranscriptObject,
                    ("application/json", PLAIN.partition(";")[0], "text/vtt", "text/event-stream"),
                ),
                **ANSWERS,
                415: Answer("The body is neither a form nor JSON.", ErrorAnswer),
            },
        )

    return [
        post("/v1/audio/transcriptions", "transcriptions", "transcribe", "Write down what is said in a sound"),
        post("/v1/audio/translations", "translations", "translate", "Write down in English what is said in a sound"),
    ]


def writer_of(body: TranscriptionBody, task: TranscriptionTask) -> TranscriptWriter | TranscriptEvents:
    """The form that a client asks for.

    Raises:
        CallboardError: there is no such form here, or what was asked for does not go together.
    """
    asked, times = body.response_format or "json", body.timestamp_granularities
    if body.include:
        raise unsupported("The probabilities of tokens are not given here.", "include")
    if asked == "diarized_json":
        raise unsupported("Speakers are not told apart here.", "response_format")
    if times and asked != "verbose_json":
        raise CallboardError(
            ErrorCode.INVALID_REQUEST,
            "Times are given with the response_format 'verbose_json' only.",
            param="timestamp_granularities",
        )
    if body.stream:
        if asked not in STREAMED:
            raise unsupported("A stream has the response_format 'json' or 'text'.", "response_format")
        return TranscriptEventStream()
    match asked:
        case "verbose_json":
            return VerboseJson(task, body.temperature or 0.0, "segment" in times or not times, "word" in times)
        case "text":
            return PlainText()
        case "srt" | "vtt":
            return Captions(asked)
        case _:
            return TranscriptJson()
