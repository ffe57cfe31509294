"""The list of models as Anthropic has it, for clients that name a version of Anthropic's API."""

from typing import Any

from aiohttp import web

from callboard_edge.domain.catalogue import ChatModel, unknown_model
from callboard_edge.http.call import Call
from callboard_edge.http.context import EdgeContext
from callboard_edge.http.route import Route

VERSION = "anthropic-version"
"""The header that tells Anthropic's clients from OpenAI's on the paths that both have."""
CREATED_AT = "2026-01-01T00:00:00Z"
"""A fixed date, because a configured model has no date of its own."""


def routes(context: EdgeContext) -> list[Route]:
    """The routes of this module."""

    async def list_models(call: Call) -> web.StreamResponse:
        await context.admission.identify(call.caller)
        models = (await context.offers.to(call.caller)).chat_models.models
        data = [model_info(model) for model in models if context.workers.expects("chat", model)]
        ends = [data[0]["id"], data[-1]["id"]] if data else [None, None]
        return call.answer({"data": data, "has_more": False, "first_id": ends[0], "last_id": ends[1]})

    async def get_model(call: Call) -> web.StreamResponse:
        await context.admission.identify(call.caller)
        models = (await context.offers.to(call.caller)).chat_models
        model = models.find(call.params["model"])
        if model is None:
            raise unknown_model(models.names)
        return call.answer(model_info(model))

    return [
        Route(
            "GET",
            path,
            handler,
            name=name,
            summary=summary,
            header=VERSION,
            documented=False,
        )
        for path, handler, name, summary in (
            ("/v1/models", list_models, "anthropic_models", "List the models on offer"),
            ("/v1/models/{model:path}", get_model, "anthropic_model", "Describe one model"),
        )
    ]


def model_info(model: ChatModel) -> dict[str, Any]:
    """A model in Anthropic's form."""
    return {
        "type": "model",
        "id": model.name,
        "display_name": model.name,
        "created_at": CREATED_AT,
        "lifecycle": "active",
        "max_input_tokens": model.context_tokens,
        "max_tokens": model.max_output_tokens,
    }
