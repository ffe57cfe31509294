"""OpenAI's `/v1/embeddings`."""

from typing import Any

from aiohttp import web

from callboard_contracts.embedding import MAX_INPUTS, EmbeddingRequest
from callboard_contracts.errors import CallboardError, ErrorCode
from callboard_edge.domain.abilities import unsupported
from callboard_edge.domain.catalogue import ChatModel
from callboard_edge.http.call import Call
from callboard_edge.http.context import EdgeContext
from callboard_edge.http.embedding_objects import EmbeddingList, EmbeddingListWriter
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
        model=model.name, inputs=_inputs(body.input), dimensions=body.dimensions, truncate=bool(body.truncate)
    )


def _inputs(given: str | list[Any]) -> tuple[str, ...]:
    parts = [given] if isinstance(given, str) else given
    texts = tuple(part for part in parts if isinstance(part, str))
    if len(texts) < len(parts) and all(isinstance(part, (int, list)) for part in parts):
        # They are most often those of OpenAI's own tokenizer, and would be other words here.
        raise unsupported("Token ids belong to one model's tokenizer and cannot be read here; send text.", "input")
    if not parts or len(texts) < len(parts):
        raise _invalid("'input' must be a text, or a list of texts.")
    if len(texts) > MAX_INPUTS:
        raise _invalid(f"'input' may have at most {MAX_INPUTS} texts; it has {len(texts)}.")
    return texts


def _invalid(message: str) -> CallboardError:
    return CallboardError(ErrorCode.INVALID_REQUEST, message, param="input")
