"""The voices and the speech models on offer: extensions that Kokoro servers and Open WebUI made common."""

from collections.abc import Sequence
from typing import Any, Literal

from aiohttp import web

from callboard_contracts.voices import kokoro_gender, kokoro_language
from callboard_edge.domain.catalogue import SpeechModel
from callboard_edge.domain.voices import VoiceCatalog
from callboard_edge.domain.workers import Workers
from callboard_edge.http.bodies import AnswerBody
from callboard_edge.http.call import Call
from callboard_edge.http.context import EdgeContext
from callboard_edge.http.route import Answer, Route
from callboard_edge.protocols.openai.models import ModelObject, is_expected, model_object

_TRUE = {"1", "true", "yes"}


class VoiceObject(AnswerBody):
    """A voice; `name` is its id, so that it may be sent as `voice` in the same way.

    `language` and `gender` are null where the name does not tell them.
    """

    id: str
    name: str
    language: str | None
    gender: Literal["female", "male"] | None
    models: list[str]
    alias_of: str | None = None


class VoiceList(AnswerBody):
    """The voices on offer; as plain names where `names=true` was asked for."""

    status: Literal["ok"]
    voices: list[VoiceObject] | list[str]


class SpeechModelObject(AnswerBody):
    """A speech model, by the fields that clients of speech look for."""

    id: str
    name: str


class SpeechModelList(AnswerBody):
    """The speech models on offer, in two forms that clients know."""

    object: Literal["list"]
    data: list[ModelObject]
    models: list[SpeechModelObject]


def routes(context: EdgeContext) -> list[Route]:
    """The routes of this module."""

    async def list_voices(call: Call) -> web.StreamResponse:
        await context.admission.identify(call.caller)
        query = call.request.query
        asked = query.get("model")
        speech_models = (await context.offers.to(call.caller)).speech_models
        models = speech_models.models if asked is None else (speech_models.resolve(asked),)
        catalogs = [(model, model.catalog(context.workers)) for model in models]
        names = list(dict.fromkeys(name for _model, catalog in catalogs for name in catalog.listed()))
        if query.get("names", "").lower() in _TRUE:
            return call.answer({"status": "ok", "voices": names})
        voices = [_voice(name, catalogs, context.workers) for name in names]
        return call.answer({"status": "ok", "voices": voices})

    async def list_models(call: Call) -> web.StreamResponse:
        await context.admission.identify(call.caller)
        speech_models = (await context.offers.to(call.caller)).speech_models
        names = [model.name for model in speech_models.models if is_expected(context, "tts", model)]
        return call.answer(
            {
                "object": "list",
                "data": [model_object(name) for name in names],
                "models": [{"id": name, "name": name} for name in names],
            }
        )

    return [
        Route(
            "GET",
            "/v1/audio/voices",
            list_voices,
            name="voices",
            summary="List the voices on offer; `model` narrows the list, `names=true` leaves only names",
            tag="Audio",
            answers={200: Answer("The voices.", VoiceList)},
        ),
        Route(
            "GET",
            "/v1/audio/models",
            list_models,
            name="speech_models",
            summary="List the speech models on offer",
            tag="Audio",
            answers={200: Answer("The models.", SpeechModelList)},
        ),
    ]


def _voice(name: str, catalogs: Sequence[tuple[SpeechModel, VoiceCatalog]], workers: Workers) -> dict[str, Any]:
    having = [(model, catalog) for model, catalog in catalogs if name in catalog.listed()]
    model, catalog = having[0]
    meant = catalog.alias_of(name)
    voice: dict[str, Any] = {
        "id": name,
        "name": name,
        "language": model.language(workers, meant or name) or kokoro_language(meant or name),
        "gender": kokoro_gender(meant or name),
        "models": [model.name for model, _catalog in having],
    }
    return voice if meant is None else {**voice, "alias_of": meant}
