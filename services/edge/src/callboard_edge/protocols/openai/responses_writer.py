"""Replies of `/v1/responses`: whole ones, and the numbered events of a stream."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from json.encoder import encode_basestring_ascii as quoted
from typing import Any, Literal

from callboard_contracts.chat import ChatEnd, ChatFrame, ChatResult, TokenLogprob, TokenUsage, ToolCall
from callboard_contracts.errors import ErrorInfo
from callboard_edge.domain.text_stream import TextReply, failure
from callboard_edge.protocols.openai.errors import error_fields
from callboard_edge.protocols.openai.logprobs import chat_logprobs
from callboard_edge.protocols.openai.writer import ARGUMENT_CHARACTERS, encoded

Json = dict[str, Any]
Kind = Literal["message", "reasoning", "summary"]

_PARTS: dict[Kind, tuple[str, str, str]] = {
    "message": ("response.content_part", "response.output_text", "content_index"),
    "reasoning": ("response.content_part", "response.reasoning_text", "content_index"),
    "summary": ("response.reasoning_summary_part", "response.reasoning_summary_text", "summary_index"),
}
"""What the events of an item's part and of its text are called, and what numbers the part."""


@dataclass(frozen=True, slots=True)
class ResponseHead:
    """What all forms of a reply share; `shown` is what its client is told of its own request."""

    request_id: str
    created_at: int
    model: str
    shown: Json = field(default_factory=dict[str, Any])
    logprobs: bool = False

    @property
    def id(self) -> str:
        """The reply's id."""
        return response_id(self.request_id)

    @property
    def thoughts(self) -> Kind:
        """How thoughts are told: as a summary where that was asked for, which many clients read alone."""
        return "summary" if self.shown.get("reasoning", {}).get("summary") else "reasoning"


def response_id(request_id: str) -> str:
    """The id of a request's reply."""
    return f"resp_{request_id}"


def response_object(head: ResponseHead, status: str, output: Sequence[Json] = (), **over: Any) -> Json:
    """A reply as an object."""
    return {
        "id": head.id,
        "object": "response",
        "created_at": head.created_at,
        "status": status,
        "background": False,
        "error": None,
        "incomplete_details": None,
        "model": head.model,
        "output": list(output),
        "usage": None,
        **head.shown,
        **over,
    }


def ended_response(head: ResponseHead, end: ChatEnd, output: Sequence[Json]) -> Json:
    """A reply that has come to its end, whatever that is."""
    counts = {"usage": usage_object(end.usage)}
    if (error := failure(end)) is not None:
        return response_object(head, "failed", output, error=_failure(error), **counts)
    if end.reason == "length":
        return response_object(head, "incomplete", output, incomplete_details={"reason": "max_output_tokens"}, **counts)
    return response_object(head, "completed", output, **counts)


def output_of(head: ResponseHead, reply: TextReply | ChatResult) -> list[Json]:
    """The items of a whole reply."""
    status = "incomplete" if reply.end.reason == "length" else "completed"
    items: list[Json] = []
    if reply.thinking:
        thought = _thought(head.thoughts, reply.thinking)
        items.append(_reasoning(head.thoughts, f"rs_{head.request_id}", status, [thought]))
    if reply.text or not reply.tool_calls:
        logprobs = reply.logprobs if head.logprobs else ()
        items.append(_message(f"msg_{head.request_id}", status, [_said(reply.text, logprobs)]))
    calls = enumerate(reply.tool_calls)
    return items + [
        _call(f"fc_{head.request_id}_{number}", call, "completed", call.arguments) for number, call in calls
    ]


def usage_object(usage: TokenUsage) -> Json:
    """Token counts in this path's form."""
    return {
        "input_tokens": usage.prompt_tokens,
        "input_tokens_details": {"cached_tokens": usage.cached_prompt_tokens, "cache_write_tokens": 0},
        "output_tokens": usage.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": usage.thinking_tokens},
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
    }


class ResponseWriter:
    """Writes one reply.

    A stream has its items one after another: each is added, grows by parts and is done; all events are numbered.
    """

    content_type = "text/event-stream"
    keep_alive = b": keep-alive\n\n"

    def __init__(self, head: ResponseHead) -> None:
        self._head = head
        self._number = 0
        self._done: list[Json] = []
        self._open: Kind | None = None
        """The kind of the item that grows."""
        self._thoughts: Kind = head.thoughts
        self._text: list[str] = []
        self._logprobs: list[TokenLogprob] = []
        self._counts = {"rs": 0, "msg": 0, "fc": 0}
        self._item_id = ""

    def whole(self, reply: TextReply) -> bytes:
        """The whole reply."""
        return encoded(ended_response(self._head, reply.end, output_of(self._head, reply)))

    def opening(self) -> bytes:
        """That the reply is there, and is being written."""
        response = response_object(self._head, "in_progress")
        created = self._event("response.created", {"response": response})
        return created + self._event("response.in_progress", {"response": response})

    def deltas(self, frames: Sequence[ChatFrame]) -> bytes:
        """The events for frames that arrived together; neighbouring text becomes one event."""
        events: list[bytes] = []
        text = thinking = ""
        logprobs: list[TokenLogprob] = []
        for frame in frames:
            if frame.thinking:
                events.append(self._grown("message", text, logprobs))
                text, logprobs = "", []
                thinking += frame.thinking
            if frame.text:
                events.append(self._grown(self._thoughts, thinking))
                thinking = ""
                text += frame.text
                logprobs += frame.logprobs
            if frame.tool_calls:
                events += [self._grown("message", text, logprobs), self._grown(self._thoughts, thinking)]
                text, thinking, logprobs = "", "", []
                events += [self._called(call) for call in frame.tool_calls]
        return b"".join([*events, self._grown("message", text, logprobs), self._grown(self._thoughts, thinking)])

    def closing(self, end: ChatEnd) -> bytes:
        """The end of the last item, and of the reply."""
        status = "incomplete" if end.reason == "length" else "completed"
        events = b"" if self._done or self._open else self._opened("message")
        events += self._closed(status)
        return events + self._event(f"response.{status}", {"response": ended_response(self._head, end, self._done)})

    def failure(self, error: ErrorInfo) -> bytes:
        """What went wrong, and the reply as far as it came."""
        events = self._closed("incomplete")
        fields = error_fields(error)
        told = {name: fields[name] for name in ("code", "message", "param")}
        failed = ended_response(self._head, ChatEnd(reason="error", error=error), self._done)
        return events + self._event("error", told) + self._event("response.failed", {"response": failed})

    def _grown(self, kind: Kind, text: str, logprobs: Sequence[TokenLogprob] = ()) -> bytes:
        """The events for more of an item, which is begun where another one was open."""
        if not text:
            return b""
        events = b"" if self._open == kind else self._closed() + self._opened(kind)
        self._text.append(text)
        _, text_event, index = _PARTS[kind]
        name = f"{text_event}.delta"
        rest = ""
        if kind == "message":
            self._logprobs += logprobs
            rest = f',"logprobs":{json.dumps(self._scored(logprobs), separators=(",", ":"))}'
        # Written by hand, since it is for every token.
        number = self._next()
        data = (
            f'{{"type":"{name}","sequence_number":{number},"item_id":"{self._item_id}",'
            f'"output_index":{len(self._done)},"{index}":0,"delta":{quoted(text)}{rest}}}'
        )
        return events + f"event: {name}\ndata: {data}\n\n".encode()

    def _opened(self, kind: Kind) -> bytes:
        self._open, self._text, self._logprobs = kind, [], []
        if kind == "message":
            self._item_id = self._fresh("msg")
            item, part = _message(self._item_id, "in_progress", []), _said("", ())
        else:
            self._item_id = self._fresh("rs")
            item, part = _reasoning(kind, self._item_id, "in_progress", []), _thought(kind, "")
        added = self._event("response.output_item.added", {"output_index": len(self._done), "item": item})
        return added + self._event(f"{_PARTS[kind][0]}.added", {**self._place(kind), "part": part})

    def _closed(self, status: str = "completed") -> bytes:
        """The events for the end of the item that grows, where there is one."""
        kind, text = self._open, "".join(self._text)
        if kind is None:
            return b""
        self._open = None
        place = self._place(kind)
        part_event, text_event, _ = _PARTS[kind]
        if kind == "message":
            part = _said(text, self._logprobs if self._head.logprobs else ())
            told = {**place, "text": text, "logprobs": self._scored(self._logprobs)}
            events = self._event(f"{text_event}.done", told)
            item = _message(self._item_id, status, [part])
        else:
            part = _thought(kind, text)
            events = self._event(f"{text_event}.done", {**place, "text": text})
            item = _reasoning(kind, self._item_id, status, [part])
        events += self._event(f"{part_event}.done", {**place, "part": part})
        return events + self._ended(item)

    def _called(self, call: ToolCall) -> bytes:
        number = self._counts["fc"]
        self._counts["fc"] += 1
        events = self._closed()
        self._item_id = f"fc_{self._head.request_id}_{number}"
        place = {"item_id": self._item_id, "output_index": len(self._done)}
        item = _call(self._item_id, call, "in_progress", "")
        events += self._event("response.output_item.added", {"output_index": len(self._done), "item": item})
        for start in range(0, len(call.arguments), ARGUMENT_CHARACTERS):
            piece = call.arguments[start : start + ARGUMENT_CHARACTERS]
            events += self._event("response.function_call_arguments.delta", {**place, "delta": piece})
        told = {**place, "name": call.name, "arguments": call.arguments}
        events += self._event("response.function_call_arguments.done", told)
        return events + self._ended(_call(self._item_id, call, "completed", call.arguments))

    def _ended(self, item: Json) -> bytes:
        index = len(self._done)
        self._done.append(item)
        return self._event("response.output_item.done", {"output_index": index, "item": item})

    def _fresh(self, kind: str) -> str:
        """The id of a new item; the first of a kind has no number."""
        number = self._counts[kind]
        self._counts[kind] += 1
        return f"{kind}_{self._head.request_id}" + (f"_{number}" if number else "")

    def _place(self, kind: Kind) -> Json:
        return {"item_id": self._item_id, "output_index": len(self._done), _PARTS[kind][2]: 0}

    def _scored(self, logprobs: Sequence[TokenLogprob]) -> list[Json]:
        return _logprobs(logprobs) if self._head.logprobs else []

    def _next(self) -> int:
        self._number += 1
        return self._number - 1

    def _event(self, name: str, fields: Json) -> bytes:
        data = {"type": name, "sequence_number": self._next(), **fields}
        # ASCII alone, so that no reader takes a line separator inside for the end of a line.
        return f"event: {name}\ndata: {json.dumps(data, separators=(',', ':'))}\n\n".encode()


def _message(item_id: str, status: str, content: list[Json]) -> Json:
    return {"id": item_id, "type": "message", "role": "assistant", "status": status, "content": content}


def _reasoning(kind: Kind, item_id: str, status: str, parts: list[Json]) -> Json:
    told: Json = {"summary": parts} if kind == "summary" else {"summary": [], "content": parts}
    return {"id": item_id, "type": "reasoning", **told, "status": status}


def _call(item_id: str, call: ToolCall, status: str, arguments: str) -> Json:
    found = {"id": item_id, "type": "function_call", "call_id": call.id, "name": call.name, "arguments": arguments}
    return {**found, "status": status}


def _said(text: str, logprobs: Sequence[TokenLogprob]) -> Json:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": _logprobs(logprobs)}


def _thought(kind: Kind, text: str) -> Json:
    return {"type": "summary_text" if kind == "summary" else "reasoning_text", "text": text}


def _logprobs(tokens: Sequence[TokenLogprob]) -> list[Json]:
    """Log probabilities in this path's form, whose bytes are never left out."""
    content: list[Json] = chat_logprobs(tokens)["content"]
    for one in content:
        for each in (one, *one["top_logprobs"]):
            each["bytes"] = each["bytes"] if each["bytes"] is not None else list(each["token"].encode())
    return content


def _failure(error: ErrorInfo) -> Json:
    code = "rate_limit_exceeded" if error.kind.status == 429 else "server_error"
    return {"code": code, "message": error.message}
