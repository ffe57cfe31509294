"""A small Ollama server with a fixed reply and faults on demand, in the manner of `stub_openai`."""

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web

from tests.support.stub_openai import Script, word_vector


class StubOllama:
    """The server's state: its script, the requests it saw and the streams that are open."""

    def __init__(self) -> None:
        self.script = Script()
        self.requests: list[dict[str, Any]] = []
        self.shown: dict[str, Any] | None = None
        """What the server tells of its model; nothing where it knows none."""
        self.show_requests: list[dict[str, Any]] = []
        self.show_failures = 0
        """How many requests for what is known of the model fail first."""
        self.show_delay_s = 0.0
        self.active = 0
        self.left_early = 0

    def app(self) -> web.Application:
        """The web application."""
        app = web.Application(client_max_size=64 * 1024 * 1024)
        app.router.add_get("/api/tags", self.tags)
        app.router.add_post("/api/show", self.show)
        app.router.add_post("/api/chat", self.chat)
        app.router.add_post("/api/generate", self.generate)
        app.router.add_post("/api/embed", self.embed)
        return app

    async def tags(self, _request: web.Request) -> web.Response:
        """The list of models."""
        return web.json_response({"models": [{"model": "stub"}]})

    async def show(self, request: web.Request) -> web.Response:
        """What is known of the model."""
        self.show_requests.append(await request.json())
        await asyncio.sleep(self.show_delay_s)
        if self.show_failures:
            self.show_failures -= 1
            return web.json_response({"error": "busy"}, status=503)
        if self.shown is None:
            return web.json_response({"error": "model not found"}, status=404)
        return web.json_response(self.shown)

    async def chat(self, request: web.Request) -> web.StreamResponse:
        """A chat reply."""
        body = await request.json()
        last = body["messages"][-1]
        said = last["content"] if last["role"] == "assistant" else ""
        return await self._stream(request, body, said)

    async def generate(self, request: web.Request) -> web.StreamResponse:
        """A text completion; what the reply already has is the prompt's end after a bar."""
        body = await request.json()
        _, bar, said = body["prompt"].partition("|")
        return await self._stream(request, body, said if bar else "")

    async def embed(self, request: web.Request) -> web.Response:
        """Vectors of the texts' words; a text that is too long is cut, or refused."""
        body, script = await request.json(), self.script
        self.requests.append(body)
        if script.fail_times > 0:
            script.fail_times -= 1
            return web.json_response({"error": "the stub refuses: secret raw text"}, status=script.fail_status)
        context = body["options"]["num_ctx"]
        words = [text.split() for text in body["input"]]
        if not body["truncate"] and any(len(each) > context for each in words):
            return web.json_response({"error": "the input length exceeds the context length"}, status=400)
        self.active += 1
        try:
            await asyncio.sleep(script.first_delay_s)
        finally:
            self.active -= 1
        kept = [" ".join(each[:context]) for each in words]
        answer = {"embeddings": [word_vector(text) for text in kept], "load_duration": 2_000_000}
        return web.json_response({**answer, "prompt_eval_count": sum(len(each[:context]) for each in words)})

    async def _stream(self, request: web.Request, body: dict[str, Any], said: str) -> web.StreamResponse:
        script = self.script
        self.requests.append(body)
        if script.fail_times > 0:
            script.fail_times -= 1
            return web.json_response({"error": "the stub refuses: secret raw text"}, status=script.fail_status)
        chat = "messages" in body
        texts = list(script.reply)
        spoken = 0
        for spoken in range(len(texts) + 1):
            if "".join(texts[:spoken]) == said:
                break
        pieces = [_answer(chat, text, "") for text in texts[spoken:]]
        if not said:
            pieces[:0] = [_answer(chat, "", text) for text in script.reasoning]
        if script.tool_call:
            call = {"function": {"name": script.tool_call["name"], "arguments": script.tool_call["arguments"]}}
            pieces = [{"message": {"role": "assistant", "content": "", "tool_calls": [call]}}]
        limit = body["options"]["num_predict"]
        finish = "length" if limit < len(pieces) else "stop"
        response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
        await response.prepare(request)
        self.active += 1
        done = False
        try:
            for n, piece in enumerate(pieces[:limit]):
                if n == script.break_at:
                    if request.transport:
                        request.transport.close()
                    return response
                if n == script.hang_at:
                    await asyncio.sleep(3600)
                if n == script.error_at:
                    await response.write(_line({"error": "the stub broke: secret raw text"}))
                    break
                await response.write(_line({"model": body["model"], "done": False, **piece}))
                await asyncio.sleep(script.token_delay_s)
            else:
                counts = {"prompt_eval_count": script.prompt_tokens + spoken, "eval_count": min(limit, len(pieces))}
                counts |= {"load_duration": 1_000_000, "prompt_eval_duration": 20_000_000, "eval_duration": 60_000_000}
                end = {"model": body["model"], "done": True, "done_reason": finish, **_answer(chat, "", ""), **counts}
                await response.write(_line(end))
            await response.write_eof()
            done = True
        except ConnectionError:
            pass
        finally:
            self.active -= 1
            self.left_early += not done
        return response


def _answer(chat: bool, text: str, thinking: str) -> dict[str, Any]:
    if not chat:
        return {"response": text}
    return {"message": {"role": "assistant", "content": text, **({"thinking": thinking} if thinking else {})}}


def _line(data: dict[str, Any]) -> bytes:
    return json.dumps(data).encode() + b"\n"


@asynccontextmanager
async def running(stub: StubOllama) -> AsyncGenerator[str]:
    """Serves a stub on loopback and yields its address."""
    runner = web.AppRunner(stub.app(), access_log=None, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()
