"""Anthropic's `/v1/messages`: replies, and the tokens of prompts."""

from aiohttp import web

from callboard_edge.domain.abilities import unsupported
from callboard_edge.domain.model_inquiries import ModelQuestions
from callboard_edge.http.call import Call
from callboard_edge.http.context import EdgeContext
from callboard_edge.http.route import Answer, Route
from callboard_edge.protocols.anthropic.bodies import (
    AnyBatch,
    CountTokensBody,
    MessageReply,
    MessagesBody,
    TokensCount,
)
from callboard_edge.protocols.anthropic.errors import ANSWERS
from callboard_edge.protocols.anthropic.requests import messages_request, prompt_request
from callboard_edge.protocols.anthropic.writer import MessagesWriter

NAME = "anthropic_messages"
TAG = "Messages"
PATHS = ("/v1/messages", "/messages")
"""The second is KoboldCpp's."""
BATCHES = "/v1/messages/batches"


def routes(context: EdgeContext) -> list[Route]:
    """The routes of this module."""
    questions = ModelQuestions(context.inquiry)

    async def create(call: Call) -> web.StreamResponse:
        body = await call.json(MessagesBody)
        model = (await context.offers.to(call.caller)).chat_models.resolve(body.model)
        request = messages_request(body, model)
        hidden = body.thinking is not None and body.thinking.display == "omitted"
        writer = MessagesWriter(
            call.fresh_id, body.model or model.name, request.sampling.stop, shows_thoughts=not hidden
        )
        return await context.text.respond(call, NAME, request, model, writer, stream=bool(body.stream))

    async def count(call: Call) -> web.StreamResponse:
        body = await call.json(CountTokensBody)
        await context.admission.identify(call.caller)
        model = (await context.offers.to(call.caller)).chat_models.resolve(body.model)
        request = await context.text.checked(call, prompt_request(body, model), model, frozenset())
        return call.answer({"input_tokens": len((await questions.prompt_tokens(model, request)).ids)})

    async def batches(_call: Call) -> web.StreamResponse:
        raise unsupported("Batches are not offered; send each message by itself.", "requests")

    return [
        *(
            Route(
                "POST",
                path,
                create,
                name=NAME,
                summary="Reply to a conversation, whole or streamed",
                tag=TAG,
                body=MessagesBody,
                answers={
                    200: Answer("The reply.", MessageReply, ("application/json", "text/event-stream")),
                    **ANSWERS,
                },
                documented=path == PATHS[0],
            )
            for path in PATHS
        ),
        Route(
            "POST",
            "/v1/messages/count_tokens",
            count,
            name="anthropic_count_tokens",
            summary="Count the tokens of a conversation, with the model's template around it",
            tag=TAG,
            body=CountTokensBody,
            answers={
                200: Answer("How many tokens.", TokensCount),
                **{status: ANSWERS[status] for status in (400, 401, 404, 413, 503)},
            },
        ),
        Route(
            "POST",
            BATCHES,
            batches,
            name="anthropic_batches",
            summary="Reply to many conversations: not offered",
            tag=TAG,
            body=AnyBatch,
            security="none",
            answers={400: ANSWERS[400]},
        ),
        *(
            Route("GET", path, batches, "anthropic_batches", "Show batches: not offered", TAG, documented=False)
            for path in (BATCHES, f"{BATCHES}/{{batch:path}}")
        ),
    ]
