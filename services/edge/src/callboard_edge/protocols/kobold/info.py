"""What clients look up before they ask: what kind of server this is, its model, and what it can do."""

from importlib.metadata import version
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
KOBOLDCPP_VERSION = "1.104"
"""KoboldAI Lite takes from this what it may ask for. From 1.88 on prompts have placeholders for the model's template,
from 1.104 on the settings of adaptive sampling."""
PROTECTED = f"{PREFIX}protected-model"
NO_MODEL = "inactive"
"""What KoboldAI Lite takes for a server that has no model for text."""
LATEST = ("/api/v1", "/api/latest")
API_PAGE = "/docs"


def routes(context: EdgeContext) -> list[Route]:
    """The routes of this module."""

    async def offered(call: Call) -> ChatModel | None:
        """The model that a caller gets who names none; None where there is none."""
        try:
            models = (await context.offers.to(call.caller)).chat_models
        except CallboardError:
            models = context.chat_models
        return default_model(models)

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
        found = await offered(call)
        return call.answer({"value": found.max_output_tokens if found else 0})

    async def max_context_length(call: Call) -> web.StreamResponse:
        found = await offered(call)
        return call.answer({"value": found.context_tokens if found else 0})

    async def server(call: Call) -> web.StreamResponse:
        models = context.chat_models.models
        embeds = any(
            "embedding" in one.abilities
            for model in models
            if (one := context.workers.model("chat", model.pool, model.name)) is not None
        )
        return call.answer(
            {
                "result": "KoboldCpp",
                "version": KOBOLDCPP_VERSION,
                "protected": context.settings.require_key,
                "llm": bool(models),
                "txt2img": False,
                "vision": False,
                "audio": False,
                "transcribe": False,
                "multiplayer": False,
                "websearch": False,
                "tts": bool(context.speech_models.models),
                "embeddings": embeds,
                "music": False,
                "savedata": True,
                "admin": 0,
                "router": False,
                "guidance": False,
                "jinja": False,
                "mcp": False,
            }
        )

    async def service(call: Call) -> web.StreamResponse:
        own = version("callboard-edge")
        return call.answer(
            {
                "version": "0.2",
                "software": {"name": "Callboard", "version": own, "repository": "", "homepage": "", "logo": ""},
                "api": {
                    "koboldai": {
                        "name": "KoboldAI API",
                        "rel_url": "/api",
                        "documentation": API_PAGE,
                        "version": KOBOLDAI_VERSION,
                    },
                    "openai": {"name": "OpenAI API", "rel_url": "/v1", "documentation": API_PAGE, "version": "1"},
                },
            }
        )

    def route(path: str, handler: Handler, name: str, summary: str, body: type[AnyBody] | None = None) -> Route:
        return Route(
            "PUT" if body else "GET",
            path,
            handler,
            f"kobold_{name}",
            summary,
            TAG,
            body=body,
            security="none",
            answers={200: Answer("It.")},
        )

    found = [
        route("/api/extra/version", server, "server", "Say what the server can do, in KoboldCpp's words"),
        route(
            "/api/extra/true_max_context_length",
            max_context_length,
            "true_max_context_length",
            "Say how long prompt and reply may be together",
        ),
        route("/api/extra/preloadstory", fixed({}), "preloadstory", "Give the story to begin with: none"),
        route("/version", fixed({"version": KOBOLDAI_VERSION}), "version", "Show that the server is there"),
        route("/ping", fixed({"status": "healthy"}), "ping", "Show that the server is there"),
        route("/.well-known/serviceinfo", service, "serviceinfo", "Say what kind of server this is"),
        route("/sdapi/v1/sd-models", fixed([]), "sd_models", "List the models for images: none"),
    ]
    for prefix in LATEST:
        found += [
            route(f"{prefix}/model", model, "model", "Name the model"),
            route(
                f"{prefix}/info/version", fixed({"result": KOBOLDAI_VERSION}), "info_version", "Name the API's version"
            ),
            route(f"{prefix}/config/max_length", max_length, "max_length", "Say how long a reply may be"),
            route(
                f"{prefix}/config/max_context_length",
                max_context_length,
                "max_context_length",
                "Say how long prompt and reply may be together",
            ),
            route(f"{prefix}/config/soft_prompt", fixed({"value": ""}), "soft_prompt", "Name the soft prompt: none"),
            route(f"{prefix}/config/soft_prompt", fixed({}), "soft_prompt_set", "Choose no soft prompt", AnyBody),
            route(
                f"{prefix}/config/soft_prompts_list", fixed({"values": []}), "soft_prompts", "List soft prompts: none"
            ),
        ]
    return found


def fixed(answer: dict[str, Any] | list[Any], status: int = 200) -> Handler:
    """A handler that always answers alike."""

    async def handler(call: Call) -> web.StreamResponse:
        return call.answer(answer, status)

    return handler
