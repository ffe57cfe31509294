"""What kind of server this is, and what it can do, as clients of several kinds ask for it."""

import logging
from importlib.metadata import version

from aiohttp import web

from callboard_contracts.errors import CallboardError
from callboard_edge.domain.model_inquiries import ModelQuestions
from callboard_edge.http.call import Call
from callboard_edge.http.context import EdgeContext
from callboard_edge.http.route import Route
from callboard_edge.protocols.kobold.info import KOBOLDAI_VERSION, NO_MODEL, fixed, offered, open_route
from callboard_edge.protocols.kobold.models import PREFIX

log = logging.getLogger(__name__)

KOBOLDCPP_VERSION = "1.104"
"""KoboldAI Lite takes from this what it may ask for. From 1.88 on prompts have placeholders for the model's template,
from 1.104 on the settings of adaptive sampling."""
API_PAGE = "/docs"
NO_SLOTS = {"code": 501, "message": "The slots of engines are not shown here.", "type": "not_supported_error"}


def routes(context: EdgeContext) -> list[Route]:
    """The routes of this module."""
    questions = ModelQuestions(context.inquiry)

    async def server(call: Call) -> web.StreamResponse:
        models = context.chat_models.models
        embeds = any(
            "embedding" in one.abilities
            for model in context.embedding_models.models
            if (one := context.workers.model("chat", model.pool, model.served_name)) is not None
        )
        hears = any(context.workers.expects("stt", model) for model in context.recognition_models.models)
        return call.answer(
            {
                "result": "KoboldCpp",
                "version": KOBOLDCPP_VERSION,
                "protected": context.settings.require_key,
                "llm": bool(models),
                "txt2img": False,
                "vision": False,
                "audio": False,
                "transcribe": hears,
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

    async def props(call: Call) -> web.StreamResponse:
        found = await offered(context, call)
        template = ""
        if found is not None:
            try:
                template = (await questions.description(found)).chat_template
            except CallboardError:
                log.debug("model_undescribed")
        workers = context.workers.of("chat", found.pool) if found else []
        length = found.context_tokens if found else 0
        return call.answer(
            {
                "chat_template": template,
                "id": 0,
                "id_task": -1,
                "total_slots": max(1, sum(worker.slots for worker in workers)),
                "modalities": {"vision": False, "audio": False},
                "model_path": PREFIX + found.name if found else NO_MODEL,
                "n_ctx": length,
                "default_generation_settings": {"n_ctx": length},
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
                    "anthropic": {"name": "Anthropic API", "rel_url": "/", "documentation": API_PAGE, "version": "1"},
                    "ollama": {"name": "Ollama API", "rel_url": "/", "documentation": API_PAGE, "version": "1"},
                },
            }
        )

    return [
        open_route("/api/extra/version", server, "server", "Say what the server can do, in KoboldCpp's words"),
        open_route("/props", props, "props", "Describe the model, its chat template among it"),
        open_route(
            "/slots", fixed({"error": NO_SLOTS}, 501), "slots", "Show the engine's slots: not offered", status=501
        ),
        open_route("/.well-known/serviceinfo", service, "serviceinfo", "Say what kind of server this is"),
    ]
