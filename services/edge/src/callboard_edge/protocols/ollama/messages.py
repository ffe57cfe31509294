"""Messages, tools and what else both text paths share, in the neutral form."""

import base64
import binascii
import json
from collections.abc import Iterable, Sequence
from typing import Any

from callboard_contracts.chat import ChatMessage, ChatRequest, Image, OutputFormat, Thinking, Tool, ToolCall
from callboard_contracts.errors import CallboardError, ErrorCode
from callboard_contracts.workers import OfferedModel
from callboard_edge.domain.abilities import unsupported
from callboard_edge.domain.catalogue import ChatModel
from callboard_edge.protocols.ollama.bodies import Options, TextBody, ToolSpec, Turn
from callboard_edge.protocols.ollama.options import lengths, sampling

_KINDS = (
    (b"\x89PNG", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"GIF8", "image/gif"),
    (b"RIFF", "image/webp"),
)
_OTHER_TYPES = frozenset({"array", "string", "number", "integer", "boolean", "null"})
NO_PARAMETERS: dict[str, Any] = {"type": "object", "properties": {}}


def text_request(body: TextBody, model: ChatModel, offered: OfferedModel | None) -> ChatRequest:
    """What a body of either path says beside its text.

    Raises:
        CallboardError: it asks for what the model cannot do.
    """
    options = body.options or Options()
    context_tokens, limit = lengths(options, model)
    abilities = None if offered is None else offered.abilities
    if body.think and abilities is not None and "thinking" not in abilities:
        raise unsupported(f'"{model.name}" does not support thinking', "think")
    if body.logprobs and abilities is not None and "logprobs" not in abilities:
        raise unsupported("This model's engine tells no log probabilities.", "logprobs")
    return ChatRequest(
        model=model.name,
        overflow="refuse" if body.truncate is False else "drop_front",
        context_tokens=context_tokens,
        sampling=sampling(options),
        max_output_tokens=limit,
        output_format=_output_format(body.format),
        thinking=Thinking(
            enabled=None if body.think is None else bool(body.think),
            effort=body.think if isinstance(body.think, str) else None,
        ),
        top_logprobs=(body.top_logprobs or 0) if body.logprobs else None,
    )


def messages(turns: Sequence[Turn], model: ChatModel) -> tuple[ChatMessage, ...]:
    """The messages of a conversation. Calls of tools without an id get one, and so do their results, in their order.

    Raises:
        CallboardError: a message is malformed, or has images that the model cannot read.
    """
    found: list[ChatMessage] = []
    waiting: dict[str, str] = {}
    count = 0
    for index, turn in enumerate(turns):
        calls: list[ToolCall] = []
        for part in turn.tool_calls or ():
            arguments = json.dumps(part.function.arguments or {}, ensure_ascii=False)
            calls.append(ToolCall(id=part.id or f"call_{count}", name=part.function.name, arguments=arguments))
            count += 1
        if calls and turn.role != "assistant":
            raise _invalid("Only an assistant's message may have tool calls.", f"messages[{index}].tool_calls")
        answered = turn.tool_call_id
        if turn.role == "tool":
            answered = answered or next((id_ for id_, name in waiting.items() if name == turn.tool_name), None)
            answered = answered or next(iter(waiting), None)
            waiting.pop(answered or "", None)
        waiting |= {call.id: call.name for call in calls}
        found.append(
            ChatMessage(
                role=turn.role,
                content=turn.content or "",
                thinking=(turn.thinking or "") if turn.role == "assistant" else "",
                images=images(turn.images or (), f"messages[{index}].images", model),
                name=turn.tool_name if turn.role == "tool" else None,
                tool_calls=tuple(calls),
                tool_call_id=answered if turn.role == "tool" else None,
            )
        )
    return tuple(found)


def images(given: Iterable[str], place: str, model: ChatModel) -> tuple[Image, ...]:
    """Images out of base64, with or without a data URL's beginning; raises as `messages` does."""
    found: list[Image] = []
    for text in given:
        if not model.images:
            raise unsupported("Images cannot be read by this model; send text only.", place)
        data = text.partition(",")[2] if text.startswith("data:") else text
        try:
            raw = base64.b64decode(data, validate=True)
        except (binascii.Error, ValueError):
            raise _invalid("An image is not valid base64.", place) from None
        kind = next((kind for beginning, kind in _KINDS if raw.startswith(beginning)), None)
        if kind is None:
            raise _invalid("An image is none of PNG, JPEG, GIF and WebP.", place)
        found.append(Image(media_type=kind, data=data))
    return tuple(found)


def tools(given: Sequence[ToolSpec]) -> tuple[Tool, ...]:
    """The functions that the model may call; raises CallboardError where one has no parameters' schema."""
    found: list[Tool] = []
    for index, spec in enumerate(given):
        parameters = spec.function.parameters or NO_PARAMETERS
        kind = parameters.get("type")
        if isinstance(kind, str) and kind in _OTHER_TYPES:
            message = "The parameters must be a JSON schema of an object."
            raise _invalid(message, f"tools[{index}].function.parameters")
        function = spec.function
        found.append(Tool(name=function.name, description=function.description or "", parameters=parameters))
    return tuple(found)


def _output_format(given: str | dict[str, Any] | None) -> OutputFormat:
    if given is None:
        return OutputFormat()
    return (
        OutputFormat(kind="json_object")
        if isinstance(given, str)
        else OutputFormat(kind="json_schema", json_schema=given)
    )


def _invalid(message: str, param: str) -> CallboardError:
    return CallboardError(ErrorCode.INVALID_REQUEST, message, param=param)
