"""Continuations in KoboldCpp's form: events with LF, and whole ones."""

import json
from collections.abc import Callable, Sequence
from json.encoder import encode_basestring_ascii as quoted
from typing import Any

from callboard_contracts.chat import ChatEnd, ChatFrame, TokenLogprob, ToolCall
from callboard_contracts.errors import ErrorInfo
from callboard_edge.domain.text_stream import TextReply
from callboard_edge.protocols.kobold.errors import error_object


class KoboldWriter:
    """Writes one continuation.

    KoboldAI Lite reads an event only where `data:` stands on the line below `event:` and all lines end in LF. Without
    `trims_stop` the stop sequence that ended the reply is a part of it. `tidy` changes a whole reply's text; `on_end`
    is told how the reply ended.
    """

    content_type = "text/event-stream"
    keep_alive = b": keep-alive\n\n"

    def __init__(
        self, *, trims_stop: bool, on_end: Callable[[ChatEnd], None], tidy: Callable[[str], str] | None = None
    ) -> None:
        self._trims_stop = trims_stop
        self._tidy = tidy
        self._on_end = on_end

    def opening(self) -> bytes:
        """Nothing."""
        return b""

    def deltas(self, frames: Sequence[ChatFrame]) -> bytes:
        """The text of frames that arrived together, as one event; thinking has no place here."""
        text = "".join(frame.text for frame in frames)
        return _event(text, "null") if text else b""

    def closing(self, end: ChatEnd) -> bytes:
        """The last event: why the reply ended."""
        self._on_end(end)
        return _event(self._stop_sequence(end), quoted(end.reason))

    def failure(self, error: ErrorInfo) -> bytes:
        """The last event of a reply that failed; `error` is what SillyTavern shows."""
        found = error_object(error)
        data = {"token": "", "finish_reason": "error", "error": {"message": error.message, **found}}
        return b"event: message\ndata: " + json.dumps(data).encode() + b"\n\n"

    def whole(self, reply: TextReply) -> bytes:
        """The whole continuation."""
        end = reply.end
        self._on_end(end)
        text = reply.text + self._stop_sequence(end)
        result = {
            "text": self._tidy(text) if self._tidy else text,
            "finish_reason": end.reason,
            "tool_calls": [_called(call) for call in reply.tool_calls],
            "logprobs": logprobs_object(reply.logprobs),
            "prompt_tokens": end.usage.prompt_tokens,
            "completion_tokens": end.usage.completion_tokens,
        }
        return json.dumps({"results": [result]}, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")

    def _stop_sequence(self, end: ChatEnd) -> str:
        return "" if self._trims_stop else end.stop_sequence or ""


def logprobs_object(logprobs: Sequence[TokenLogprob]) -> dict[str, Any] | None:
    """Log probabilities in KoboldCpp's two forms; None where there are none."""
    if not logprobs:
        return None
    offsets: list[int] = []
    offset = 0
    for one in logprobs:
        offsets.append(offset)
        offset += len(one.token)
    return {
        "content": [{**_token(one), "top_logprobs": [_token(other) for other in one.top]} for one in logprobs],
        "tokens": [one.token for one in logprobs],
        "token_ids": [one.token_id for one in logprobs],
        "token_logprobs": [one.logprob for one in logprobs],
        "top_logprobs": [{other.token: other.logprob for other in one.top} for one in logprobs],
        "text_offset": offsets,
    }


def _token(one: TokenLogprob) -> dict[str, Any]:
    text = list(one.token.encode("utf-8", "replace"))
    return {"token": one.token, "token_id": one.token_id, "logprob": one.logprob, "bytes": text}


def _called(call: ToolCall) -> dict[str, Any]:
    return {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}


def _event(text: str, reason: str) -> bytes:
    return f'event: message\ndata: {{"token": {quoted(text)}, "finish_reason": {reason}}}\n\n'.encode()
