"""`/api/embed` and the older `/api/embeddings`: vectors of texts."""

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass

from aiohttp import web

from callboard_contracts.embedding import EmbeddingRequest
from callboard_edge.domain.abilities import unsupported
from callboard_edge.domain.catalogue import ChatModel
from callboard_edge.domain.embedding_stream import Vectors
from callboard_edge.http.call import Call
from callboard_edge.http.context import EdgeContext
from callboard_edge.http.embedding_objects import numbers, texts_of
from callboard_edge.http.route import Answer, Route
from callboard_edge.protocols.ollama.bodies import EmbedAnswer, EmbedBody, EmbeddingsAnswer, EmbeddingsBody
from callboard_edge.protocols.ollama.errors import ANSWERS
from callboard_edge.protocols.ollama.names import chosen
from callboard_edge.protocols.ollama.text import TAG
from callboard_edge.protocols.ollama.writer import nanoseconds


def routes(context: EdgeContext) -> list[Route]:
    """The routes of this module."""

    async def embed(call: Call) -> web.StreamResponse:
        body = await call.json(EmbedBody)
        model = await wanted(call, body.model)
        name = body.model or model.name
        if body.input in (None, "", []):
            await context.admission.identify(call.caller)
            return call.answer({"model": name, "embeddings": []})
        request = EmbeddingRequest(
            model=model.name,
            inputs=texts_of(body.input or ""),
            dimensions=body.dimensions if body.dimensions and body.dimensions > 0 else None,
            truncate=body.truncate is not False,
        )
        return await context.embeddings.respond(call, request, model, EmbedWriter(name, call.started_s))

    async def embed_one(call: Call) -> web.StreamResponse:
        body = await call.json(EmbeddingsBody)
        model = await wanted(call, body.model)
        if not body.prompt:
            await context.admission.identify(call.caller)
            return call.answer({"embedding": []})
        request = EmbeddingRequest(model=model.name, inputs=(body.prompt,), truncate=True)
        return await context.embeddings.respond(call, request, model, EmbeddingWriter())

    async def wanted(call: Call, name: str | None) -> ChatModel:
        models = (await context.offers.to(call.caller)).embedding_models
        if not models.models:
            raise unsupported("No model here makes embeddings.", "model")
        return chosen(models, name)

    return [
        Route(
            "POST",
            "/api/embed",
            embed,
            "ollama_embed",
            "Embed a text, or each of several",
            TAG,
            body=EmbedBody,
            answers={200: Answer("One vector for each text.", EmbedAnswer), **ANSWERS},
        ),
        Route(
            "POST",
            "/api/embeddings",
            embed_one,
            "ollama_embeddings",
            "Embed a text, as older clients ask for it",
            TAG,
            body=EmbeddingsBody,
            answers={200: Answer("The vector.", EmbeddingsAnswer), **ANSWERS},
        ),
    ]


@dataclass(frozen=True, slots=True)
class EmbedWriter:
    """Writes vectors under the name that the client has for the model."""

    model: str
    started_s: float

    def pieces(self, vectors: Vectors) -> Iterator[bytes]:
        """The answer; see `EmbeddingWriter`."""
        yield f'{{"model":{json.dumps(self.model)},"embeddings":['.encode()
        for index, vector in enumerate(vectors.vectors):
            yield (b"," if index else b"") + numbers(vector)
        end = vectors.end
        fields = {
            "total_duration": nanoseconds(time.perf_counter() - self.started_s),
            "load_duration": nanoseconds(end.durations.load_s),
            "prompt_eval_count": end.usage.prompt_tokens,
        }
        counters = json.dumps({key: value for key, value in fields.items() if value is not None})
        yield f"],{counters[1:]}".encode()


class EmbeddingWriter:
    """Writes one vector."""

    def pieces(self, vectors: Vectors) -> Iterator[bytes]:
        """The answer; see the responder's `EmbeddingWriter`."""
        yield b'{"embedding":' + numbers(vectors.vectors[0]) + b"}"
