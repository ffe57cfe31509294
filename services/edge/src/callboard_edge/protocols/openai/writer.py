"""OpenAI's stream of chunks, built by hand because it is written for every token."""

import time
from collections.abc import Sequence
from json.encoder import encode_basestring_ascii as quoted

from callboard_contracts.chat import ChatFrame, TokenUsage, ToolCall

DONE = b"data: [DONE]\n\n"
KEEP_ALIVE = b": keep-alive\n\n"
KEEP_ALIVE_S = 15.0


class ChunkWriter:
    """Writes the events of one streamed reply; all of its chunks share id, time and model.

    Text is escaped to ASCII, so that no reader takes a line separator inside it for the end of a line.
    """

    def __init__(self, request_id: str, model: str, *, chat: bool, include_usage: bool) -> None:
        kind, prefix = ("chat.completion.chunk", "chatcmpl") if chat else ("text_completion", "cmpl")
        self._chat = chat
        self._include_usage = include_usage
        self._head = (
            f'data: {{"id":"{prefix}-{request_id}","object":"{kind}","created":{int(time.time())},'
            f'"model":{quoted(model)},"choices":['
        )
        usage = ',"usage":null' if include_usage else ""
        self._tail = f"]{usage}}}\n\n"
        self._piece_head = self._head + '{"index":0,' + ('"delta":{"content":' if chat else '"text":')
        self._piece_tail = ("}" if chat else "") + ',"logprobs":null,"finish_reason":null}' + self._tail
        self._tool_calls = 0

    def opening(self) -> str:
        """The first chunk of a chat reply, which names the role; a completion has none."""
        if not self._chat:
            return ""
        return self._delta('{"role":"assistant","content":""}')

    def piece(self, text: str) -> str:
        """A chunk of text."""
        return f"{self._piece_head}{quoted(text)}{self._piece_tail}"

    def frames(self, frames: Sequence[ChatFrame]) -> str:
        """The chunks for frames that arrived together; neighbouring text becomes one chunk."""
        if len(frames) == 1 and not frames[0].thinking and not frames[0].tool_calls:
            return self.piece(frames[0].text) if frames[0].text else ""
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
                    events.append(self._thought(thinking))
                    thinking = ""
                text += frame.text
            if frame.tool_calls:
                events += self._flushed(text, thinking)
                text = thinking = ""
                events += [self._called(call) for call in frame.tool_calls]
        events += self._flushed(text, thinking)
        return "".join(events)

    def closing(self, finish_reason: str, usage: TokenUsage) -> str:
        """The last chunks: why the reply ended, and what it used where that was asked for."""
        body = '"delta":{}' if self._chat else '"text":""'
        event = f'{self._head}{{"index":0,{body},"logprobs":null,"finish_reason":"{finish_reason}"}}{self._tail}'
        if self._include_usage:
            total = usage.prompt_tokens + usage.completion_tokens
            event += (
                f'{self._head}],"usage":{{"prompt_tokens":{usage.prompt_tokens},'
                f'"completion_tokens":{usage.completion_tokens},"total_tokens":{total}}}}}\n\n'
            )
        return event

    def _flushed(self, text: str, thinking: str) -> list[str]:
        events = [self._thought(thinking)] if thinking else []
        return [*events, self.piece(text)] if text else events

    def _thought(self, thinking: str) -> str:
        if not self._chat:
            return ""
        return self._delta(f'{{"reasoning_content":{quoted(thinking)}}}')

    def _called(self, call: ToolCall) -> str:
        if not self._chat:
            return ""
        index = self._tool_calls
        self._tool_calls += 1
        return self._delta(
            f'{{"tool_calls":[{{"index":{index},"id":{quoted(call.id)},"type":"function",'
            f'"function":{{"name":{quoted(call.name)},"arguments":{quoted(call.arguments)}}}}}]}}'
        )

    def _delta(self, delta: str) -> str:
        return f'{self._head}{{"index":0,"delta":{delta},"logprobs":null,"finish_reason":null}}{self._tail}'
