"""OpenAI's replies: the chunks of a stream, built by hand because they are written for every token, and whole ones."""

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from json.encoder import encode_basestring_ascii as quoted
from typing import Any

from callboard_contracts.chat import ChatEnd, ChatFrame, TokenUsage, ToolCall
from callboard_contracts.errors import ErrorInfo
from callboard_edge.domain.text_stream import TextReply
from callboard_edge.protocols.openai.errors import error_event

DONE = b"data: [DONE]\n\n"


@dataclass(frozen=True, slots=True)
class ReplyHead:
    """What all chunks of a reply share."""

    id: str
    model: str
    include_usage: bool = False


class ChunkWriter:
    """Writes one reply as server-sent events; `kind` and `piece` tell chat from completions.

    Text is escaped to ASCII, so that no reader takes a line separator inside it for the end of a line.
    """

    content_type = "text/event-stream"
    keep_alive = b": keep-alive\n\n"

    def __init__(self, head: ReplyHead, kind: str, piece: tuple[str, str], empty_piece: str) -> None:
        self._include_usage = head.include_usage
        self._head = (
            f'data: {{"id":"{head.id}","object":"{kind}","created":{int(time.time())},'
            f'"model":{quoted(head.model)},"choices":['
        )
        usage = ',"usage":null' if head.include_usage else ""
        self._tail = f"]{usage}}}\n\n"
        before, after = piece
        self._piece_head = f'{self._head}{{"index":0,{before}'
        self._piece_tail = f'{after},"logprobs":null,"finish_reason":null}}{self._tail}'
        self._empty_piece = empty_piece

    def opening(self) -> bytes:
        """Nothing."""
        return b""

    def deltas(self, frames: Sequence[ChatFrame]) -> bytes:
        """The chunks for frames that arrived together; neighbouring text becomes one chunk."""
        if len(frames) == 1 and not frames[0].thinking and not frames[0].tool_calls:
            return self.piece(frames[0].text).encode() if frames[0].text else b""
        events: list[str] = []
        text = thinking = ""
        for frame in frames:
            if frame.thinking:
                if text:
                    events.append(self.piece(text))
                    text = ""
                thinking += frame.thinking
            if frame.text:
                if thinking:
                    events.append(self.thought(thinking))
                    thinking = ""
                text += frame.text
            if frame.tool_calls:
                events += self._flushed(text, thinking)
                text = thinking = ""
                events += [self.called(call) for call in frame.tool_calls]
        events += self._flushed(text, thinking)
        return "".join(events).encode()

    def closing(self, end: ChatEnd) -> bytes:
        """The last chunks: why the reply ended, and what it used where that was asked for."""
        event = (
            f'{self._head}{{"index":0,{self._empty_piece},"logprobs":null,"finish_reason":"{end.reason}"}}{self._tail}'
        )
        if self._include_usage:
            usage = json.dumps(usage_object(end.usage), separators=(",", ":"))
            event += f'{self._head}],"usage":{usage}}}\n\n'
        return event.encode() + DONE

    def failure(self, error: ErrorInfo) -> bytes:
        """The error as an event."""
        return error_event(error) + DONE

    def piece(self, text: str) -> str:
        """A chunk of text."""
        return f"{self._piece_head}{quoted(text)}{self._piece_tail}"

    def thought(self, thinking: str) -> str:
        """A chunk of reasoning; nothing where the protocol has no place for it."""
        del thinking
        return ""

    def called(self, call: ToolCall) -> str:
        """A chunk with a tool call; nothing where the protocol has no place for it."""
        del call
        return ""

    def delta(self, delta: str) -> str:
        """A chunk with any delta."""
        return f'{self._head}{{"index":0,"delta":{delta},"logprobs":null,"finish_reason":null}}{self._tail}'

    def _flushed(self, text: str, thinking: str) -> list[str]:
        events = [self.thought(thinking)] if thinking else []
        return [*events, self.piece(text)] if text else events


class ChatWriter(ChunkWriter):
    """Writes the reply to a conversation."""

    def __init__(self, request_id: str, model: str, *, include_usage: bool) -> None:
        self._reply = ReplyHead(f"chatcmpl-{request_id}", model, include_usage)
        super().__init__(self._reply, "chat.completion.chunk", ('"delta":{"content":', "}"), '"delta":{}')
        self._tool_calls = 0

    def opening(self) -> bytes:
        """The first chunk, which names the role."""
        return self.delta('{"role":"assistant","content":""}').encode()

    def thought(self, thinking: str) -> str:
        """A chunk of reasoning."""
        return self.delta(f'{{"reasoning_content":{quoted(thinking)}}}')

    def called(self, call: ToolCall) -> str:
        """A chunk with a whole tool call."""
        index = self._tool_calls
        self._tool_calls += 1
        return self.delta(
            f'{{"tool_calls":[{{"index":{index},"id":{quoted(call.id)},"type":"function",'
            f'"function":{{"name":{quoted(call.name)},"arguments":{quoted(call.arguments)}}}}}]}}'
        )

    def whole(self, reply: TextReply) -> bytes:
        """The whole reply."""
        message: dict[str, Any] = {
            "role": "assistant",
            "content": reply.text if reply.text or not reply.tool_calls else None,
            "refusal": None,
        }
        if reply.thinking:
            message["reasoning_content"] = reply.thinking
        if reply.tool_calls:
            message["tool_calls"] = [
                {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
                for call in reply.tool_calls
            ]
        return _whole(self._reply, "chat.completion", {"message": message}, reply.end)


class CompletionWriter(ChunkWriter):
    """Writes the continuation of a text, after an `echo` of its beginning where that was asked for."""

    def __init__(self, request_id: str, model: str, *, include_usage: bool, echo: str) -> None:
        self._reply = ReplyHead(f"cmpl-{request_id}", model, include_usage)
        super().__init__(self._reply, "text_completion", ('"text":', ""), '"text":""')
        self._echo = echo

    def opening(self) -> bytes:
        """The echo."""
        return self.piece(self._echo).encode() if self._echo else b""

    def whole(self, reply: TextReply) -> bytes:
        """The whole continuation."""
        return _whole(self._reply, "text_completion", {"text": self._echo + reply.text}, reply.end)


def usage_object(usage: TokenUsage) -> dict[str, Any]:
    """Token counts in OpenAI's form."""
    counts: dict[str, Any] = {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
    }
    if usage.cached_prompt_tokens:
        counts["prompt_tokens_details"] = {"cached_tokens": usage.cached_prompt_tokens}
    return counts


def _whole(head: ReplyHead, kind: str, content: dict[str, Any], end: ChatEnd) -> bytes:
    answer = {
        "id": head.id,
        "object": kind,
        "created": int(time.time()),
        "model": head.model,
        "choices": [{"index": 0, **content, "logprobs": None, "finish_reason": end.reason}],
        "usage": usage_object(end.usage),
    }
    return json.dumps(answer, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")
