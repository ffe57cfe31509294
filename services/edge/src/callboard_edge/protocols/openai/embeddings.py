"""OpenAI's `/v1/embeddings`."""

from aiohttp import web

from callboard_contracts.embedding import EmbeddingRequest
from callboard_edge.domain.catalogue import ChatModel
from callboard_edge.http.call import Call
from callboard_edge.http.context import EdgeContext
from callboard_edge.http.embedding_objects import EmbeddingList, EmbeddingListWriter, texts_of
from callboard_edge.http.route import Answer, Route
from callboard_edge.protocols.openai.bodies import EmbeddingBody
from callboard_edge.protocols.openai.errors import ANSWERS


def routes(context: EdgeContext) -> list[Route]:
    """The routes of this module."""

    async def create(call: Call) -> web.StreamResponse:
        body = await call.json(EmbeddingBody)
        model = (await context.offers.to(call.caller)).embedding_models.resolve(body.model)
        writer = EmbeddingListWriter(body.model or model.name, body.encoding_format or "float")
        return await context.embeddings.respond(call, embedding_request(body, model), model, writer)

    return [
        Route(
            "POST",
            "/v1/embeddings",
            create,
            name="embeddings",
            summary="Embed a text, or each of several",
            tag="Embeddings",
            body=EmbeddingBody,
            answers={200: Answer("One vector for each text.", EmbeddingList), **ANSWERS},
        )
    ]


def embedding_request(body: EmbeddingBody, model: ChatModel) -> EmbeddingRequest:
    """The neutral form of a request.

    Raises:
        CallboardError: it asks for what cannot be served.
    """
    return EmbeddingRequest(
        model=model.name, inputs=texts_of(body.input), dimensions=body.dimensions, truncate=bool(body.truncate)
    )
