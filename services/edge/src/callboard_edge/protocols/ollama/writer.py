"""Replies in Ollama's form: one JSON object to a line, written by hand because there is one for every token."""

import json
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from json.encoder import encode_basestring_ascii as quoted
from typing import Any

from callboard_contracts.chat import ChatEnd, ChatFrame, TokenLogprob, ToolCall
from callboard_contracts.errors import ErrorInfo
from callboard_edge.domain.text_stream import TextReply
from callboard_edge.protocols.ollama.errors import error_object

NDJSON = "application/x-ndjson"
NANOSECONDS_PER_S = 1_000_000_000
_REASONS = {"length": "length"}
"""Why a reply ended where that is not `stop`, which is Ollama's word for a tool call too."""


def now() -> str:
    """The time as Ollama writes it."""
    return datetime.now(UTC).isoformat().replace("+00:00", "Z")


class OllamaWriter:
    """Writes one reply under the name that its client has for the model.

    A stream has no blank lines, so that it is kept alive by a piece that adds nothing. Text is escaped to ASCII, since
    some readers take more than LF for the end of a line. `started_s` is when the request came, by `perf_counter`.
    """

    content_type = NDJSON

    def __init__(self, model: str, started_s: float) -> None:
        self._head = f'{{"model":{quoted(model)},"created_at":"'
        self._started_s = started_s
        self._calls = 0

    @property
    def keep_alive(self) -> bytes:
        """A piece that adds nothing."""
        return self._line(self.piece("", ""))

    def opening(self) -> bytes:
        """Nothing."""
        return b""

    def deltas(self, frames: Sequence[ChatFrame]) -> bytes:
        """What frames that arrived together add, as one object."""
        text = "".join([frame.text for frame in frames])
        thinking = "".join([frame.thinking for frame in frames])
        calls = [call for frame in frames for call in frame.tool_calls]
        logprobs = [one for frame in frames for one in frame.logprobs]
        if not (text or thinking or calls):
            return b""
        return self._line(self.piece(text, thinking, calls) + logprobs_field(logprobs))

    def closing(self, end: ChatEnd) -> bytes:
        """The last object: why the reply ended, and the counters."""
        return self._line(self.piece("", ""), self.counters(end))

    def failure(self, error: ErrorInfo) -> bytes:
        """The error as the last object."""
        return json.dumps(error_object(error), separators=(",", ":")).encode() + b"\n"

    def whole(self, reply: TextReply) -> bytes:
        """The whole reply as one object."""
        added = self.piece(reply.text, reply.thinking, reply.tool_calls) + logprobs_field(reply.logprobs)
        return self._line(added, self.counters(reply.end)).rstrip(b"\n")

    def piece(self, text: str, thinking: str, calls: Sequence[ToolCall] = ()) -> str:
        """The fields of what is added to a reply to a conversation."""
        more = f',"thinking":{quoted(thinking)}' if thinking else ""
        if calls:
            more += f',"tool_calls":[{",".join([self._called(call) for call in calls])}]'
        return f'"message":{{"role":"assistant","content":{quoted(text)}{more}}}'

    def counters(self, end: ChatEnd) -> str:
        """The fields of an end: times in nanoseconds, those that nobody measured left out."""
        durations, usage = end.durations, end.usage
        fields: dict[str, Any] = {
            "done_reason": _REASONS.get(end.reason, "stop"),
            "total_duration": nanoseconds(time.perf_counter() - self._started_s),
            "load_duration": nanoseconds(durations.load_s),
            "prompt_eval_count": usage.prompt_tokens,
            "prompt_eval_duration": nanoseconds(durations.prompt_s),
            "eval_count": usage.completion_tokens,
            "eval_duration": nanoseconds(durations.generate_s),
        }
        return json.dumps({key: value for key, value in fields.items() if value is not None}, separators=(",", ":"))

    def _line(self, added: str, counters: str | None = None) -> bytes:
        done = '"done":false}' if counters is None else f'"done":true,{counters[1:]}'
        return f'{self._head}{now()}",{added},{done}\n'.encode()

    def _called(self, call: ToolCall) -> str:
        index = self._calls
        self._calls += 1
        function = {"index": index, "name": call.name, "arguments": _arguments(call.arguments)}
        return json.dumps({"id": call.id, "function": function}, separators=(",", ":"))


class GenerateWriter(OllamaWriter):
    """Writes the reply to a prompt; `context` tells of the whole text what stands for the conversation."""

    def __init__(self, model: str, started_s: float, context: Callable[[str], Sequence[int]] | None = None) -> None:
        super().__init__(model, started_s)
        self._context = context
        self._text: list[str] = []

    def piece(self, text: str, thinking: str, calls: Sequence[ToolCall] = ()) -> str:
        """The fields of what is added to a reply to a prompt."""
        del calls
        if text and self._context is not None:
            self._text.append(text)
        more = f',"thinking":{quoted(thinking)}' if thinking else ""
        return f'"response":{quoted(text)}{more}'

    def counters(self, end: ChatEnd) -> str:
        """The fields of an end, and the conversation."""
        found = super().counters(end)
        if self._context is None:
            return found
        numbers = json.dumps(list(self._context("".join(self._text))), separators=(",", ":"))
        return f'{{"context":{numbers},{found[1:]}'


def empty_reply(model: str, reason: str, *, chat: bool) -> dict[str, Any]:
    """The answer to a request that has nothing to reply to: a model is loaded, or unloaded."""
    said: dict[str, Any] = {"message": {"role": "assistant", "content": ""}} if chat else {"response": ""}
    return {"model": model, "created_at": now(), **said, "done": True, "done_reason": reason}


def logprobs_field(logprobs: Sequence[TokenLogprob]) -> str:
    """The field with log probabilities, where there are some."""
    if not logprobs:
        return ""
    found = [{**_token(one), "top_logprobs": [_token(other) for other in one.top]} for one in logprobs]
    return f',"logprobs":{json.dumps(found, separators=(",", ":"))}'


def nanoseconds(seconds: float | None) -> int | None:
    """Seconds as Ollama counts time."""
    return None if seconds is None else round(seconds * NANOSECONDS_PER_S)


def _token(one: TokenLogprob) -> dict[str, Any]:
    return {"token": one.token, "logprob": one.logprob, "bytes": list(one.token.encode("utf-8", "replace"))}


def _arguments(text: str) -> dict[str, Any]:
    """A call's arguments, which the model wrote as JSON text."""
    try:
        found = json.loads(text or "{}")
    except (ValueError, RecursionError):
        found = None
    return found if isinstance(found, dict) else {}
