"""Vectors of texts, which KoboldAI Lite searches its text database by."""

from aiohttp import web

from callboard_contracts.embedding import EmbeddingRequest
from callboard_edge.domain.abilities import unsupported
from callboard_edge.http.call import Call
from callboard_edge.http.context import EdgeContext
from callboard_edge.http.embedding_objects import EmbeddingList, EmbeddingListWriter, texts_of
from callboard_edge.http.route import Answer, Route
from callboard_edge.protocols.kobold.bodies import EmbeddingsBody
from callboard_edge.protocols.kobold.errors import ANSWERS
from callboard_edge.protocols.kobold.info import TAG
from callboard_edge.protocols.kobold.models import chosen_model


def routes(context: EdgeContext) -> list[Route]:
    """The route of this module."""

    async def embed(call: Call) -> web.StreamResponse:
        body = await call.json(EmbeddingsBody)
        models = (await context.offers.to(call.caller)).embedding_models
        if not models.models:
            raise unsupported("No model here makes embeddings.", "model")
        model = chosen_model(models, body.model)
        request = EmbeddingRequest(
            model=model.name,
            inputs=texts_of(body.input),
            # A number that is none stands for all.
            dimensions=body.dimensions if body.dimensions and body.dimensions > 0 else None,
            truncate=body.truncate is not False,
        )
        writer = EmbeddingListWriter(body.model or model.name, body.encoding_format or "float")
        return await context.embeddings.respond(call, request, model, writer)

    return [
        Route(
            "POST",
            "/api/extra/embeddings",
            embed,
            "kobold_embeddings",
            "Embed a text, or each of several",
            TAG,
            body=EmbeddingsBody,
            answers={200: Answer("One vector for each text.", EmbeddingList), **ANSWERS},
        )
    ]
