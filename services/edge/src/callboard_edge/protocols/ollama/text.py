"""`/api/chat` and `/api/generate`: replies, whole and streamed."""

from collections.abc import Sequence

from aiohttp import web

from callboard_contracts.chat import ChatMessage, ChatRequest
from callboard_contracts.errors import CallboardError, ErrorCode
from callboard_contracts.workers import OfferedModel
from callboard_edge.domain.abilities import unsupported
from callboard_edge.domain.catalogue import ChatModel
from callboard_edge.domain.workers import check_pool
from callboard_edge.http.call import Call
from callboard_edge.http.context import EdgeContext
from callboard_edge.http.route import Answer, Route
from callboard_edge.protocols.ollama.bodies import ChatAnswer, ChatBody, GenerateAnswer, GenerateBody, TextBody
from callboard_edge.protocols.ollama.context import packed, unpacked
from callboard_edge.protocols.ollama.errors import ANSWERS
from callboard_edge.protocols.ollama.messages import images, messages, text_request, tools
from callboard_edge.protocols.ollama.names import chosen
from callboard_edge.protocols.ollama.writer import NDJSON, GenerateWriter, OllamaWriter, empty_reply

TAG = "Ollama"
CHAT, GENERATE = "ollama_chat", "ollama_generate"


def routes(context: EdgeContext) -> list[Route]:
    """The routes of this module."""

    async def chat(call: Call) -> web.StreamResponse:
        body = await call.json(ChatBody)
        if not body.messages:
            return await loaded(call, body, chat=True)
        model, name = await wanted(call, body)
        request = chat_request(body, model, offered(model))
        writer = OllamaWriter(name, call.started_s)
        return await context.text.respond(call, CHAT, request, model, writer, stream=body.stream is not False)

    async def generate(call: Call) -> web.StreamResponse:
        body = await call.json(GenerateBody)
        if not body.prompt:
            return await loaded(call, body, chat=False)
        model, name = await wanted(call, body)
        request = generate_request(body, model, offered(model))

        def conversation(text: str) -> Sequence[int]:
            return packed((*request.messages, ChatMessage(role="assistant", content=text)))

        writer = GenerateWriter(name, call.started_s, conversation if request.mode == "chat" else None)
        return await context.text.respond(call, GENERATE, request, model, writer, stream=body.stream is not False)

    async def wanted(call: Call, body: TextBody) -> tuple[ChatModel, str]:
        """The model, and the name that the client has for it."""
        model = chosen((await context.offers.to(call.caller)).chat_models, body.model)
        return model, body.model or model.name

    async def loaded(call: Call, body: TextBody, *, chat: bool) -> web.StreamResponse:
        """The answer where there is nothing to reply to; no client says how long an engine keeps a model."""
        model, name = await wanted(call, body)
        await context.admission.identify(call.caller)
        if not body.unloads:
            check_pool(context.workers, "chat", model)
        return call.answer(empty_reply(name, "unload" if body.unloads else "load", chat=chat))

    def offered(model: ChatModel) -> OfferedModel | None:
        return context.workers.model("chat", model.pool, model.served_name)

    types = ("application/json", NDJSON)
    return [
        Route(
            "POST",
            "/api/chat",
            chat,
            CHAT,
            "Reply to a conversation, streamed unless `stream` is false",
            TAG,
            body=ChatBody,
            answers={200: Answer("The reply, or a line for each piece of it.", ChatAnswer, types), **ANSWERS},
        ),
        Route(
            "POST",
            "/api/generate",
            generate,
            GENERATE,
            "Reply to a prompt, streamed unless `stream` is false",
            TAG,
            body=GenerateBody,
            answers={200: Answer("The reply, or a line for each piece of it.", GenerateAnswer, types), **ANSWERS},
        ),
    ]


def chat_request(body: ChatBody, model: ChatModel, offered: OfferedModel | None) -> ChatRequest:
    """The neutral form of a conversation.

    Raises:
        CallboardError: it asks for what cannot be served.
    """
    turns = messages(body.messages or (), model)
    request = text_request(body, model, offered)
    return request.model_copy(update={"messages": turns, "tools": tools(body.tools or ())})


def generate_request(body: GenerateBody, model: ChatModel, offered: OfferedModel | None) -> ChatRequest:
    """The neutral form of a prompt: a conversation, or with `raw` the text as it is.

    Raises:
        CallboardError: it asks for what cannot be served.
    """
    prompt = body.prompt or ""
    if body.suffix:
        raise unsupported(f'"{model.name}" does not support insert', "suffix")
    if body.template:
        raise unsupported("The model's own template is used; send 'raw' with a prompt that is written out.", "template")
    if body.raw:
        if body.system or body.context:
            param = "system" if body.system else "context"
            message = "raw mode does not support template, system, or context"
            raise CallboardError(ErrorCode.INVALID_REQUEST, message, param=param)
        if body.images:
            raise unsupported("raw mode does not support images", "images")
        return text_request(body, model, offered).model_copy(update={"mode": "completion", "prompt": prompt})
    earlier = unpacked(body.context or ())
    if body.system:
        earlier = tuple(turn for turn in earlier if turn.role != "system")
        earlier = (ChatMessage(role="system", content=body.system), *earlier)
    asked = ChatMessage(role="user", content=prompt, images=images(body.images or (), "images", model))
    return text_request(body, model, offered).model_copy(update={"messages": (*earlier, asked)})
