"""A Horde and the engines that volunteers lend, as small servers on loopback that answer as a test says."""

import asyncio
import json
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
JOB: dict[str, Any] = {
    "id": "bbbbbbbb-0000-4000-8000-000000000002",
    "ids": ["bbbbbbbb-0000-4000-8000-000000000002"],
    "payload": {"prompt": "An owl", "n": 1, "max_length": 40, "max_context_length": 1024},
    "model": "owl",
    "ttl": 150,
    "skipped": {},
    "messages": [],
    "softprompt": None,
}
NO_JOB: dict[str, Any] = {"id": None, "ids": [], "payload": {}, "skipped": {}, "messages": [], "model": None}


@asynccontextmanager
async def serving(handler: Handler) -> AsyncGenerator[str]:
    """Serves every path by one handler on a free loopback port, and tells the address."""
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handler)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        yield site.name
    finally:
        await runner.cleanup()


@dataclass
class StubHorde:
    """Hands out the jobs of a list and notes what comes back; the answers of `troubles` go out first, by path."""

    jobs: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    troubles: dict[str, list[web.Response]] = field(default_factory=dict[str, list[web.Response]])
    node: str | None = None
    asked: list[tuple[str, dict[str, str], dict[str, Any]]] = field(
        default_factory=list[tuple[str, dict[str, str], dict[str, Any]]]
    )
    on_ask: Callable[[str], None] = lambda _path: None

    def of(self, path: str) -> list[dict[str, Any]]:
        """The bodies that came to a path."""
        return [body for asked, _, body in self.asked if asked == path]

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Answers as the Horde does."""
        path = request.path.removeprefix("/api/v2/")
        body = await request.json() if request.can_read_body else {}
        self.asked.append((path, dict(request.headers), body))
        self.on_ask(path)
        headers = {"Horde-Node": self.node} if self.node else {}
        if self.troubles.get(path):
            return self.troubles[path].pop(0)
        match path:
            case "find_user":
                answer: dict[str, Any] = {"username": "ada#7"}
            case "generate/text/pop":
                answer = self.jobs.pop(0) if self.jobs else NO_JOB
            case "generate/text/submit":
                answer = {"reward": 0 if body.get("state") == "faulted" else 4.5}
            case "generate/text/progress":
                answer = {}
            case _:
                return web.json_response({"message": "no such path", "rc": "x"}, status=404)
        return web.json_response(answer, headers=headers)


@dataclass
class StubEngine:
    """An engine of one kind that writes pieces; `statuses` are those of its first answers to a job."""

    kind: str
    pieces: list[str] = field(default_factory=lambda: [" sat", " in the", " oak."])
    statuses: list[int] = field(default_factory=list[int])
    gate: asyncio.Event | None = None
    """What the engine waits for before its last piece."""
    asked: list[tuple[str, dict[str, Any]]] = field(default_factory=list[tuple[str, dict[str, Any]]])

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Answers as the engine does."""
        found = WIRES[self.kind].get(request.path)
        if found is None:
            return web.Response(status=404)
        if request.method == "GET":
            return web.json_response(found)
        body = await request.json()
        self.asked.append((request.path, body))
        if request.path == "/tokenize":
            return web.json_response({"tokens": list(range(len(body["content"])))})
        if self.statuses and (status := self.statuses.pop(0)) != 200:
            return web.Response(status=status)
        answer = web.StreamResponse()
        await answer.prepare(request)
        for n, piece in enumerate(self.pieces):
            if self.gate is not None and n == len(self.pieces) - 1:
                await self.gate.wait()
            await answer.write(found(piece, n == len(self.pieces) - 1))
        return answer


def _event(**fields: Any) -> bytes:
    return f"event: message\ndata: {json.dumps(fields)}\n\n".encode()


WIRES: dict[str, dict[str, Any]] = {
    "koboldcpp": {
        "/api/extra/version": {"result": "KoboldCpp", "version": "1.116"},
        "/api/v1/model": {"result": "koboldcpp/owl"},
        "/api/extra/true_max_context_length": {"value": 8192},
        "/api/extra/generate/stream": lambda piece, last: _event(token=piece, finish_reason="stop" if last else "null"),
    },
    "llamacpp": {
        "/props": {"default_generation_settings": {"n_ctx": 2048}},
        "/v1/models": {"data": [{"id": "owl"}]},
        "/tokenize": {},
        "/completion": lambda piece, last: b"data: " + json.dumps({"content": piece, "stop": last}).encode() + b"\n\n",
    },
    "ollama": {
        "/api/version": {"version": "0.9"},
        "/api/tags": {"models": [{"name": "owl"}, {"name": "wren"}]},
        "/api/generate": lambda piece, last: json.dumps({"response": piece, "done": last}).encode() + b"\n",
    },
    "openai": {
        "/v1/models": {"data": [{"id": "owl"}]},
        "/v1/completions": lambda piece, last: (
            b"data: "
            + json.dumps({"choices": [{"text": piece}]}).encode()
            + (b"\n\ndata: [DONE]\n\n" if last else b"\n\n")
        ),
    },
}
