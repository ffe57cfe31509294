"""What text-generation-webui's first API has beside continuations: dialogues, the models, and an end to replies."""

import json
from collections.abc import Sequence
from typing import Any

from aiohttp import web

from callboard_contracts.chat import ChatEnd, ChatFrame, ChatMessage, ChatRequest, Role
from callboard_contracts.errors import CallboardError, ErrorCode, ErrorInfo
from callboard_contracts.running import RunningReplyRequest
from callboard_edge.domain.abilities import unsupported
from callboard_edge.domain.catalogue import ChatModel
from callboard_edge.domain.running_replies import reply_name
from callboard_edge.domain.text_stream import TextReply
from callboard_edge.http.call import Call
from callboard_edge.http.context import EdgeContext
from callboard_edge.http.local_sampling import local_sampling
from callboard_edge.http.route import Answer, Route
from callboard_edge.protocols.kobold.bodies import (
    ChatBody,
    ChatHistory,
    HistoryResults,
    KeyBody,
    ModelAction,
)
from callboard_edge.protocols.kobold.callers import known_caller
from callboard_edge.protocols.kobold.errors import ANSWERS
from callboard_edge.protocols.kobold.generation import lengths
from callboard_edge.protocols.kobold.info import TAG
from callboard_edge.protocols.kobold.models import chosen_model, default_model
from callboard_edge.protocols.kobold.running import key_of

NOTHING_SAID = "<|BEGIN-VISIBLE-CHAT|>"
"""Stands for the user's words before a greeting."""


def routes(context: EdgeContext) -> list[Route]:
    """The routes of this module."""

    async def chat(call: Call) -> web.StreamResponse:
        body = await call.json(ChatBody)
        model = chosen_model((await context.offers.to(call.caller)).chat_models, body.model)
        request, before = chat_request(body, model)
        with context.running.running(reply_name(call.caller, "")) as reply:
            return await context.text.respond(
                call, "textgen_chat", request, model, HistoryWriter(before), stream=False, follow=reply.follow
            )

    async def model(call: Call) -> web.StreamResponse:
        action = (await call.json(ModelAction)).action or "info"
        models = (await context.offers.to(call.caller)).chat_models
        if action == "list":
            return call.answer({"result": list(models.names)})
        if action == "info":
            found = default_model(models)
            length = found.context_tokens if found else 0
            shared: dict[str, Any] = {"truncation_length": length, "instruction_template": None}
            return call.answer(
                {"result": {"model_name": found.name if found else "None", "lora_names": [], "shared.settings": shared}}
            )
        raise unsupported("Models are loaded by the site's operator; name another in 'model' to use it.", "action")

    async def stop(call: Call) -> web.StreamResponse:
        name = reply_name(call.caller, await key_of(call))
        if (await context.running.ask(RunningReplyRequest(name=name, action="read"))).running:
            await context.running.ask(RunningReplyRequest(name=name, action="stop"))
        return call.answer({"results": "success"})

    return [
        Route(
            "POST",
            "/api/v1/chat",
            chat,
            "textgen_chat",
            "Reply to a dialogue",
            TAG,
            body=ChatBody,
            answers={200: Answer("The dialogue with the reply.", HistoryResults), **ANSWERS},
        ),
        Route(
            "POST",
            "/api/v1/model",
            known_caller(context, model),
            "textgen_model",
            "Name the model (`info`), or all of them (`list`)",
            TAG,
            body=ModelAction,
            answers={200: Answer("The name, or the names."), 400: ANSWERS[400]},
        ),
        Route(
            "POST",
            "/api/v1/stop-stream",
            known_caller(context, stop),
            "textgen_stop",
            "End the caller's reply where it stands, where there is one",
            TAG,
            body=KeyBody,
            answers={200: Answer("Done."), 401: ANSWERS[401]},
        ),
    ]


class HistoryWriter:
    """Writes a dialogue with its new reply, in both of its forms; never streams."""

    content_type = "application/json"
    keep_alive = b""

    def __init__(self, before: ChatHistory) -> None:
        self._before = before

    def whole(self, reply: TextReply) -> bytes:
        """The dialogue."""
        forms = {}
        for form, turns in (("internal", self._before.internal or []), ("visible", self._before.visible or [])):
            *earlier, last = turns
            forms[form] = [*earlier, [last[0], last[1] + reply.text]]
        body = {"results": [{"history": forms}]}
        return json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")

    def opening(self) -> bytes:
        """Nothing."""
        return b""

    def deltas(self, frames: Sequence[ChatFrame]) -> bytes:
        """Nothing."""
        del frames
        return b""

    def closing(self, end: ChatEnd) -> bytes:
        """Nothing."""
        del end
        return b""

    def failure(self, error: ErrorInfo) -> bytes:
        """Nothing."""
        del error
        return b""


def chat_request(body: ChatBody, model: ChatModel) -> tuple[ChatRequest, ChatHistory]:
    """The neutral form of a request, and the dialogue so far with a last turn for the reply.

    Raises:
        CallboardError: there is nothing to answer.
    """
    internal = [turn_of(turn) for turn in (body.history.internal if body.history else None) or []]
    visible = [turn_of(turn) for turn in (body.history.visible if body.history else None) or []]
    visible += internal[len(visible) :]
    if (body.regenerate or body.continue_) and internal:
        user, said = internal[-1]
        said = said if body.continue_ else ""
        internal[-1], visible[-1] = [user, said], [visible[-1][0], said]
    elif body.user_input:
        internal.append([body.user_input, ""])
        visible.append([body.user_input, ""])
    else:
        raise CallboardError(ErrorCode.INVALID_REQUEST, "Missing required field: 'user_input'.", param="user_input")
    system = body.context or body.context_instruct
    messages = [ChatMessage(role="system", content=system)] if system and system.strip() else []
    for user, said in internal:
        turns: tuple[tuple[Role, str], ...] = (("user", user), ("assistant", said))
        messages += [ChatMessage(role=role, content=text) for role, text in turns if text and text != NOTHING_SAID]
    context_tokens, limit = lengths(body, model)
    request = ChatRequest(
        model=model.name,
        messages=tuple(messages),
        overflow="drop_front",
        context_tokens=context_tokens,
        sampling=local_sampling(body),
        max_output_tokens=limit,
    )
    return request, ChatHistory(internal=internal, visible=visible)


def turn_of(turn: list[str]) -> list[str]:
    """A turn of a history: what the user said, and what was answered."""
    return [*turn, "", ""][:2]
