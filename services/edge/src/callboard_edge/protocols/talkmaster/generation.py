"""Single messages: `/generate`, each answered without a conversation."""

from aiohttp import web

from callboard_contracts.errors import CallboardError, ErrorCode
from callboard_edge.http.call import Call
from callboard_edge.http.context import EdgeContext
from callboard_edge.http.route import Answer, Route
from callboard_edge.protocols.talkmaster.bodies import GenerateMessage, GenerateQuery
from callboard_edge.protocols.talkmaster.errors import body_of, query_of, served
from callboard_edge.protocols.talkmaster.models import TAG
from callboard_edge.protocols.talkmaster.replies import processing, reply_text, with_text
from callboard_edge.protocols.talkmaster.requests import caller_of, chat_model, chat_request, sampling_of


def routes(context: EdgeContext) -> list[Route]:
    """The routes of this module."""
    kept = context.admission.kept

    async def post(call: Call) -> web.StreamResponse:
        body = await body_of(call, GenerateMessage)
        caller = caller_of(context, call)
        model = chat_model((await context.offers.to(caller)).chat_models, body.model)
        request = chat_request(
            context.workers,
            model,
            body.system_instructions,
            sampling_of(body.options),
            limit=body.options.num_predict,
            think=body.think,
            message=body.message,
        )
        await context.text.keep(call, request, model, caller=caller, name=_name(body.message_id))
        return processing({"message_id": body.message_id, "status": "processing", "info": "The message is queued."})

    async def response(call: Call) -> web.StreamResponse:
        query = query_of(call, GenerateQuery)
        try:
            job = await kept.find_named(_name(query.message_id))
        except CallboardError as error:
            if error.info.code is not ErrorCode.NOT_FOUND:
                raise
            return processing({"message": "There is no answer yet."})
        if job.result is None:
            return processing({"message": "There is no answer yet."})
        return call.answer_json(with_text({"message_id": query.message_id}, "response", reply_text(job.result)))

    return [
        Route(
            "POST",
            "/generate/postMessage",
            served(post),
            name="talkmaster_generate",
            summary="Ask a model once",
            tag=TAG,
            body=GenerateMessage,
            answers={425: Answer("Accepted."), 400: Answer("The model is not offered."), 429: Answer("A limit.")},
        ),
        Route(
            "GET",
            "/generate/getMessageResponse",
            served(response),
            name="talkmaster_generate_response",
            summary="Fetch the answer to a single message",
            tag=TAG,
            query=GenerateQuery,
            answers={200: Answer("The answer."), 425: Answer("Not yet.")},
        ),
    ]


def _name(message_id: str) -> str:
    return f"generate {message_id}"
