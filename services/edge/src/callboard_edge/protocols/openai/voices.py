"""The voices on offer: `/v1/audio/voices`, an extension that Kokoro servers made common."""

from collections.abc import Sequence
from typing import Any

from aiohttp import web

from callboard_contracts.voices import kokoro_language
from callboard_edge.domain.catalogue import SpeechModel
from callboard_edge.domain.voices import VoiceCatalog
from callboard_edge.domain.workers import Workers
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
        catalogs = [(model, model.catalog(context.workers)) for model in models]
        names = list(dict.fromkeys(name for _model, catalog in catalogs for name in catalog.listed()))
        answer: dict[str, Any] = {"voices": names}
        if query.get("details", "").lower() in ("1", "true", "yes"):
            answer["details"] = [_detail(name, catalogs, context.workers) for name in names]
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


def _detail(name: str, catalogs: Sequence[tuple[SpeechModel, VoiceCatalog]], workers: Workers) -> dict[str, Any]:
    having = [(model, catalog) for model, catalog in catalogs if name in catalog.listed()]
    model, catalog = having[0]
    meant = None if catalog.offers(name) else catalog.aliases.get(name)
    detail: dict[str, Any] = {"id": name, "models": [model.name for model, _catalog in having]}
    language = model.language(workers, meant or name) or kokoro_language(meant or name)
    if language is not None:
        detail["language"] = language
    if meant is not None:
        detail["alias_of"] = meant
    return detail
