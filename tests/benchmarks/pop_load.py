"""The load generator of volunteers: a process of its own that pops at a fixed rate, and submits what it gets.

Each pop is timed from when it was due, so that one that had to wait for others counts as slow. The plan arrives as JSON
on the command line, and the samples leave as JSON in the file that it names.
"""

import asyncio
import itertools
import json
import re
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import uvloop
from pydantic import BaseModel

ANSWER_TIMEOUT_S = 30.0
MAX_CONNECTIONS = 200
TRIES = 3
"""The edge may close a connection in the moment in which it is used again."""
TEXT = " sat in the oak and said nothing of it to anybody who asked."
_LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)
_STATUS = re.compile(rb"HTTP/1\.1 (\d+)")


class PopPlan(BaseModel):
    """How many volunteers pop how often, and how often somebody asks for a text meanwhile."""

    port: int
    keys: list[str]
    volunteers: int
    pops_per_s: float
    jobs_per_s: float
    duration_s: float
    model: str
    samples_file: Path


class PopSamples(BaseModel):
    """How long each call took, in milliseconds; `bad` are answers that should not have come."""

    pops_ms: list[float] = []
    submits_ms: list[float] = []
    jobs: int = 0
    asked: int = 0
    bad: list[str] = []


class _Line(asyncio.Protocol):
    """One kept-alive connection that carries one call at a time."""

    def __init__(self) -> None:
        self._parts = bytearray()
        self._whole = 0
        self._answered: asyncio.Future[tuple[int, bytes]] | None = None
        self._transport: asyncio.Transport | None = None
        self.closed = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Remembers where calls go."""
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Looks for the end of the answer."""
        self._parts += data
        if not self._whole:
            head = self._parts.find(b"\r\n\r\n")
            length = _LENGTH.search(self._parts, 0, head) if head >= 0 else None
            if length is None:
                return
            self._whole = head + 4 + int(length[1])
        if len(self._parts) >= self._whole and self._answered is not None and not self._answered.done():
            status = _STATUS.match(self._parts)
            body = bytes(self._parts[self._parts.find(b"\r\n\r\n") + 4 : self._whole])
            self._answered.set_result((int(status[1]) if status else 0, body))

    def connection_lost(self, exc: Exception | None) -> None:
        """Fails the call under way."""
        self.closed = True
        if self._answered is not None and not self._answered.done():
            self._answered.set_exception(exc or ConnectionError("the connection was closed in mid-answer"))

    async def call(self, request: bytes) -> tuple[int, bytes]:
        """The status and body of one call."""
        assert self._transport is not None
        self._parts.clear()
        self._whole = 0
        self._answered = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        async with asyncio.timeout(ANSWER_TIMEOUT_S):
            return await self._answered


@dataclass
class _Load:
    plan: PopPlan
    samples: PopSamples = field(default_factory=PopSamples)
    idle: list[_Line] = field(default_factory=list[_Line])
    free: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(MAX_CONNECTIONS))

    async def call(self, request: bytes) -> tuple[int, bytes]:
        """One call over a connection that is free; opens one where there is none, up to the most."""
        async with self.free:
            for _ in range(TRIES):
                line = await self._line()
                try:
                    answer = await line.call(request)
                except ConnectionError:
                    continue
                except TimeoutError:
                    break
                self.idle.append(line)
                return answer
            return 0, b"{}"

    async def _line(self) -> _Line:
        while self.idle:
            if not (line := self.idle.pop()).closed:
                return line
        _, line = await asyncio.get_running_loop().create_connection(_Line, "127.0.0.1", self.plan.port)
        return line

    async def pop(self, number: int, due: float) -> None:
        """One volunteer's pop; a job is submitted at once."""
        clock = time.monotonic
        key = self.plan.keys[number % self.plan.volunteers % len(self.plan.keys)]
        offer = {
            "name": f"volunteer-{number % self.plan.volunteers}",
            "models": [self.plan.model],
            "max_length": 512,
            "max_context_length": 4096,
            "bridge_agent": "AI Horde Worker:24:bench",
        }
        status, body = await self.call(_request("pop", key, offer))
        self.samples.pops_ms.append((clock() - due) * 1000)
        answer = json.loads(body)
        if status != 200:
            self.samples.bad.append(f"pop: {status} {answer}")
        elif answer["id"]:
            self.samples.jobs += 1
            sent = clock()
            status, body = await self.call(_request("submit", key, {"id": answer["id"], "generation": TEXT}))
            self.samples.submits_ms.append((clock() - sent) * 1000)
            if status != 200:
                self.samples.bad.append(f"submit: {status} {body[:200]!r}")

    async def ask(self, number: int, _due: float) -> None:
        """One request for a text."""
        params = {"max_length": 80 + number % 40, "max_context_length": 1024}
        body = {"prompt": f"Owl {number}", "models": [self.plan.model], "params": params}
        status, answer = await self.call(_request("async", "0000000000", body))
        self.samples.asked += 1
        if status != 202:
            self.samples.bad.append(f"async: {status} {answer[:200]!r}")


def _request(call: str, key: str, body: dict[str, Any]) -> bytes:
    data = json.dumps(body).encode()
    head = (
        f"POST /api/v2/generate/text/{call} HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n"
        f"apikey: {key}\r\ncontent-length: {len(data)}\r\n\r\n"
    )
    return head.encode() + data


async def _at_a_rate(rate: float, duration_s: float, act: Callable[[int, float], Awaitable[None]]) -> None:
    """Begins an act at each moment that is due, whether or not those before have ended."""
    # uvloop's own clock has milliseconds.
    clock = time.monotonic
    began = clock()
    async with asyncio.TaskGroup() as group:
        for number in itertools.count():
            due = began + number / rate
            if due >= began + duration_s:
                return
            await asyncio.sleep(max(0.0, due - clock()))
            group.create_task(_acted(act, number, due))


async def _acted(act: Callable[[int, float], Awaitable[None]], number: int, due: float) -> None:
    await act(number, due)


async def load(plan: PopPlan) -> PopSamples:
    """Pops and asks for the time of the plan."""
    one = _Load(plan)
    async with asyncio.TaskGroup() as group:
        group.create_task(_at_a_rate(plan.pops_per_s, plan.duration_s, one.pop))
        if plan.jobs_per_s:
            group.create_task(_at_a_rate(plan.jobs_per_s, plan.duration_s, one.ask))
    return one.samples


def main() -> None:
    """Writes the samples as JSON."""
    plan = PopPlan.model_validate_json(sys.argv[1])
    plan.samples_file.write_text(uvloop.run(load(plan)).model_dump_json(), encoding="utf-8")


if __name__ == "__main__":
    main()
