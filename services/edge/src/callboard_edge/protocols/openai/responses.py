"""OpenAI's `/v1/responses`: replies in items, that a client can go on from by their ids."""

import asyncio
from dataclasses import dataclass
from typing import Any

from aiohttp import web

from callboard_contracts.chat import ChatMessage, ChatRequest, ChatResult
from callboard_contracts.errors import CallboardError, ErrorCode
from callboard_contracts.kept import KeptDialogue
from callboard_edge.domain.abilities import unsupported
from callboard_edge.domain.text_stream import TextStream
from callboard_edge.http.bodies import Body
from callboard_edge.http.call import Call
from callboard_edge.http.context import EdgeContext
from callboard_edge.http.route import Answer, Handler, Route
from callboard_edge.protocols.openai.errors import ANSWERS, responses_error
from callboard_edge.protocols.openai.responses_bodies import (
    DeletedResponse,
    ReasoningConfig,
    ResponseObject,
    ResponsesBody,
)
from callboard_edge.protocols.openai.responses_input import joined, messages_of, reply_messages, responses_request
from callboard_edge.protocols.openai.responses_writer import (
    ResponseHead,
    ResponseWriter,
    ended_response,
    output_of,
    response_id,
    response_object,
)
from callboard_edge.protocols.openai.sampling import REFUSED

NAME = "responses"
PATH = "/v1/responses"
TAG = "Responses"


def routes(context: EdgeContext) -> list[Route]:
    """The routes of this module."""
    responses = Responses(context)
    refusals = {code: ANSWERS[code] for code in (401, 404, 503)}
    return [
        Route(
            "POST",
            PATH,
            served(responses.create),
            name=NAME,
            summary="Reply to a dialogue in items, whole or streamed",
            tag=TAG,
            body=ResponsesBody,
            answers={
                200: Answer("The reply.", ResponseObject, ("application/json", "text/event-stream")),
                **ANSWERS,
            },
        ),
        Route(
            "GET",
            f"{PATH}/{{id}}",
            responses.retrieve,
            name="response",
            summary="Show a reply of the caller's own of the last 20 minutes",
            tag=TAG,
            answers={200: Answer("The reply, as far as it has come.", ResponseObject), **refusals},
        ),
        Route(
            "DELETE",
            f"{PATH}/{{id}}",
            responses.delete,
            name="response_delete",
            summary="Take a reply back",
            tag=TAG,
            answers={200: Answer("It cannot be gone on from any more.", DeletedResponse), **refusals},
        ),
    ]


@dataclass(frozen=True, slots=True)
class Responses:
    """What is done with replies: they are written, shown again, gone on from and taken back."""

    context: EdgeContext

    async def create(self, call: Call) -> web.StreamResponse:
        """Writes a reply."""
        context, dialogues = self.context, self.context.dialogues
        body = await call.json(ResponsesBody)
        model = (await context.offers.to(call.caller)).chat_models.resolve(body.model)

        async def recall(request_id: str) -> ChatResult | None:
            found = await dialogues.find(call.caller, response_id(request_id))
            return await dialogues.result(found) if found is not None else None

        said = await messages_of(body, recall, reads_images=model.images)
        messages = joined(await self._before(call, body.previous_response_id), said)
        offered = context.workers.model("chat", model.pool, model.served_name)
        request = responses_request(body, messages, model, offered)
        now = context.admission.deps.now()
        dialogue = KeptDialogue(
            request_id=call.fresh_id,
            model=body.model or model.name,
            created_at=now,
            deadline_at=now + context.admission.request_timeout_s,
            messages=messages,
            shown=shown(body, request),
        )
        head = head_of(dialogue, logprobs=request.top_logprobs is not None)
        keeping: list[asyncio.Task[None]] = []

        def keep(reply: TextStream) -> None:
            # Only what was admitted is kept, beside the wait for its first word.
            del reply
            keeping.append(dialogues.keep(call.caller, head.id, dialogue))

        stored = body.store is not False
        if stored:
            dialogues.check_size(dialogue)
        response = await context.text.respond(
            call,
            NAME,
            request,
            model,
            ResponseWriter(head),
            stream=bool(body.stream),
            refused_sampling=REFUSED,
            follow=keep if stored else None,
        )
        # A reply that is whole can be gone on from as soon as its client has it.
        await asyncio.gather(*map(asyncio.shield, keeping))
        return response

    async def retrieve(self, call: Call) -> web.StreamResponse:
        """Shows a reply again."""
        if call.request.query.get("stream") == "true":
            raise unsupported("A stream cannot be gone on with later; ask for the whole response.", "stream")
        dialogue = await self._kept(call)
        head = head_of(dialogue, logprobs=bool(dialogue.shown.get("top_logprobs")))
        result = await self.context.dialogues.result(dialogue)
        if result is not None:
            return call.answer(ended_response(head, result.end, output_of(head, result)))
        if self.context.dialogues.is_lost(dialogue):
            error = {"code": "server_error", "message": "The reply was not finished."}
            return call.answer(response_object(head, "failed", error=error))
        return call.answer(response_object(head, "in_progress"))

    async def delete(self, call: Call) -> web.StreamResponse:
        """Takes a reply back."""
        dialogue = await self._kept(call)
        await self.context.dialogues.delete(call.caller, call.params["id"], dialogue)
        return call.answer({"id": call.params["id"], "object": "response", "deleted": True})

    async def _before(self, call: Call, reply_id: str | None) -> tuple[ChatMessage, ...]:
        """The dialogue that ends with an earlier reply; raises CallboardError."""
        if not reply_id:
            return ()
        dialogues = self.context.dialogues
        dialogue = await dialogues.find(call.caller, reply_id)
        result = await dialogues.result(dialogue) if dialogue is not None else None
        if dialogue is None or result is None:
            message = "There is no response of that id to go on from, or it has expired; send the whole dialogue."
            raise CallboardError(ErrorCode.INVALID_REQUEST, message, param="previous_response_id")
        return joined(dialogue.messages, reply_messages(result))

    async def _kept(self, call: Call) -> KeptDialogue:
        await self.context.admission.identify(call.caller)
        found = await self.context.dialogues.find(call.caller, call.params["id"])
        if found is None:
            raise CallboardError(ErrorCode.NOT_FOUND, "There is no response of that id, or it has expired.", param="id")
        return found


def served(handler: Handler) -> Handler:
    """A handler whose errors name fields as this path does."""

    async def answer(call: Call) -> web.StreamResponse:
        try:
            return await handler(call)
        except CallboardError as error:
            raise responses_error(error) from error

    return answer


def head_of(dialogue: KeptDialogue, *, logprobs: bool) -> ResponseHead:
    """What all forms of a dialogue's reply share."""
    return ResponseHead(dialogue.request_id, int(dialogue.created_at), dialogue.model, dialogue.shown, logprobs)


def shown(body: ResponsesBody, request: ChatRequest) -> dict[str, Any]:
    """What a client is told of its own request."""
    text = body.text.format if body.text else None
    choice = body.tool_choice or "auto"
    reasoning = body.reasoning or ReasoningConfig()
    return {
        "instructions": body.instructions,
        "max_output_tokens": body.max_output_tokens,
        "metadata": body.metadata or {},
        "parallel_tool_calls": body.parallel_tool_calls is not False,
        "previous_response_id": body.previous_response_id,
        "reasoning": {"effort": reasoning.effort, "summary": reasoning.summary or reasoning.generate_summary},
        "store": body.store is not False,
        "temperature": 1.0 if body.temperature is None else body.temperature,
        "text": {"format": _given(text) if text else {"type": "text"}},
        "tool_choice": choice if isinstance(choice, str) else _given(choice),
        "tools": [{"parameters": None, "strict": None, **_given(tool)} for tool in body.tools or ()],
        "top_logprobs": request.top_logprobs or 0,
        "top_p": 1.0 if body.top_p is None else body.top_p,
        "truncation": body.truncation or "disabled",
    }


def _given(part: Body) -> dict[str, Any]:
    """A part of a request, without what it leaves out."""
    return part.model_dump(mode="json", by_alias=True, exclude_none=True)
