"""What scripts look up before they ask: whether the server is there, its models and its voices."""

from aiohttp import web

from callboard_edge.http.call import Call
from callboard_edge.http.context import EdgeContext
from callboard_edge.http.route import Answer, Route
from callboard_edge.protocols.talkmaster.errors import served
from callboard_edge.protocols.talkmaster.replies import names_within
from callboard_edge.protocols.talkmaster.requests import caller_of, chat_model, default_speech_model

TAG = "AI Talkmaster"


def routes(context: EdgeContext) -> list[Route]:
    """The routes of this module."""

    async def status(call: Call) -> web.StreamResponse:
        return call.answer_json(b'"status online"')

    async def chat_models(call: Call) -> web.StreamResponse:
        models = (await context.offers.to(caller_of(context, call))).chat_models
        aliases = (alias for model in models.models for alias in model.aliases)
        default = chat_model(models, "").name if models.models else ""
        fixed = {"chat_client_mode": "ollama", "default_model": default, "count": 1000}
        names = names_within(fixed, "chat_models", (*models.names, *aliases))
        return call.answer({**fixed, "chat_models": names, "count": len(names)})

    async def audio_models(call: Call) -> web.StreamResponse:
        models = (await context.offers.to(caller_of(context, call))).speech_models
        if not models.models:
            return call.answer({"audio_available": False, "error": "Audio is not configured on this server."})
        model = default_speech_model(models)
        catalog = model.catalog(context.workers)
        aliases = (alias for one in models.models for alias in one.aliases)
        fixed = {
            "audio_available": True,
            "audio_client_mode": "kokoro",
            "default_voice": catalog.resolve(None),
            "default_model": model.name,
            "audio_models": tuple(dict.fromkeys((*models.names, *aliases))),
        }
        return call.answer({**fixed, "allowed_voices": names_within(fixed, "allowed_voices", catalog.listed())})

    return [
        Route(
            "GET",
            "/statusAitalkmaster",
            served(status),
            name="talkmaster_status",
            summary="Say that the server is there",
            tag=TAG,
            security="none",
            answers={200: Answer("A line of text, as JSON.")},
        ),
        Route(
            "GET",
            "/chat_models",
            served(chat_models),
            name="talkmaster_chat_models",
            summary="List the models for text",
            tag=TAG,
            answers={200: Answer("The models, in less than 2,048 bytes.")},
        ),
        Route(
            "GET",
            "/audio_models",
            served(audio_models),
            name="talkmaster_audio_models",
            summary="List the models for speech and the voices",
            tag=TAG,
            answers={200: Answer("The voices, in less than 2,048 bytes.")},
        ),
    ]
