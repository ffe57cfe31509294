"""From a request of `/v1/responses` to the neutral form: items become the messages of a dialogue."""

import re
from collections.abc import Awaitable, Callable, Sequence

from callboard_contracts.chat import (
    ChatMessage,
    ChatRequest,
    ChatResult,
    Image,
    OutputFormat,
    Role,
    Sampling,
    Thinking,
    Tool,
    ToolCall,
)
from callboard_contracts.errors import CallboardError, ErrorCode
from callboard_contracts.workers import OfferedModel
from callboard_edge.domain.abilities import unsupported
from callboard_edge.domain.catalogue import ChatModel
from callboard_edge.protocols.openai.chat import data_image, tool_of
from callboard_edge.protocols.openai.choices import check_logprobs
from callboard_edge.protocols.openai.responses_bodies import (
    ChosenResponseTool,
    InputContent,
    InputItem,
    InputPart,
    ResponsesBody,
    ResponseTool,
    TextFormat,
)

LOGPROBS = "message.output_text.logprobs"
"""What `include` says where log probabilities are wanted."""
_ITEM = re.compile(r"(?:msg|rs|fc)_(?P<request>[0-9a-f]{32})(?:_\d+)?")
_ROLES: dict[str, Role] = {"user": "user", "assistant": "assistant", "system": "system", "developer": "system"}
_EFFORTS = ("minimal", "low", "medium", "high")
_TEXTS = ("input_text", "output_text", "text", "summary_text", "reasoning_text")

Recall = Callable[[str], Awaitable[ChatResult | None]]
"""The reply of a request, as far as the caller may go on from it."""


def reply_messages(result: ChatResult) -> list[ChatMessage]:
    """A reply as a message of the dialogue that goes on from it; none where it came to nothing."""
    if not (result.text or result.tool_calls):
        return []
    return [ChatMessage(role="assistant", content=result.text, tool_calls=result.tool_calls)]


async def messages_of(body: ResponsesBody, recall: Recall, *, reads_images: bool) -> list[ChatMessage]:
    """The messages of a request's own input.

    Raises:
        CallboardError: an item is malformed, of a kind that is not served, or refers to what is not known.
    """
    if isinstance(body.input, str):
        return [ChatMessage(role="user", content=body.input)]
    found: list[ChatMessage] = []
    for index, item in enumerate(body.input):
        for message in await _messages(item, f"input[{index}]", recall, reads_images=reads_images):
            _add(found, message)
    return found


def joined(*parts: Sequence[ChatMessage]) -> tuple[ChatMessage, ...]:
    """The messages of several parts of a dialogue as one."""
    found: list[ChatMessage] = []
    for message in (message for part in parts for message in part):
        _add(found, message)
    return tuple(found)


def responses_request(
    body: ResponsesBody, messages: Sequence[ChatMessage], model: ChatModel, offered: OfferedModel | None
) -> ChatRequest:
    """The neutral form of a request whose dialogue so far is `messages`.

    Raises:
        CallboardError: it asks for what cannot be served.
    """
    for wanted, name, what in (
        (body.background, "background", "Replies are not written in the background; stream them."),
        (body.conversation, "conversation", "Conversations are not kept by name; use 'previous_response_id'."),
        (body.prompt, "prompt", "Prompts are not kept here; send 'instructions' and 'input'."),
    ):
        if wanted:
            raise unsupported(what, name)
    if not messages:
        raise _invalid("'input' must not be empty.", "input")
    top_logprobs: int | None = None
    if body.top_logprobs or LOGPROBS in (body.include or ()):
        check_logprobs(offered, "top_logprobs" if body.top_logprobs else "include")
        top_logprobs = body.top_logprobs or 0
    stop = (body.stop,) if isinstance(body.stop, str) else tuple(body.stop or ())
    system = [ChatMessage(role="system", content=body.instructions)] if body.instructions else []
    tools, tool_choice = functions_of(body.tools, body.tool_choice, model)
    return ChatRequest(
        model=model.name,
        messages=(*system, *messages),
        overflow="drop_front" if body.truncation == "auto" else "refuse",
        sampling=Sampling(
            temperature=body.temperature, top_p=body.top_p, seed=body.seed, stop=tuple(word for word in stop if word)
        ),
        max_output_tokens=model.output_limit(body.max_output_tokens),
        output_format=_output_format(body.text.format if body.text else None),
        tools=tools,
        tool_choice=tool_choice,
        parallel_tool_calls=body.parallel_tool_calls,
        thinking=_thinking(body, offered),
        top_logprobs=top_logprobs,
        prompt_cache_key=body.prompt_cache_key,
        speaker=body.user or body.safety_identifier or "",
    )


def _add(found: list[ChatMessage], message: ChatMessage) -> None:
    """Adds a message; what an assistant says and calls in one turn is one message."""
    last = found[-1] if found else None
    if last is None or last.role != "assistant" or message.role != "assistant" or (last.content and message.content):
        found.append(message)
        return
    calls = (*last.tool_calls, *(call for call in message.tool_calls if call not in last.tool_calls))
    found[-1] = last.model_copy(update={"content": last.content or message.content, "tool_calls": calls})


async def _messages(item: InputItem, place: str, recall: Recall, *, reads_images: bool) -> list[ChatMessage]:
    match item.type:
        case "message" | None if item.role is not None:
            content, images = _content(item.content, f"{place}.content", reads_images=reads_images)
            return [ChatMessage(role=_ROLES[item.role], content=content, images=images)]
        case "function_call":
            if item.call_id is None or item.name is None:
                raise _invalid("A function call needs 'call_id' and 'name'.", f"{place}.call_id")
            call = ToolCall(id=item.call_id, name=item.name, arguments=item.arguments or "")
            return [ChatMessage(role="assistant", tool_calls=(call,))]
        case "function_call_output":
            if item.call_id is None or item.output is None:
                raise _invalid("The output of a function needs 'call_id' and 'output'.", f"{place}.call_id")
            content, _images = _content(item.output, f"{place}.output", reads_images=False)
            return [ChatMessage(role="tool", content=content, tool_call_id=item.call_id)]
        case "reasoning":
            return []
        case "item_reference":
            return await _referred(item.id or "", place, recall)
        case "message" | None:
            raise _invalid("A message needs a role.", f"{place}.role")
        case _:
            raise unsupported("Items of this type cannot be read here.", f"{place}.type")


async def _referred(item_id: str, place: str, recall: Recall) -> list[ChatMessage]:
    match = _ITEM.fullmatch(item_id)
    result = await recall(match["request"]) if match else None
    if result is None:
        message = "There is no item of that id, or it has expired; send the item instead."
        raise _invalid(message, f"{place}.id")
    if item_id.startswith("rs_"):
        return []
    if item_id.startswith("msg_"):
        return [ChatMessage(role="assistant", content=result.text)]
    number = int(item_id.rpartition("_")[2]) if item_id.count("_") > 1 else 0
    return [ChatMessage(role="assistant", tool_calls=result.tool_calls[number : number + 1])]


def _content(content: InputContent | None, place: str, *, reads_images: bool) -> tuple[str, tuple[Image, ...]]:
    if content is None:
        raise _invalid("This item needs content.", place)
    if isinstance(content, str):
        return content, ()
    texts: list[str] = []
    images: list[Image] = []
    for position, part in enumerate(content):
        at = f"{place}[{position}]"
        if part.type == "input_image" and reads_images:
            images.append(data_image(part.image_url, f"{at}.image_url"))
        else:
            texts.append(_text(part, at))
    return "\n".join(texts), tuple(images)


def _text(part: InputPart, place: str) -> str:
    if part.type in _TEXTS:
        if part.text is None:
            raise _invalid("A text part needs 'text'.", f"{place}.text")
        return part.text
    if part.type == "refusal" and part.refusal is not None:
        return part.refusal
    if part.type in {"input_image", "input_file", "input_audio"}:
        raise unsupported("Only text can be read by this model.", place)
    raise _invalid("Content parts must be of the type 'input_text' or 'output_text'.", f"{place}.type")


def functions_of(
    offered: Sequence[ResponseTool] | None, choice: str | ChosenResponseTool | None, model: ChatModel
) -> tuple[tuple[Tool, ...], str]:
    """The functions that a model may call, and which of them it must.

    Raises:
        CallboardError: a tool is no function, or the choice names none.
    """
    tools: list[Tool] = []
    for index, spec in enumerate(offered or ()):
        if spec.type != "function":
            if model.tools == "ignore":
                continue
            raise unsupported("Only functions can be called; tools that run here are not offered.", f"tools[{index}]")
        if spec.name is None:
            raise _invalid("A function needs a name.", f"tools[{index}].name")
        parameters = f"tools[{index}].parameters"
        tools.append(tool_of(spec.name, spec.description, spec.parameters, strict=spec.strict, place=parameters))
    choice = choice or "auto"
    if not isinstance(choice, str):
        if choice.type != "function":
            raise unsupported("Only a function can be chosen.", "tool_choice")
        choice = choice.name or ""
        if choice not in {tool.name for tool in tools}:
            raise _invalid("There is no tool of that name in 'tools'.", "tool_choice")
    if choice == "none":
        return (), "none"
    if not tools:
        if choice == "required" and model.tools != "ignore":
            raise _invalid("'tool_choice' needs 'tools'.", "tool_choice")
        return (), "auto"
    return tuple(tools), choice


def _output_format(wanted: TextFormat | None) -> OutputFormat:
    if wanted is None or wanted.type == "text":
        return OutputFormat()
    if wanted.type == "json_object":
        return OutputFormat(kind="json_object")
    if wanted.schema_ is None:
        raise _invalid("The format needs a 'schema'.", "text.format.schema")
    return OutputFormat(kind="json_schema", json_schema=wanted.schema_, name=wanted.name, strict=wanted.strict)


def _thinking(body: ResponsesBody, offered: OfferedModel | None) -> Thinking:
    effort = body.reasoning.effort if body.reasoning else None
    if offered is None or "thinking" not in offered.abilities or effort is None:
        return Thinking()
    if effort == "none":
        return Thinking(enabled=False)
    return next((Thinking(enabled=True, effort=one) for one in _EFFORTS if one == effort), Thinking())


def _invalid(message: str, param: str) -> CallboardError:
    return CallboardError(ErrorCode.INVALID_REQUEST, message, param=param)
