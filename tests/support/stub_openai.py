"""A small OpenAI-compatible chat server with a fixed reply and faults on demand.

Its reply is the same list of tokens every time; after a trailing assistant message it goes on from where that message
ends, as engines with prefill do. A test steers it through `script`, another process through `/control`. It runs inside
a test or alone: `python -m tests.support.stub_openai --port 0`, which prints its address.
"""

import argparse
import asyncio
import base64
import dataclasses
import json
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from callboard_contracts.embedding import packed


@dataclass
class Script:
    """What the next requests meet; counts run down by one with each request that they befall."""

    reply: list[str] = field(default_factory=lambda: [f"word{n} " for n in range(32)])
    reasoning: list[str] = field(default_factory=list)
    tool_call: dict[str, Any] | None = None
    """`{"name", "arguments"}`: called instead of a reply, its arguments in two pieces."""
    first_delay_s: float = 0.0
    token_delay_s: float = 0.0
    at_once: bool = False
    """Write the whole reply in one piece, as a server under load does."""
    fail_status: int = 0
    fail_times: int = 0
    fail_code: str = ""
    retry_after: str = ""
    break_at: int = -1
    """Cut the connection before this token of the answer."""
    break_times: int = 1_000_000
    error_at: int = -1
    """Send an error event instead of this token."""
    hang_at: int = -1
    """Fall silent before this token until the client leaves."""
    context_tokens: int = 0
    plain_numbers: bool = False
    """Write vectors as numbers, whatever was asked for."""
    prompt_tokens: int = 7
    ignore_limit: bool = False
    send_usage: bool = True
    prefill: bool = True
    ignore_prefill: bool = False
    """Take the start of an answer for a turn that is over, and answer again from the beginning."""
    echoes: bool = False
    """Answer with `re: ` and what the last message of a user says."""


def word_vector(text: str) -> list[float]:
    """A vector that tells texts apart: how many words and letters a text has, and its first letters."""
    letters = text.encode()[:4].ljust(4)
    return [float(len(text.split())), float(len(text)), *(letter / 256 for letter in letters)]


class StubOpenAI:
    """The server's state: its script, the requests it saw and the streams that are open."""

    def __init__(self) -> None:
        self.script = Script()
        self.requests: list[dict[str, Any]] = []
        self.active = 0
        self.ended = 0
        self.left_early = 0
        self.last_left_at = 0.0
        self.authorizations: list[str] = []
        self._transports: set[int] = set()

    @property
    def connections(self) -> int:
        """How many connections the requests came over."""
        return len(self._transports)

    def app(self) -> web.Application:
        """The web application."""
        app = web.Application(client_max_size=64 * 1024 * 1024)
        app.router.add_get("/v1/models", self.models)
        app.router.add_post("/v1/chat/completions", self.chat)
        app.router.add_post("/v1/completions", self.completions)
        app.router.add_post("/v1/embeddings", self.embeddings)
        app.router.add_get("/control", self.state)
        app.router.add_post("/control", self.steer)
        return app

    async def models(self, _request: web.Request) -> web.Response:
        """The list of models."""
        return web.json_response({"object": "list", "data": [{"id": "stub", "object": "model"}]})

    async def state(self, _request: web.Request) -> web.Response:
        """What happened so far, for a test in another process."""
        state = {name: getattr(self, name) for name in ("active", "ended", "left_early", "last_left_at", "requests")}
        return web.json_response({**state, "now": time.time(), "script": dataclasses.asdict(self.script)})

    async def steer(self, request: web.Request) -> web.Response:
        """Replaces the script by the given fields over the defaults."""
        self.script = Script(**await request.json())
        return await self.state(request)

    async def chat(self, request: web.Request) -> web.StreamResponse:
        """A chat completion."""
        body = await request.json()
        last = body["messages"][-1] if body.get("messages") else {}
        said = last.get("content") or "" if last.get("role") == "assistant" else ""
        return await self._answer(request, body, said, chat=True)

    async def completions(self, request: web.Request) -> web.StreamResponse:
        """A text completion; what the reply already has is the prompt's end after a bar."""
        body = await request.json()
        _, bar, said = str(body.get("prompt", "")).partition("|")
        return await self._answer(request, body, said if bar else "", chat=False)

    async def embeddings(self, request: web.Request) -> web.StreamResponse:
        """Vectors of the texts' words, as base64 where it is asked for."""
        body, script = await request.json(), self.script
        self.requests.append(body)
        if script.fail_times > 0:
            script.fail_times -= 1
            return _failure(script.fail_status, script.fail_code, script.retry_after)
        counts = [len(text.split()) for text in body["input"]]
        if script.context_tokens and max(counts) > script.context_tokens:
            return _failure(400, "context_length_exceeded", "")
        self.active += 1
        left = True
        try:
            await asyncio.sleep(script.first_delay_s)
            left = False
        finally:
            self.active -= 1
            if left:
                self.left_early += 1
                self.last_left_at = time.time()
        vectors = [word_vector(text) for text in body["input"]]
        written: list[Any] = vectors
        if body.get("encoding_format") == "base64" and not script.plain_numbers:
            written = [base64.b64encode(packed(vector)).decode() for vector in vectors]
        items = [{"object": "embedding", "index": n, "embedding": each} for n, each in enumerate(written)]
        usage = {"prompt_tokens": sum(counts), "total_tokens": sum(counts)}
        return web.json_response({"object": "list", "data": items[::-1], "model": body["model"], "usage": usage})

    async def _answer(self, request: web.Request, body: dict[str, Any], said: str, *, chat: bool) -> web.StreamResponse:
        script = self.script
        self.requests.append(body)
        self._transports.add(id(request.transport))
        self.authorizations.append(request.headers.get("Authorization", ""))
        if script.fail_times > 0:
            script.fail_times -= 1
            return _failure(script.fail_status, script.fail_code, script.retry_after)
        if said and not script.prefill:
            return _failure(400, "unsupported_value", "")
        wanted = _echo(body) if script.echoes else script.reply
        prompt_tokens = script.prompt_tokens + len(_rest([], said, wanted)[0])
        if script.ignore_prefill:
            said = ""
        if script.context_tokens and len(json.dumps(body)) // 4 > script.context_tokens:
            return _failure(400, "context_length_exceeded", "")
        if script.first_delay_s:
            await asyncio.sleep(script.first_delay_s)
        _, tokens = _rest(wanted, said, wanted)
        limit = body.get("max_tokens") or body.get("max_completion_tokens")
        finish = "stop"
        if limit is not None and limit < len(tokens) and not script.ignore_limit:
            tokens, finish = tokens[:limit], "length"
        pieces = [_piece(chat, script, text, thinking=False) for text in tokens]
        if not said:
            pieces[:0] = [_piece(chat, script, text, thinking=True) for text in script.reasoning]
        if script.tool_call:
            pieces, finish = _tool_pieces(script.tool_call), "tool_calls"
        usage = {"prompt_tokens": prompt_tokens, "completion_tokens": len(pieces)}
        usage["total_tokens"] = sum(usage.values())
        if not body.get("stream"):
            text = "".join(tokens)
            choice = {"message": {"role": "assistant", "content": text}} if chat else {"text": text}
            return web.json_response({"choices": [{"index": 0, **choice, "finish_reason": finish}], "usage": usage})
        return await self._stream(request, body, pieces, finish, usage)

    async def _stream(
        self, request: web.Request, body: dict[str, Any], pieces: list[dict[str, Any]], finish: str, usage: Any
    ) -> web.StreamResponse:
        script = self.script
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        self.active += 1
        done = False
        try:
            held = b""
            for n, piece in enumerate(pieces):
                if n == script.break_at and script.break_times > 0:
                    script.break_times -= 1
                    await response.write(held)
                    if request.transport:
                        request.transport.close()
                    return response
                if n == script.hang_at:
                    await response.write(held)
                    await asyncio.sleep(3600)
                if n == script.error_at:
                    held += _event({"error": {"message": "the stub broke: secret raw text", "type": "server_error"}})
                    break
                held += _event(_chunk(body, [{"index": 0, **piece, "finish_reason": None}]))
                if not script.at_once:
                    await response.write(held)
                    held = b""
                    await asyncio.sleep(script.token_delay_s)
            else:
                delta = {"delta": {}} if "messages" in body else {"text": ""}
                held += _event(_chunk(body, [{"index": 0, **delta, "finish_reason": finish}]))
                if script.send_usage and (body.get("stream_options") or {}).get("include_usage"):
                    held += _event({**_chunk(body, []), "usage": usage})
                held += b"data: [DONE]\n\n"
            await response.write(held)
            await response.write_eof()
            done = True
        except ConnectionError:
            pass
        finally:
            self.active -= 1
            self.ended += 1
            if not done:
                self.left_early += 1
                self.last_left_at = time.time()
        return response


def _rest(default: list[str], said: str, reply: list[str]) -> tuple[list[str], list[str]]:
    """Splits a reply into the tokens that were said and those that follow."""
    so_far = ""
    for n, text in enumerate(reply):
        if so_far == said:
            return reply[:n], reply[n:]
        so_far += text
    return (reply, []) if so_far == said else (default, reply)


def _echo(body: dict[str, Any]) -> list[str]:
    last = next(one for one in reversed(body["messages"]) if one["role"] == "user")
    return ["re: ", *(f"{word} " for word in last["content"].split())]


def _piece(chat: bool, script: Script, text: str, *, thinking: bool) -> dict[str, Any]:
    if not chat:
        return {"text": text}
    return {"delta": {"reasoning_content" if thinking else "content": text}}


def _tool_pieces(call: dict[str, Any]) -> list[dict[str, Any]]:
    arguments = json.dumps(call["arguments"])
    middle = len(arguments) // 2
    head = {"index": 0, "id": "call_1", "type": "function", "function": {"name": call["name"], "arguments": ""}}
    tails = [{"index": 0, "function": {"arguments": part}} for part in (arguments[:middle], arguments[middle:])]
    return [{"delta": {"tool_calls": [part]}} for part in (head, *tails)]


def _chunk(body: dict[str, Any], choices: list[dict[str, Any]]) -> dict[str, Any]:
    kind = "chat.completion.chunk" if "messages" in body else "text_completion"
    return {"id": "stub-1", "object": kind, "created": 1, "model": body.get("model", ""), "choices": choices}


def _event(data: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(data, separators=(",", ":")).encode() + b"\n\n"


def _failure(status: int, code: str, retry_after: str) -> web.Response:
    body = {"error": {"message": "the stub refuses: secret raw text", "type": "stub_error", "code": code or None}}
    return web.json_response(body, status=status, headers={"Retry-After": retry_after} if retry_after else {})


@asynccontextmanager
async def running(stub: StubOpenAI, port: int = 0) -> AsyncGenerator[str]:
    """Serves a stub on loopback and yields its address with the version segment."""
    runner = web.AppRunner(stub.app(), access_log=None, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", port).start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
    finally:
        await runner.cleanup()


async def _serve(port: int) -> None:
    async with running(StubOpenAI(), port) as address:
        print(address, flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, default=0)
    with suppress(KeyboardInterrupt):
        asyncio.run(_serve(parser.parse_args().port))
