"""OpenAI's `/v1/chat/completions`."""

import base64
import binascii
import re
from typing import Any

from aiohttp import web

from callboard_contracts.chat import ChatMessage, ChatRequest, Image, OutputFormat, Role, Tool, ToolCall
from callboard_contracts.errors import CallboardError, ErrorCode
from callboard_contracts.workers import OfferedModel
from callboard_edge.domain.abilities import unsupported
from callboard_edge.domain.catalogue import ChatModel
from callboard_edge.http.call import Call
from callboard_edge.http.context import EdgeContext
from callboard_edge.http.local_sampling import context_and_reply
from callboard_edge.http.route import Answer, Route
from callboard_edge.protocols.openai.audio_writer import AudioChatWriter
from callboard_edge.protocols.openai.bodies import (
    ChatCompletion,
    ChatCompletionBody,
    ChatTurn,
    ContentPart,
    FunctionSpec,
    ResponseFormat,
)
from callboard_edge.protocols.openai.chat_audio import spoken, with_transcripts
from callboard_edge.protocols.openai.choices import of_each, respond, wanted_choices, wanted_logprobs
from callboard_edge.protocols.openai.errors import ANSWERS
from callboard_edge.protocols.openai.local import (
    LocalChatBody,
    chosen_model,
    guided_format,
    read_body,
    wanted_sampling,
)
from callboard_edge.protocols.openai.sampling import REFUSED
from callboard_edge.protocols.openai.writer import ChatWriter, ReplyHead

NAME = "chat_completions"
_ROLES: dict[str, Role] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
    "tool": "tool",
    "function": "tool",
}

_CHOICES = frozenset({"auto", "none", "required"})
_NO_PARAMETERS: dict[str, Any] = {"type": "object", "properties": {}, "additionalProperties": False}
"""What OpenAI takes a function without parameters to have."""
_TEXT = OutputFormat()
_OTHER_TYPES = frozenset({"array", "string", "number", "integer", "boolean", "null"})

_DATA_URL = re.compile(r"data:(?P<type>image/[a-z0-9.+-]{1,32});base64,(?P<data>[A-Za-z0-9+/=]+)")


def routes(context: EdgeContext) -> list[Route]:
    """The routes of this module."""

    async def create(call: Call) -> web.StreamResponse:
        body = await read_body(call, ChatCompletionBody, LocalChatBody)
        offer = await context.offers.to(call.caller)
        model = chosen_model(offer.chat_models, body)
        offered = context.workers.model("chat", model.pool, model.served_name)
        wanted = wanted_choices(body, offered)
        request = chat_request(await with_transcripts(body, context.admission.deps.replies.result), model, offered)
        head = ReplyHead(
            f"chatcmpl-{call.fresh_id}",
            body.model or model.name,
            include_usage=bool(body.stream_options and body.stream_options.include_usage),
            logprobs=request.top_logprobs is not None,
            keeps_stop=isinstance(body, LocalChatBody) and body.keeps_stop,
        )
        stream = bool(body.stream)
        if body.modalities and "audio" in body.modalities:
            if wanted.written > 1 or head.logprobs:
                raise unsupported("A spoken reply has one choice, without log probabilities.", "modalities")
            speech_model, speech, form = spoken(body, model, offer.speech_models, context.workers)
            return await context.narrated.respond(
                call,
                NAME,
                request,
                model,
                speech,
                speech_model,
                form,
                AudioChatWriter(head, call.fresh_id),
                stream=stream,
                refused_sampling=REFUSED,
            )
        writers = [ChatWriter(head, index) for index in range(wanted.answered)]
        return await respond(
            context, call, NAME, of_each(request, wanted), model, writers, body, stream=stream, wanted=wanted
        )

    return [
        Route(
            "POST",
            "/v1/chat/completions",
            create,
            name=NAME,
            summary="Reply to a conversation, whole or streamed",
            tag="Chat",
            body=ChatCompletionBody,
            answers={
                200: Answer("The reply.", ChatCompletion, ("application/json", "text/event-stream")),
                **ANSWERS,
            },
        )
    ]


def chat_request(
    body: ChatCompletionBody | LocalChatBody, model: ChatModel, offered: OfferedModel | None
) -> ChatRequest:
    """The neutral form of a request.

    Raises:
        CallboardError: it asks for what cannot be served, or a message is malformed.
    """
    if body.functions:
        raise unsupported("'functions' is not offered; use 'tools'.", "functions")
    tools, tool_choice = _tools(body)
    output_format = response_format(body.response_format)
    if isinstance(body, LocalChatBody):
        context_tokens, limit = context_and_reply(model, body.contexts, body.lengths)
        output_format = output_format if output_format.kind != "text" else guided_format(body)
    else:
        context_tokens, limit = None, model.output_limit(body.max_completion_tokens or body.max_tokens)
    return ChatRequest(
        mode="chat",
        model=model.name,
        messages=tuple([_message(turn, index, reads_images=model.images) for index, turn in enumerate(body.messages)]),
        prompt="",
        context_tokens=context_tokens,
        sampling=wanted_sampling(body),
        max_output_tokens=limit,
        output_format=output_format,
        tools=tools,
        tool_choice=tool_choice,
        parallel_tool_calls=body.parallel_tool_calls,
        top_logprobs=wanted_logprobs(body, offered),
        prompt_cache_key=body.prompt_cache_key,
        speaker=body.user or body.safety_identifier or "",
    )


def _message(turn: ChatTurn, index: int, *, reads_images: bool) -> ChatMessage:
    place = f"messages[{index}]"
    calls: tuple[ToolCall, ...] = ()
    if turn.tool_calls:
        calls = tuple(
            ToolCall(id=call.id, name=call.function.name, arguments=call.function.arguments or "")
            for call in turn.tool_calls
        )
    if calls and turn.role != "assistant":
        raise _invalid("Only an assistant's message may have tool calls.", f"{place}.tool_calls")
    images: tuple[Image, ...] = ()
    if turn.content is None:
        if turn.role != "assistant":
            raise _invalid("This message needs content.", f"{place}.content")
        content = ""
    elif isinstance(turn.content, str):
        content = turn.content
    else:
        places = [(part, f"{place}.content[{position}]") for position, part in enumerate(turn.content)]
        images = tuple(
            data_image(part.image_url.url if part.image_url else None, f"{at}.image_url")
            for part, at in places
            if reads_images and part.type == "image_url"
        )
        content = "\n".join(_text(part, at) for part, at in places if not (reads_images and part.type == "image_url"))
    if turn.role == "tool" and turn.tool_call_id is None:
        raise _invalid("A tool's message needs the id of the call that it answers.", f"{place}.tool_call_id")
    return ChatMessage(
        role=_ROLES[turn.role],
        content=content,
        images=images,
        name=turn.name,
        tool_calls=calls,
        tool_call_id=turn.tool_call_id,
    )


def _text(part: ContentPart, place: str) -> str:
    if part.type == "text":
        if part.text is None:
            raise _invalid("A text part needs 'text'.", f"{place}.text")
        return part.text
    if part.type == "refusal" and part.refusal is not None:
        return part.refusal
    kind = {"image_url": "Images", "input_audio": "Audio parts", "file": "Files"}.get(part.type)
    if kind is None:
        raise _invalid("Content parts must be of the type 'text'.", f"{place}.type")
    raise unsupported(f"{kind} cannot be read by the models here; send text only.", place)


def data_image(url: str | None, place: str) -> Image:
    """The image of a data URL.

    Raises:
        CallboardError: the URL is none of an image, or leads elsewhere.
    """
    match = _DATA_URL.fullmatch(url) if url is not None else None
    if match is None:
        raise unsupported("Images are taken as base64 data URLs only.", place)
    try:
        base64.b64decode(match["data"], validate=True)
    except binascii.Error:
        raise _invalid("The image is not valid base64.", place) from None
    return Image(media_type=match["type"], data=match["data"])


def _tools(body: ChatCompletionBody | LocalChatBody) -> tuple[tuple[Tool, ...], str]:
    choice = body.tool_choice or "auto"
    if not body.tools:
        if choice not in ("auto", "none"):
            raise _invalid("'tool_choice' needs 'tools'.", "tool_choice")
        return (), "auto"
    if choice == "none":
        return (), "none"
    names = {spec.function.name for spec in body.tools}
    if not isinstance(choice, str):
        choice = choice.function.name
        if choice not in names:
            raise _invalid("There is no tool of that name in 'tools'.", "tool_choice")
        if choice in _CHOICES:
            raise _invalid(f"A function with the name '{choice}' cannot be chosen.", "tool_choice")
    return tuple(_tool(spec.function, index) for index, spec in enumerate(body.tools)), choice


def _tool(function: FunctionSpec, index: int) -> Tool:
    place = f"tools[{index}].function.parameters"
    return tool_of(function.name, function.description, function.parameters, strict=function.strict, place=place)


def tool_of(
    name: str, description: str | None, parameters: dict[str, Any] | None, *, strict: bool | None, place: str
) -> Tool:
    """A function that the model may call.

    Raises:
        CallboardError: its parameters are no object.
    """
    parameters = parameters or _NO_PARAMETERS
    kind = parameters.get("type")
    if isinstance(kind, str) and kind in _OTHER_TYPES:
        raise _invalid("The parameters must be a JSON schema of an object.", place)
    return Tool(name=name, description=description or "", parameters=parameters, strict=strict)


def response_format(wanted: ResponseFormat | None) -> OutputFormat:
    """The form of a reply.

    Raises:
        CallboardError: it is not told in full.
    """
    if wanted is None or wanted.type == "text":
        return _TEXT
    spec = wanted.json_schema
    if wanted.schema_ is not None and spec is None:
        return OutputFormat(kind="json_schema", json_schema=wanted.schema_)
    if wanted.type == "json_object":
        if spec is not None:
            raise _invalid("'json_schema' needs the type 'json_schema'.", "response_format.json_schema")
        return OutputFormat(kind="json_object")
    if spec is None:
        raise _invalid("Missing required field: 'response_format.json_schema'.", "response_format.json_schema")
    if spec.schema_ is None:
        raise _invalid("The format needs a 'schema'.", "response_format.json_schema.schema")
    return OutputFormat(kind="json_schema", json_schema=spec.schema_, name=spec.name, strict=spec.strict)


def _invalid(message: str, param: str) -> CallboardError:
    return CallboardError(ErrorCode.INVALID_REQUEST, message, param=param)
