"""A chat engine that costs next to nothing: an OpenAI-compatible server that streams 32 tokens at once.

It runs as a process of its own and speaks only as much HTTP as the clients of the benchmark need, so that what is
measured is Callboard and not the engine.
"""

import asyncio
import json
import re
import sys
import time
from collections import deque
from typing import cast

import uvloop

TOKENS = 32
WORDS = tuple(f"tok{n} " for n in range(TOKENS))
TEXT = "".join(WORDS)
MODEL = "mock"
PROMPT_TOKENS = 9
_REMEMBERED = 20_000

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_STREAMED = re.compile(rb'"stream": ?true')
_WITH_USAGE = re.compile(rb'"include_usage": ?true')


def _chunk(choices: list[object], usage: object = None) -> dict[str, object]:
    return {
        "id": "chatcmpl-mock",
        "object": "chat.completion.chunk",
        "created": 1_700_000_000,
        "model": MODEL,
        "choices": choices,
        "usage": usage,
    }


_USAGE = {
    "prompt_tokens": PROMPT_TOKENS,
    "completion_tokens": TOKENS,
    "total_tokens": PROMPT_TOKENS + TOKENS,
}


def _choice(delta: object, finish: str | None = None) -> dict[str, object]:
    return {"index": 0, "delta": delta, "finish_reason": finish}


def _event(payload: object) -> bytes:
    line = b"data: " + json.dumps(payload, separators=(",", ":")).encode() + b"\n\n"
    return f"{len(line):x}\r\n".encode() + line + b"\r\n"


def _continued(text: str, finish: str | None = None) -> dict[str, object]:
    return {"index": 0, "text": text, "finish_reason": finish}


def _stream(*, usage: bool, chat: bool = True) -> bytes:
    if chat:
        events = [_event(_chunk([_choice({"role": "assistant", "content": ""})]))]
        events += [_event(_chunk([_choice({"content": word})])) for word in WORDS]
        events.append(_event(_chunk([_choice({}, "stop")])))
    else:
        events = [_event(_chunk([_continued(word)])) for word in WORDS]
        events.append(_event(_chunk([_continued("", "stop")])))
    if usage:
        events.append(_event(_chunk([], _USAGE)))
    done = b"data: [DONE]\n\n"
    body = b"".join(events) + f"{len(done):x}\r\n".encode() + done + b"\r\n0\r\n\r\n"
    return b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n" + body


def _json(payload: object, status: bytes = b"200 OK") -> bytes:
    body = json.dumps(payload).encode()
    head = b"HTTP/1.1 %b\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % (status, len(body))
    return head + body


_STREAM = _stream(usage=False)
_STREAM_WITH_USAGE = _stream(usage=True)
_CONTINUED = _stream(usage=False, chat=False)
_CONTINUED_WITH_USAGE = _stream(usage=True, chat=False)
_WHOLE = _json(
    {
        "id": "chatcmpl-mock",
        "object": "chat.completion",
        "created": 1_700_000_000,
        "model": MODEL,
        "choices": [{"index": 0, "message": {"role": "assistant", "content": TEXT}, "finish_reason": "stop"}],
        "usage": _USAGE,
    }
)
_MODELS = _json(
    {"object": "list", "data": [{"id": MODEL, "object": "model", "created": 1_700_000_000, "owned_by": "bench"}]}
)
_NOT_FOUND = _json({"error": {"message": "not served", "type": "invalid_request_error"}}, b"404 Not Found")

arrivals: deque[int] = deque(maxlen=_REMEMBERED)
"""When each request's last byte arrived, on the machine's monotonic clock in nanoseconds."""


class Engine(asyncio.Protocol):
    """One connection of the mock engine."""

    def __init__(self) -> None:
        self._buffer = b""
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Remembers where answers go."""
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        """Answers every request that has arrived in full."""
        self._buffer += data
        while (head_end := self._buffer.find(b"\r\n\r\n")) >= 0:
            head = self._buffer[:head_end]
            length = _LENGTH.search(head)
            end = head_end + 4 + (int(length.group(1)) if length else 0)
            if len(self._buffer) < end:
                return
            body = self._buffer[head_end + 4 : end]
            self._buffer = self._buffer[end:]
            assert self._transport is not None
            self._transport.write(_answer(head, body))


def _answer(head: bytes, body: bytes) -> bytes:
    if head.startswith(b"POST /v1/chat/completions"):
        arrivals.append(time.monotonic_ns())
        if not _STREAMED.search(body):
            return _WHOLE
        return _STREAM_WITH_USAGE if _WITH_USAGE.search(body) else _STREAM
    if head.startswith(b"POST /v1/completions"):
        return _CONTINUED_WITH_USAGE if _WITH_USAGE.search(body) else _CONTINUED
    if head.startswith(b"GET /v1/models"):
        return _MODELS
    if head.startswith(b"GET /arrivals"):
        return _json(list(arrivals))
    return _NOT_FOUND


async def serve(port: int) -> None:
    """Serves until the process is ended."""
    server = await asyncio.get_running_loop().create_server(Engine, "127.0.0.1", port)
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1])))
