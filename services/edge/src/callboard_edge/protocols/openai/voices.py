"""The voices on offer: `/v1/audio/voices`, an extension that Kokoro servers made common."""

from typing import Any

from aiohttp import web

from callboard_contracts.voices import kokoro_language
from callboard_edge.domain.catalogue import SpeechModel
from callboard_edge.domain.voices import listed_voices
from callboard_edge.http.bodies import AnswerBody
from callboard_edge.http.call import Call
from callboard_edge.http.context import EdgeContext
from callboard_edge.http.route import Answer, Route


class VoiceDetail(AnswerBody):
    """What is known of one voice; `language` is missing where the name does not tell it."""

    id: str
    models: list[str]
    language: str | None = None
    alias_of: str | None = None


class VoiceList(AnswerBody):
    """The voices on offer; `details` is there when `details=true` was asked for."""

    voices: list[str]
    details: list[VoiceDetail] | None = None


def routes(context: EdgeContext) -> list[Route]:
    """The routes of this module."""

    async def list_voices(call: Call) -> web.StreamResponse:
        await context.admission.identify(call.caller)
        query = call.request.query
        asked = query.get("model")
        models = context.speech_models.models if asked is None else (context.speech_models.resolve(asked),)
        names = list(dict.fromkeys(name for model in models for name in listed_voices(model)))
        answer: dict[str, Any] = {"voices": names}
        if query.get("details", "").lower() in ("1", "true", "yes"):
            answer["details"] = [_detail(name, models) for name in names]
        return call.answer(answer)

    return [
        Route(
            "GET",
            "/v1/audio/voices",
            list_voices,
            name="voices",
            summary="List the voices on offer; `model` narrows the list, `details=true` adds languages",
            tag="Audio",
            answers={200: Answer("The voices.", VoiceList)},
        )
    ]


def _detail(name: str, models: tuple[SpeechModel, ...]) -> dict[str, Any]:
    having = [model for model in models if name in listed_voices(model)]
    meant = having[0].voice_aliases.get(name) if name not in having[0].voices else None
    detail: dict[str, Any] = {"id": name, "models": [model.name for model in having]}
    language = kokoro_language(meant or name)
    if language is not None:
        detail["language"] = language
    if meant is not None:
        detail["alias_of"] = meant
    return detail
