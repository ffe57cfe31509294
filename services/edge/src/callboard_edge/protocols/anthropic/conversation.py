"""Messages in Anthropic's form as turns of a neutral request."""

import base64
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from callboard_contracts.chat import ChatMessage, Image, ToolCall
from callboard_edge.domain.abilities import unsupported
from callboard_edge.protocols.anthropic.bodies import Block, Content, CountTokensBody, Turn
from callboard_edge.protocols.anthropic.errors import invalid, missing

SEPARATOR = "\n\n"
"""What stands between turns of one role that are made one."""
IMAGE_TYPES = frozenset({"image/jpeg", "image/png", "image/gif", "image/webp"})


def conversation(body: CountTokensBody, *, reads_images: bool) -> tuple[ChatMessage, ...]:
    """The turns of a conversation, the system's first; neighbours of one role are one, as Anthropic has it.

    Raises:
        CallboardError: a block is malformed, or cannot be read here.
    """
    found: list[ChatMessage] = []
    if body.system is not None and (text := _text_of(body.system, "system")).strip():
        found.append(ChatMessage(role="system", content=text))
    for index, turn in enumerate(body.messages):
        found += _turn(turn, f"messages[{index}]", reads_images=reads_images)
    return tuple(_merged(found))


def _merged(messages: Iterable[ChatMessage]) -> list[ChatMessage]:
    merged: list[ChatMessage] = []
    for message in messages:
        last = merged[-1] if merged else None
        if last is None or last.role != message.role or last.role not in ("user", "assistant") or last.tool_calls:
            merged.append(message)
            continue
        merged[-1] = ChatMessage(
            role=last.role,
            content=SEPARATOR.join(filter(None, (last.content, message.content))),
            thinking=SEPARATOR.join(filter(None, (last.thinking, message.thinking))),
            images=(*last.images, *message.images),
            tool_calls=message.tool_calls,
        )
    return merged


@dataclass(slots=True)
class _Parts:
    """What the blocks of one message hold."""

    texts: list[str] = field(default_factory=list[str])
    thoughts: list[str] = field(default_factory=list[str])
    images: list[Image] = field(default_factory=list[Image])
    calls: list[ToolCall] = field(default_factory=list[ToolCall])
    results: list[ChatMessage] = field(default_factory=list[ChatMessage])


def _turn(turn: Turn, place: str, *, reads_images: bool) -> list[ChatMessage]:
    if isinstance(turn.content, str):
        return [ChatMessage(role=turn.role, content=turn.content)]
    parts = _Parts()
    for position, block in enumerate(turn.content):
        at = f"{place}.content[{position}]"
        if turn.role == "assistant":
            _read_assistant(block, at, parts)
        elif turn.role == "user" and block.type == "tool_result":
            _read_result(block, at, parts, reads_images=reads_images)
        elif turn.role == "user":
            _read_shown(block, at, parts, reads_images=reads_images)
        else:
            parts.texts.append(_text(block, at))
    message = ChatMessage(
        role=turn.role,
        content="\n".join(parts.texts),
        thinking="\n".join(parts.thoughts),
        images=tuple(parts.images),
        tool_calls=tuple(parts.calls),
    )
    # Results answer the calls before them, whatever the user says besides.
    return parts.results if parts.results and not (parts.texts or parts.images) else [*parts.results, message]


def _read_assistant(block: Block, place: str, parts: _Parts) -> None:
    match block.type:
        case "tool_use":
            call_id, name = _required(block.id, f"{place}.id"), _required(block.name, f"{place}.name")
            arguments = json.dumps(block.input or {}, ensure_ascii=False)
            parts.calls.append(ToolCall(id=call_id, name=name, arguments=arguments))
        case "thinking":
            parts.thoughts.append(block.thinking or "")
        case "redacted_thinking":
            pass
        case _:
            parts.texts.append(_text(block, place))


def _read_result(block: Block, place: str, parts: _Parts, *, reads_images: bool) -> None:
    """Reads what a tool gave; its images are shown by the user, as only a user's turn has some in every template."""
    call_id = _required(block.tool_use_id, f"{place}.tool_use_id")
    shown = _Parts(images=parts.images)
    if isinstance(block.content, str):
        shown.texts.append(block.content)
    for position, inner in enumerate(block.content if isinstance(block.content, list) else ()):
        _read_shown(inner, f"{place}.content[{position}]", shown, reads_images=reads_images)
    text = "\n".join(shown.texts)
    parts.results.append(
        ChatMessage(role="tool", content=f"Error: {text}" if block.is_error else text, tool_call_id=call_id)
    )


def _read_shown(block: Block, place: str, parts: _Parts, *, reads_images: bool) -> None:
    match block.type:
        case "image":
            if not reads_images:
                raise unsupported("Images cannot be read by this model; send text only.", place)
            parts.images.append(_image(block, place))
        case "document":
            source = block.source
            if source is None or source.type != "text" or source.data is None:
                raise unsupported("Only documents of plain text are read here.", f"{place}.source")
            parts.texts += [*([block.title] if block.title else []), source.data]
        case _:
            parts.texts.append(_text(block, place))


def _image(block: Block, place: str) -> Image:
    source = block.source
    if source is None or source.type != "base64" or source.media_type not in IMAGE_TYPES:
        raise unsupported("Images are taken as base64 of JPEG, PNG, GIF or WebP only.", f"{place}.source")
    data = _required(source.data, f"{place}.source.data")
    try:
        base64.b64decode(data, validate=True)
    except ValueError:
        raise invalid("The image is not valid base64.", f"{place}.source.data") from None
    return Image(media_type=source.media_type, data=data)


def _text_of(content: Content, place: str) -> str:
    if isinstance(content, str):
        return content
    blocks: Sequence[Block] = content
    return "\n".join(_text(block, f"{place}[{position}]") for position, block in enumerate(blocks))


def _text(block: Block, place: str) -> str:
    if block.type != "text":
        raise unsupported("A block of this type cannot be read here; send text.", f"{place}.type")
    return _required(block.text, f"{place}.text")


def _required(value: str | None, place: str) -> str:
    if value is None:
        raise missing(place)
    return value
