"""OpenAI's replies: the chunks of a stream, built by hand because they are written for every token, and whole ones."""

import json
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from json.encoder import encode_basestring_ascii as quoted
from typing import Any

from callboard_contracts.chat import ChatEnd, ChatFrame, TokenLogprob, TokenUsage, ToolCall
from callboard_contracts.errors import ErrorInfo
from callboard_edge.domain.text_stream import TextReply, failure
from callboard_edge.protocols.openai.errors import error_event
from callboard_edge.protocols.openai.logprobs import chat_logprobs, completion_logprobs

CHAT, CHAT_CHUNK = "chat.completion", "chat.completion.chunk"
COMPLETION = "text_completion"
DONE = b"data: [DONE]\n\n"
ARGUMENT_CHARACTERS = 256
"""So much of a tool call's arguments goes into one chunk."""


@dataclass(frozen=True, slots=True)
class ReplyHead:
    """What all chunks of a reply share.

    `logprobs` says whether log probabilities are told, `keeps_stop` whether the stop sequence that ends a reply is a
    part of it.
    """

    id: str
    model: str
    include_usage: bool = False
    logprobs: bool = False
    keeps_stop: bool = False
    created: int = field(default_factory=lambda: int(time.time()))


class ChunkWriter:
    """Writes one reply as server-sent events; `kind` and `piece` tell chat from completions.

    Text is escaped to ASCII, so that no reader takes a line separator inside it for the end of a line.
    """

    content_type = "text/event-stream"
    keep_alive = b": keep-alive\n\n"

    def __init__(self, head: ReplyHead, kind: str, piece: tuple[str, str], empty_piece: str, index: int = 0) -> None:
        self.reply = head
        self._index = index
        self._head = (
            f'data: {{"id":"{head.id}","object":"{kind}","created":{head.created},'
            f'"model":{quoted(head.model)},"choices":['
        )
        usage = ',"usage":null' if head.include_usage else ""
        self._tail = f"]{usage}}}\n\n"
        before, after = piece
        self._choice_head = f'{self._head}{{"index":{index},'
        self._piece_head = self._choice_head + before
        self._after_text = after
        self._piece_tail = f'{after},"logprobs":null,"finish_reason":null}}{self._tail}'
        self._empty_piece = empty_piece

    def opening(self) -> bytes:
        """Nothing."""
        return b""

    def deltas(self, frames: Sequence[ChatFrame]) -> bytes:
        """The chunks for frames that arrived together; neighbouring text becomes one chunk."""
        if not self.reply.logprobs:
            said = ""
            for frame in frames:
                if frame.thinking or frame.tool_calls:
                    break
                said += frame.text
            else:
                return self.piece(said).encode() if said else b""
        events: list[str] = []
        text = thinking = ""
        logprobs: list[TokenLogprob] = []
        for frame in frames:
            if frame.thinking:
                events += self._said(text, logprobs)
                text, logprobs = "", []
                thinking += frame.thinking
            if frame.text or (frame.logprobs and not frame.thinking):
                events += self._thought(thinking)
                thinking = ""
                text += frame.text
                logprobs += frame.logprobs
            if frame.tool_calls:
                events += [*self._said(text, logprobs), *self._thought(thinking)]
                text, thinking, logprobs = "", "", []
                events += [self.called(call) for call in frame.tool_calls]
        events += [*self._said(text, logprobs), *self._thought(thinking)]
        return "".join(events).encode()

    def closing(self, end: ChatEnd) -> bytes:
        """The last chunks: why the reply ended, and what it used where that was asked for."""
        return self.finished(end) + (self.counted(end.usage) if self.reply.include_usage else DONE)

    def finished(self, end: ChatEnd) -> bytes:
        """The chunk that says why the reply ended."""
        stop = self.kept_stop(end) if self.reply.keeps_stop else ""
        reason = f'"logprobs":null,"finish_reason":"{end.reason}"'
        last = f"{self._choice_head}{self._empty_piece},{reason}}}{self._tail}"
        return ((self.piece(stop) if stop else "") + last).encode()

    def kept_stop(self, end: ChatEnd) -> str:
        """The stop sequence that ended the reply, where it is a part of it."""
        return (end.stop_sequence or "") if self.reply.keeps_stop else ""

    def counted(self, usage: TokenUsage) -> bytes:
        """The last chunks of a stream: what it used, where that was asked for, and the mark of its end."""
        return self.usage_chunk(usage_object(usage))

    def usage_chunk(self, usage: dict[str, Any]) -> bytes:
        """Counts in OpenAI's form, where they were asked for, and the mark of the end."""
        if not self.reply.include_usage:
            return DONE
        return f'{self._head}],"usage":{json.dumps(usage, separators=(",", ":"))}}}\n\n'.encode() + DONE

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
        return f'{self._choice_head}"delta":{delta},"logprobs":null,"finish_reason":null}}{self._tail}'

    def logprobs_of(self, tokens: Sequence[TokenLogprob]) -> dict[str, Any]:
        """The log probabilities of the next tokens."""
        return chat_logprobs(tokens)

    def _said(self, text: str, logprobs: Sequence[TokenLogprob]) -> list[str]:
        if self.reply.logprobs and logprobs:
            found = json.dumps(self.logprobs_of(logprobs), separators=(",", ":"))
            rest = f'{self._after_text},"logprobs":{found},"finish_reason":null}}{self._tail}'
            return [f"{self._piece_head}{quoted(text)}{rest}"]
        return [self.piece(text)] if text else []

    def _thought(self, thinking: str) -> list[str]:
        return [self.thought(thinking)] if thinking else []


class ChatWriter(ChunkWriter):
    """Writes the reply to a conversation."""

    kind = CHAT

    def __init__(self, head: ReplyHead, index: int = 0) -> None:
        super().__init__(head, CHAT_CHUNK, ('"delta":{"content":', "}"), '"delta":{}', index)
        self._tool_calls = 0

    def opening(self) -> bytes:
        """The first chunk, which names the role."""
        return self.delta('{"role":"assistant","content":""}').encode()

    def thought(self, thinking: str) -> str:
        """A chunk of reasoning."""
        return self.delta(f'{{"reasoning_content":{quoted(thinking)}}}')

    def called(self, call: ToolCall) -> str:
        """The chunks of a tool call, as clients put them together: its name, then its arguments piece by piece."""
        index = self._tool_calls
        self._tool_calls += 1
        opening = (
            f'{{"tool_calls":[{{"index":{index},"id":{quoted(call.id)},"type":"function",'
            f'"function":{{"name":{quoted(call.name)},"arguments":""}}}}]}}'
        )
        starts = range(0, len(call.arguments), ARGUMENT_CHARACTERS)
        pieces = [call.arguments[start : start + ARGUMENT_CHARACTERS] for start in starts]
        deltas = [
            opening,
            *(f'{{"tool_calls":[{{"index":{index},"function":{{"arguments":{quoted(piece)}}}}}]}}' for piece in pieces),
        ]
        return "".join(map(self.delta, deltas))

    def whole(self, reply: TextReply) -> bytes:
        """The whole reply."""
        return encoded(self.answer(reply))

    def answer(self, reply: TextReply) -> dict[str, Any]:
        """The whole reply as an object."""
        return _answer(self.reply, CHAT, [self.choice(reply)], [reply.end])

    def choice(self, reply: TextReply) -> dict[str, Any]:
        """The whole reply as one of the choices of an answer."""
        text = reply.text + self.kept_stop(reply.end)
        message: dict[str, Any] = {
            "role": "assistant",
            "content": text if text or not reply.tool_calls else None,
            "refusal": None,
        }
        if reply.thinking:
            message["reasoning_content"] = reply.thinking
        if reply.tool_calls:
            message["tool_calls"] = [
                {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
                for call in reply.tool_calls
            ]
        logprobs = self.logprobs_of(reply.logprobs) if self.reply.logprobs and reply.logprobs else None
        return _choice(self._index, {"message": message}, reply.end, logprobs)


class CompletionWriter(ChunkWriter):
    """Writes the continuation of a text, after an `echo` of its beginning where that was asked for."""

    kind = COMPLETION

    def __init__(self, head: ReplyHead, *, echo: str, index: int = 0) -> None:
        super().__init__(head, COMPLETION, ('"text":', ""), '"text":""', index)
        self._echo = echo
        self._offset = 0

    def opening(self) -> bytes:
        """The echo."""
        return self.piece(self._echo).encode() if self._echo else b""

    def whole(self, reply: TextReply) -> bytes:
        """The whole continuation."""
        return encoded(_answer(self.reply, COMPLETION, [self.choice(reply)], [reply.end]))

    def choice(self, reply: TextReply) -> dict[str, Any]:
        """The continuation as one of the choices of an answer."""
        logprobs = self.logprobs_of(reply.logprobs) if self.reply.logprobs and reply.logprobs else None
        text = self._echo + reply.text + self.kept_stop(reply.end)
        return _choice(self._index, {"text": text}, reply.end, logprobs)

    def logprobs_of(self, tokens: Sequence[TokenLogprob]) -> dict[str, Any]:
        """The log probabilities of the next tokens."""
        found = completion_logprobs(tokens, self._offset)
        self._offset += sum(len(one.token) for one in tokens)
        return found


class ChoicesWriter:
    """Writes several replies as the choices of one answer, each with a writer of its own.

    Of each prompt's replies the best are answered: `best` says how many, and of how many.
    """

    content_type = ChunkWriter.content_type
    keep_alive = ChunkWriter.keep_alive

    def __init__(
        self, writers: Sequence[ChatWriter] | Sequence[CompletionWriter], best: tuple[int, int] = (1, 1)
    ) -> None:
        self._writers = writers
        self._best = best
        self._begun: set[int] = set()

    def whole(self, replies: Sequence[TextReply]) -> bytes:
        """All replies."""
        answered, written = self._best
        kept: list[TextReply] = []
        for start in range(0, len(replies), written):
            rivals = replies[start : start + written]
            kept += sorted(rivals, key=_likelihood, reverse=True)[:answered] if answered < written else rivals
        choices = [writer.choice(reply) for writer, reply in zip(self._writers, kept, strict=True)]
        first = self._writers[0]
        return encoded(_answer(first.reply, first.kind, choices, [reply.end for reply in replies]))

    def deltas(self, index: int, frames: Sequence[ChatFrame]) -> bytes:
        """The chunks for some frames of one reply, and for its end."""
        writer, end = self._writers[index], frames[-1].end
        opening = b"" if index in self._begun else writer.opening()
        self._begun.add(index)
        finished = writer.finished(end) if end is not None and failure(end) is None else b""
        return opening + writer.deltas(frames) + finished

    def closing(self, ends: Sequence[ChatEnd]) -> bytes:
        """What all replies used together, and the mark of the end."""
        return self._writers[0].counted(_sum(ends))

    def failure(self, error: ErrorInfo) -> bytes:
        """The error as an event."""
        return self._writers[0].failure(error)


def usage_object(usage: TokenUsage) -> dict[str, Any]:
    """Token counts in OpenAI's form."""
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_prompt_tokens},
        "completion_tokens_details": {"reasoning_tokens": usage.thinking_tokens},
    }


def _sum(ends: Sequence[ChatEnd]) -> TokenUsage:
    usages = [end.usage for end in ends]
    return TokenUsage(
        prompt_tokens=sum(usage.prompt_tokens for usage in usages),
        completion_tokens=sum(usage.completion_tokens for usage in usages),
        cached_prompt_tokens=sum(usage.cached_prompt_tokens for usage in usages),
        thinking_tokens=sum(usage.thinking_tokens for usage in usages),
    )


def _likelihood(reply: TextReply) -> float:
    """How likely the engine held a reply to be, by the mean of its tokens."""
    return sum(one.logprob for one in reply.logprobs) / len(reply.logprobs) if reply.logprobs else -math.inf


def _choice(index: int, content: dict[str, Any], end: ChatEnd, logprobs: dict[str, Any] | None) -> dict[str, Any]:
    return {"index": index, **content, "logprobs": logprobs, "finish_reason": end.reason}


def _answer(head: ReplyHead, kind: str, choices: list[dict[str, Any]], ends: Sequence[ChatEnd]) -> dict[str, Any]:
    return {
        "id": head.id,
        "object": kind,
        "created": head.created,
        "model": head.model,
        "choices": choices,
        "usage": usage_object(_sum(ends)),
    }


def encoded(answer: dict[str, Any]) -> bytes:
    """An answer as JSON."""
    return json.dumps(answer, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")
