"""The load generator: a process of its own that sends chat requests and times the answers.

It writes prepared bytes and looks for two marks in what comes back, so that its own cost stays small beside what it
measures. The plan arrives as JSON on the command line, and the samples leave as JSON on standard output.
"""

import asyncio
import json
import re
import sys
import time
from dataclasses import asdict, dataclass
from typing import Any, Literal, cast

import uvloop
from pydantic import TypeAdapter

from tests.benchmarks.mock_engine import TEXT

ANSWER_TIMEOUT_S = 30.0
_OK = b"HTTP/1.1 200"
_END = b"\r\n0\r\n\r\n"
QUESTION = "Which line comes after the storm?"
MAX_TOKENS = 64


@dataclass(frozen=True, slots=True)
class Wire:
    """How one streaming path is asked, and how its text is found in what comes back.

    `text` is the key of each piece of text, `done` what stands at the end of a whole reply.
    """

    path: str
    body: dict[str, Any]
    text: str
    done: bytes

    @property
    def first_text(self) -> re.Pattern[bytes]:
        """The first piece of text that is not empty."""
        return re.compile(rb'"%b": ?"[^"]' % self.text.encode())

    def whole(self, content: str) -> str:
        """The text of a whole reply."""
        return "".join(re.findall(rf'"{self.text}": ?"((?:[^"\\]|\\.)*)"', content))


CHARACTER = "prompter"
_SAID = {"text": QUESTION, "max_tokens": MAX_TOKENS, "stream": True}
WIRES = {
    "OpenAI, chat": Wire(
        "/v1/chat/completions",
        {
            "messages": [
                {"role": "system", "content": "You are the prompter of a small theatre. Answer in one sentence."},
                {"role": "user", "content": QUESTION},
            ],
            "max_tokens": MAX_TOKENS,
            "stream": True,
        },
        "content",
        b"data: [DONE]",
    ),
    "OpenAI, completions": Wire(
        "/v1/completions",
        {"prompt": QUESTION, "max_tokens": MAX_TOKENS, "stream": True},
        "text",
        b"data: [DONE]",
    ),
    "Anthropic": Wire(
        "/v1/messages",
        {
            "system": "You are the prompter of a small theatre. Answer in one sentence.",
            "messages": [{"role": "user", "content": QUESTION}],
            "max_tokens": MAX_TOKENS,
            "stream": True,
        },
        "text",
        b"event: message_stop",
    ),
    "OpenAI, responses": Wire(
        "/v1/responses",
        {
            "instructions": "You are the prompter of a small theatre. Answer in one sentence.",
            "input": QUESTION,
            "max_output_tokens": MAX_TOKENS,
            "stream": True,
        },
        "delta",
        b"event: response.completed",
    ),
    "KoboldCpp": Wire(
        "/api/extra/generate/stream",
        {"prompt": QUESTION, "max_length": MAX_TOKENS, "genkey": "KCPP1234", "trim_stop": True},
        "token",
        b'"finish_reason": "stop"',
    ),
    "Ollama, chat": Wire(
        "/api/chat",
        {
            "messages": [
                {"role": "system", "content": "You are the prompter of a small theatre. Answer in one sentence."},
                {"role": "user", "content": QUESTION},
            ],
            "options": {"num_predict": MAX_TOKENS},
        },
        "content",
        b'"done":true',
    ),
    "Ollama, generate": Wire(
        "/api/generate",
        {
            "system": "You are the prompter of a small theatre. Answer in one sentence.",
            "prompt": QUESTION,
            "options": {"num_predict": MAX_TOKENS},
        },
        "response",
        b'"done":true',
    ),
    "a character": Wire(f"/v1/characters/{CHARACTER}/messages", _SAID, "text", b'"finish_reason": "stop"'),
    "a character that remembers": Wire(
        f"/v1/characters/{CHARACTER}/messages", {**_SAID, "speaker": "Ada"}, "text", b'"finish_reason": "stop"'
    ),
}
"""The streaming path of each protocol."""
CHAT = "OpenAI, chat"
REMEMBERING = "a character that remembers"
SPEAKERS = 40
"""So many people speak in turn with a character that remembers; nobody says a thousand lines within minutes."""


@dataclass(frozen=True, slots=True)
class Target:
    """Where requests go: a port on loopback, the model's name there, the API key, and the path's name in `WIRES`."""

    port: int
    model: str
    key: str
    wire: str = CHAT


@dataclass(frozen=True, slots=True)
class Plan:
    """What to send: pairs of direct and through requests in turn, or as many streams as possible for a time."""

    kind: Literal["pairs", "flood"]
    targets: tuple[Target, ...]
    samples: int = 0
    warm_up: int = 0
    concurrency: int = 1
    duration_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Timing:
    """One streamed reply: when it was sent, its first text came and it ended, in monotonic nanoseconds."""

    sent_ns: int
    first_ns: int
    end_ns: int


class Line(asyncio.Protocol):
    """One kept-alive connection that carries one request at a time."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        self._first_text = wire.first_text
        self._parts = bytearray()
        self._first_ns = 0
        self._answered: asyncio.Future[int] | None = None
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Remembers where requests go."""
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        """Looks for the first text and for the end."""
        now = time.monotonic_ns()
        if not self._parts and not data.startswith(_OK) and self._answered and not self._answered.done():
            self._answered.set_exception(ValueError(f"refused: {data[:600]!r}"))
        self._parts += data
        if not self._first_ns and self._first_text.search(self._parts):
            self._first_ns = now
        if self._parts.endswith(_END) and self._answered and not self._answered.done():
            self._answered.set_result(now)

    def connection_lost(self, exc: Exception | None) -> None:
        """Fails the request under way."""
        if self._answered and not self._answered.done():
            self._answered.set_exception(exc or ConnectionError("the connection was closed in mid-answer"))

    async def ask(self, request: bytes, *, checked: bool = False) -> Timing:
        """Sends a request and waits for the whole answer; `checked` compares every character of the text."""
        assert self._transport is not None
        self._parts.clear()
        self._first_ns = 0
        self._answered = asyncio.get_running_loop().create_future()
        sent = time.monotonic_ns()
        self._transport.write(request)
        async with asyncio.timeout(ANSWER_TIMEOUT_S):
            end = await self._answered
        if not self._first_ns or self._wire.done not in self._parts:
            raise ValueError(f"not a whole reply: {bytes(self._parts[:600])!r}")
        if checked:
            text = self._wire.whole(self._parts.decode())
            if text != TEXT:
                raise ValueError(f"another text came back: {text!r}")
        return Timing(sent, self._first_ns, end)

    def close(self) -> None:
        """Hangs up."""
        if self._transport:
            self._transport.close()


def request_bytes(target: Target, n: int = 0) -> bytes:
    """One streamed request as it goes over the wire; where a speaker is named, the speakers take turns."""
    wire = WIRES[target.wire]
    asked = {"model": target.model, **wire.body}
    if "speaker" in asked:
        asked["speaker"] = f"{asked['speaker']} {n % SPEAKERS}"
    body = json.dumps(asked).encode()
    head = (
        f"POST {wire.path} HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n"
        f"accept: application/json\r\nauthorization: Bearer {target.key}\r\ncontent-length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


async def connect(target: Target) -> Line:
    """Opens a connection to a target."""
    _, line = await asyncio.get_running_loop().create_connection(
        lambda: Line(WIRES[target.wire]), "127.0.0.1", target.port
    )
    return line


async def pairs(plan: Plan) -> list[list[Timing]]:
    """Asks every target in turn, so that all see the same machine; one list of timings for each target."""
    lines = [await connect(target) for target in plan.targets]
    requests = [[request_bytes(target, n) for n in range(SPEAKERS)] for target in plan.targets]
    timings: list[list[Timing]] = [[] for _ in plan.targets]
    for n in range(plan.warm_up + plan.samples):
        for line, request, kept in zip(lines, requests, timings, strict=True):
            timing = await line.ask(request[n % SPEAKERS], checked=n < plan.warm_up)
            if n >= plan.warm_up:
                kept.append(timing)
    for line in lines:
        line.close()
    return timings


async def flood(plan: Plan) -> list[list[Timing]]:
    """Keeps `concurrency` requests under way on the first target for a time."""
    target = plan.targets[0]
    request = request_bytes(target)
    kept: list[Timing] = []
    start = time.monotonic()

    async def keep_asking() -> None:
        line = await connect(target)
        for _ in range(plan.warm_up):
            await line.ask(request, checked=True)
        while time.monotonic() - start < plan.duration_s:
            kept.append(await line.ask(request))
        line.close()

    async with asyncio.TaskGroup() as group:
        for _ in range(plan.concurrency):
            group.create_task(keep_asking())
    return [kept]


def plan_of(text: str) -> Plan:
    """Reads a plan from its JSON form."""
    return TypeAdapter(Plan).validate_json(text)


def plan_text(plan: Plan) -> str:
    """Writes a plan in its JSON form."""
    return json.dumps(asdict(plan))


def main() -> None:
    """Runs the plan of the command line."""
    plan = plan_of(sys.argv[1])
    timings = uvloop.run(pairs(plan) if plan.kind == "pairs" else flood(plan))
    json.dump([[(t.sent_ns, t.first_ns, t.end_ns) for t in kept] for kept in timings], sys.stdout)


if __name__ == "__main__":
    main()
