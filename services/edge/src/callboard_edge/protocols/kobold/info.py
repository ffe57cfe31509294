"""What clients look up before they ask: what kind of server this is, its model, and what it can do."""

from typing import Any

from aiohttp import web

from callboard_contracts.errors import CallboardError, ErrorCode
from callboard_edge.domain.catalogue import ChatModel
from callboard_edge.http.call import Call
from callboard_edge.http.context import EdgeContext
from callboard_edge.http.route import Answer, Handler, Route
from callboard_edge.protocols.kobold.bodies import AnyBody
from callboard_edge.protocols.kobold.models import PREFIX, default_model

TAG = "KoboldAI"
KOBOLDAI_VERSION = "1.2.5"
"""From 1.2.4 on KoboldAI Lite sends stop sequences and the wish to forbid the end token."""
PROTECTED = f"{PREFIX}protected-model"
NO_MODEL = "inactive"
"""What KoboldAI Lite takes for a server that has no model for text."""
LATEST = ("/api/v1", "/api/latest")


def routes(context: EdgeContext) -> list[Route]:
    """The routes of this module."""

    async def model(call: Call) -> web.StreamResponse:
        try:
            await context.admission.check_caller(call.caller)
            found = default_model((await context.offers.to(call.caller)).chat_models)
        except CallboardError as error:
            if error.info.code is not ErrorCode.INVALID_API_KEY:
                raise
            return call.answer({"result": PROTECTED})
        return call.answer({"result": PREFIX + found.name if found else NO_MODEL})

    async def max_length(call: Call) -> web.StreamResponse:
        found = await offered(context, call)
        return call.answer({"value": found.max_output_tokens if found else 0})

    async def max_context_length(call: Call) -> web.StreamResponse:
        found = await offered(context, call)
        return call.answer({"value": found.context_tokens if found else 0})

    found = [
        open_route(
            "/api/extra/true_max_context_length",
            max_context_length,
            "true_max_context_length",
            "Say how long prompt and reply may be together",
        ),
        open_route("/api/extra/preloadstory", fixed({}), "preloadstory", "Give the story to begin with: none"),
        open_route("/version", fixed({"version": KOBOLDAI_VERSION}), "version", "Show that the server is there"),
        open_route("/ping", fixed({"status": "healthy"}), "ping", "Show that the server is there"),
        open_route("/sdapi/v1/sd-models", fixed([]), "sd_models", "List the models for images: none"),
    ]
    for prefix in LATEST:
        found += [
            open_route(f"{prefix}/model", model, "model", "Name the model"),
            open_route(
                f"{prefix}/info/version", fixed({"result": KOBOLDAI_VERSION}), "info_version", "Name the API's version"
            ),
            open_route(f"{prefix}/config/max_length", max_length, "max_length", "Say how long a reply may be"),
            open_route(
                f"{prefix}/config/max_context_length",
                max_context_length,
                "max_context_length",
                "Say how long prompt and reply may be together",
            ),
            open_route(
                f"{prefix}/config/soft_prompt", fixed({"value": ""}), "soft_prompt", "Name the soft prompt: none"
            ),
            open_route(f"{prefix}/config/soft_prompt", fixed({}), "soft_prompt_set", "Choose no soft prompt", AnyBody),
            open_route(
                f"{prefix}/config/soft_prompts_list", fixed({"values": []}), "soft_prompts", "List soft prompts: none"
            ),
        ]
    return found


def fixed(answer: dict[str, Any] | list[Any], status: int = 200) -> Handler:
    """A handler that always answers alike."""

    async def handler(call: Call) -> web.StreamResponse:
        return call.answer(answer, status)

    return handler


def open_route(
    path: str, handler: Handler, name: str, summary: str, body: type[AnyBody] | None = None, status: int = 200
) -> Route:
    """A route that anybody may ask, whatever key he has; PUT where it takes a body."""
    return Route(
        "PUT" if body else "GET",
        path,
        handler,
        f"kobold_{name}",
        summary,
        TAG,
        body=body,
        security="none",
        answers={status: Answer("It.")},
    )


async def offered(context: EdgeContext, call: Call) -> ChatModel | None:
    """The model that a caller gets who names none; None where there is none."""
    try:
        models = (await context.offers.to(call.caller)).chat_models
    except CallboardError:
        models = context.chat_models
    return default_model(models)
