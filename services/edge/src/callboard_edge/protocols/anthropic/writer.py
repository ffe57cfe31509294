"""Anthropic's replies, streamed and whole.

The events of a stream are built by hand, because they are written for every token.
"""

import json
from collections.abc import Sequence
from json.encoder import encode_basestring_ascii as quoted
from typing import Any, Literal

from callboard_contracts.chat import ChatEnd, ChatFrame, TokenUsage, ToolCall
from callboard_contracts.errors import ErrorInfo
from callboard_edge.domain.text_stream import TextReply
from callboard_edge.protocols.anthropic.errors import error_event

ARGUMENT_CHARACTERS = 256
"""So much of a tool's input goes into one event."""
Kind = Literal["text", "thinking", "tool_use"]
_REASONS = {"length": "max_tokens", "tool_calls": "tool_use"}


def _event(name: str, fields: str = "") -> str:
    return f'event: {name}\ndata: {{"type":"{name}"{fields}}}\n\n'


class MessagesWriter:
    """Writes one reply: its thoughts, its text and its tool calls are blocks, which a stream opens one after another.

    Text is escaped to ASCII, so that no reader takes a line separator inside it for the end of a line. The prompt's
    tokens are known at the end only, so that the last usage has them and not the first.
    """

    content_type = "text/event-stream; charset=utf-8"
    keep_alive = _event("ping").encode()

    def __init__(self, request_id: str, model: str, stops: Sequence[str], *, shows_thoughts: bool = True) -> None:
        self._id = f"msg_{request_id}"
        self._signature = request_id
        self._model = model
        self._stops = stops
        self._shows_thoughts = shows_thoughts
        self._open: Kind | None = None
        self._index = -1
        self._text_head = ""

    def whole(self, reply: TextReply) -> bytes:
        """The whole reply."""
        content: list[dict[str, Any]] = []
        if reply.thinking:
            thinking = reply.thinking if self._shows_thoughts else ""
            content.append({"type": "thinking", "thinking": thinking, "signature": self._signature})
        if reply.text:
            content.append({"type": "text", "text": reply.text})
        content += [
            {"type": "tool_use", "id": call.id, "name": call.name, "input": _input(call)} for call in reply.tool_calls
        ]
        answer = {**self._message(reply.end.usage), "content": content, **self._stop(reply.end)}
        return json.dumps(answer, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")

    def opening(self) -> bytes:
        """The message without its content."""
        message = {**self._message(TokenUsage()), "content": [], "stop_reason": None, "stop_sequence": None}
        return _event("message_start", f',"message":{json.dumps(message, separators=(",", ":"))}').encode()

    def deltas(self, frames: Sequence[ChatFrame]) -> bytes:
        """The events for frames that arrived together; neighbouring text becomes one event."""
        if len(frames) == 1 and self._open == "text" and not frames[0].thinking and not frames[0].tool_calls:
            return self._text(frames[0].text).encode() if frames[0].text else b""
        events: list[str] = []
        kind: Kind = "text"
        run = ""
        for frame in frames:
            said: tuple[tuple[Kind, str], ...] = (("thinking", frame.thinking), ("text", frame.text))
            for one, text in said:
                if text and one != kind:
                    events.append(self._written(kind, run))
                    kind, run = one, ""
                run += text
            if frame.tool_calls:
                events += [self._written(kind, run), *map(self._called, frame.tool_calls)]
                run = ""
        return "".join([*events, self._written(kind, run)]).encode()

    def closing(self, end: ChatEnd) -> bytes:
        """The last events: the end of the open block, why the reply ended and what it used, and the end."""
        delta = json.dumps(self._stop(end), separators=(",", ":"))
        usage = json.dumps(_usage(end.usage), separators=(",", ":"))
        last = _event("message_delta", f',"delta":{delta},"usage":{usage}') + _event("message_stop")
        return (self._closed() + last).encode()

    def failure(self, error: ErrorInfo) -> bytes:
        """The error as an event, which ends the stream."""
        return error_event(error)

    def _message(self, usage: TokenUsage) -> dict[str, Any]:
        return {
            "id": self._id,
            "type": "message",
            "role": "assistant",
            "model": self._model,
            "usage": _usage(usage),
        }

    def _stop(self, end: ChatEnd) -> dict[str, Any]:
        stop = end.stop_sequence if end.reason == "stop" and end.stop_sequence in self._stops else None
        reason = _REASONS.get(end.reason, "end_turn") if stop is None else "stop_sequence"
        return {"stop_reason": reason, "stop_sequence": stop}

    def _written(self, kind: Kind, text: str) -> str:
        """The events for a piece of text or of thoughts, which may open a block; nothing for an empty one."""
        if not text:
            return ""
        fields = '"text":""' if kind == "text" else '"thinking":"","signature":""'
        opened = "" if self._open == kind else self._opened(kind, fields)
        return opened + (self._delta(kind, kind, text) if kind == "text" or self._shows_thoughts else "")

    def _text(self, text: str) -> str:
        return f"{self._text_head}{quoted(text)}}}}}\n\n"

    def _called(self, call: ToolCall) -> str:
        fields = f'"id":{quoted(call.id)},"name":{quoted(call.name)},"input":{{}}'
        starts = range(0, len(call.arguments), ARGUMENT_CHARACTERS)
        pieces = [call.arguments[start : start + ARGUMENT_CHARACTERS] for start in starts]
        return self._opened("tool_use", fields) + "".join(
            self._delta("input_json", "partial_json", piece) for piece in pieces
        )

    def _delta(self, kind: str, name: str, value: str) -> str:
        delta = f'{{"type":"{kind}_delta","{name}":{quoted(value)}}}'
        return _event("content_block_delta", f',"index":{self._index},"delta":{delta}')

    def _opened(self, kind: Kind, fields: str) -> str:
        closed = self._closed()
        self._open = kind
        self._index += 1
        # The beginning of what is written for every token.
        self._text_head = self._delta("text", "text", "").removesuffix('""}}\n\n')
        block = f'{{"type":"{kind}",{fields}}}'
        return closed + _event("content_block_start", f',"index":{self._index},"content_block":{block}')

    def _closed(self) -> str:
        if self._open is None:
            return ""
        signed = self._delta("signature", "signature", self._signature) if self._open == "thinking" else ""
        self._open = None
        return signed + _event("content_block_stop", f',"index":{self._index}')


def _input(call: ToolCall) -> dict[str, Any]:
    """What a tool is called with; nothing where the model did not write an object to its end."""
    try:
        found: Any = json.loads(call.arguments or "{}")
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _usage(usage: TokenUsage) -> dict[str, Any]:
    return {
        "input_tokens": max(0, usage.prompt_tokens - usage.cached_prompt_tokens),
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": usage.cached_prompt_tokens,
        "output_tokens": usage.completion_tokens,
        "output_tokens_details": {"thinking_tokens": usage.thinking_tokens},
    }
