"""`/api/tags`, `/api/ps`, `/api/show`, `/api/version` and the root: the models on offer, and what is known of them."""

import asyncio
from collections.abc import Set
from hashlib import sha256
from typing import Any

from aiohttp import web

from callboard_contracts.tokens import DescribeModelReply
from callboard_contracts.workers import Ability, OfferedModel
from callboard_edge.domain.catalogue import ChatModel
from callboard_edge.domain.model_inquiries import ModelQuestions
from callboard_edge.http.call import Call
from callboard_edge.http.context import EdgeContext
from callboard_edge.http.route import Answer, Route
from callboard_edge.protocols.ollama.bodies import ModelList, RunningModels, ShowBody, ShownModel, Version
from callboard_edge.protocols.ollama.descriptions import Descriptions
from callboard_edge.protocols.ollama.errors import ANSWERS
from callboard_edge.protocols.ollama.names import chosen, find, tagged
from callboard_edge.protocols.ollama.text import TAG

OLLAMA_VERSION = "0.12.11"
"""Clients take from this what they may ask for; log probabilities came with it."""
MODIFIED_AT = "2026-01-01T00:00:00Z"
"""A fixed date, because a configured model has none of its own."""
LIVENESS = "Ollama is running"
"""What clients look for at the root before they ask for anything."""
EXPIRES_AT = "2100-01-01T00:00:00Z"
"""Far enough for Ollama's clients to call it for ever."""
ARCHITECTURE = "unknown"
CAPABILITIES: dict[Ability, str] = {
    "tools": "tools",
    "images": "vision",
    "thinking": "thinking",
    "embedding": "embedding",
}
"""Abilities, and Ollama's words for them."""
_SCALES = ((10**9, "B"), (10**6, "M"), (10**3, "K"))


def routes(context: EdgeContext) -> list[Route]:
    """The routes of this module."""
    descriptions = Descriptions(ModelQuestions(context.inquiry), context.workers)

    def offered(model: ChatModel) -> OfferedModel | None:
        return context.workers.model("chat", model.pool, model.served_name)

    def is_loaded(model: ChatModel) -> bool:
        workers = context.workers.of("chat", model.pool)
        return any(one.name == model.served_name for worker in workers for one in worker.models)

    async def visible(call: Call) -> list[ChatModel]:
        await context.admission.identify(call.caller)
        offer = await context.offers.to(call.caller)
        models = (*offer.chat_models.models, *offer.embedding_models.models)
        return list({model.name: model for model in models}.values())

    async def listed(models: list[ChatModel]) -> list[dict[str, Any]]:
        # Characters are many, and the models that they answer with few.
        served = {(model.pool, model.served_name): model for model in models}
        found = await asyncio.gather(*(descriptions.of(model) for model in served.values()))
        about = dict(zip(served, found, strict=True))
        return [listed_model(model, about[model.pool, model.served_name]) for model in models]

    async def tags(call: Call) -> web.StreamResponse:
        models = [model for model in await visible(call) if context.workers.expects("chat", model)]
        return call.answer({"models": await listed(models)})

    async def running(call: Call) -> web.StreamResponse:
        models = [model for model in await visible(call) if is_loaded(model)]
        found: list[dict[str, Any]] = []
        for model, entry in zip(models, await listed(models), strict=True):
            served = offered(model)
            context_tokens = (served.context_tokens if served else None) or model.context_tokens
            extra = {"expires_at": EXPIRES_AT, "size_vram": 0, "context_length": context_tokens}
            found.append({**entry, **extra})
        return call.answer({"models": found})

    async def show(call: Call) -> web.StreamResponse:
        body = await call.json(ShowBody)
        await context.admission.identify(call.caller)
        offer = await context.offers.to(call.caller)
        name = body.model or body.name
        embeds = find(offer.embedding_models, name) if name else None
        model = embeds or chosen(offer.chat_models, name)
        served = offered(model)
        if served is None:
            abilities = configured(model, writes=find(offer.chat_models, model.name) is not None, embeds=bool(embeds))
        else:
            abilities = frozenset(served.abilities)
        context_tokens = (served.context_tokens if served else None) or model.context_tokens
        return call.answer(shown_model(model, await descriptions.of(model), context_tokens, abilities))

    async def version(call: Call) -> web.StreamResponse:
        return call.answer({"version": OLLAMA_VERSION})

    async def root(call: Call) -> web.StreamResponse:
        call.headers.add("Vary", "Accept")
        return web.Response(text=LIVENESS)

    return [
        Route(
            "GET",
            "/api/tags",
            tags,
            "ollama_tags",
            "List the models on offer",
            TAG,
            answers={200: Answer("The models.", ModelList), 401: ANSWERS[401]},
        ),
        Route(
            "GET",
            "/api/ps",
            running,
            "ollama_ps",
            "List the models that workers have loaded",
            TAG,
            answers={200: Answer("The models.", RunningModels), 401: ANSWERS[401]},
        ),
        Route(
            "POST",
            "/api/show",
            show,
            "ollama_show",
            "Describe a model",
            TAG,
            body=ShowBody,
            answers={200: Answer("What is known of it.", ShownModel), **{key: ANSWERS[key] for key in (400, 401, 404)}},
        ),
        Route(
            "GET",
            "/api/version",
            version,
            "ollama_version",
            "Name the release of Ollama whose API this is",
            TAG,
            security="none",
            answers={200: Answer("The release.", Version)},
        ),
        Route(
            "GET",
            "/",
            root,
            "ollama_root",
            "Say that the server runs; browsers get a page",
            TAG,
            security="none",
            answers={200: Answer("It does.", media_types=("text/plain",))},
        ),
    ]


def listed_model(model: ChatModel, about: DescribeModelReply) -> dict[str, Any]:
    """A model as lists show it."""
    name = tagged(model.name)
    return {
        "name": name,
        "model": name,
        "modified_at": MODIFIED_AT,
        "size": about.size_bytes or 0,
        "digest": sha256(name.encode()).hexdigest(),
        "details": details(about),
    }


def shown_model(
    model: ChatModel, about: DescribeModelReply, context_tokens: int, abilities: Set[Ability]
) -> dict[str, Any]:
    """A model as it is described; its context is what it is served with, which a prompt has to fit into."""
    architecture = about.architecture or ARCHITECTURE
    info: dict[str, Any] = {
        "general.architecture": architecture,
        "general.basename": model.name,
        f"{architecture}.context_length": context_tokens,
    }
    if about.parameters is not None:
        info["general.parameter_count"] = about.parameters
    return {
        "modelfile": f"FROM {tagged(model.name)}\n",
        "parameters": f"num_ctx {context_tokens}\nnum_predict {model.max_output_tokens}",
        "template": about.chat_template,
        "license": "",
        "details": details(about),
        "model_info": info,
        "capabilities": capabilities(abilities),
        "modified_at": MODIFIED_AT,
    }


def details(about: DescribeModelReply) -> dict[str, Any]:
    """What is known of a model in Ollama's words."""
    family = about.architecture or ""
    return {
        "parent_model": "",
        "format": "gguf" if about.quantization else "",
        "family": family,
        "families": [family] if family else [],
        "parameter_size": parameter_size(about.parameters),
        "quantization_level": about.quantization or "",
    }


def configured(model: ChatModel, *, writes: bool, embeds: bool) -> Set[Ability]:
    """What a model can do by its configuration, which counts until a worker has announced it."""
    has: dict[Ability, bool] = {
        "chat": writes,
        "tools": writes and model.tools == "grammar",
        "images": writes and model.images,
        "embedding": embeds,
    }
    return {ability for ability, can in has.items() if can}


def capabilities(abilities: Set[Ability]) -> list[str]:
    """Abilities in Ollama's words."""
    found = ["completion"] if {"completion", "chat"} & abilities else []
    return found + [word for ability, word in CAPABILITIES.items() if ability in abilities]


def parameter_size(count: int | None) -> str:
    """A number of parameters, such as 135M or 7.6B."""
    if count is None:
        return ""
    for scale, letter in _SCALES:
        if count >= scale:
            return f"{count / scale:.3g}{letter}"
    return str(count)
