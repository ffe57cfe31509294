"""The load that `callboard bench` makes and the times that it notes, against small servers on loopback."""

import asyncio
import json
import struct
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from aiohttp import web

from callboard_cli.__main__ import parser
from callboard_cli.bench.command import opened, plan_of
from callboard_cli.bench.load import Load
from callboard_cli.bench.measurement import Measurement
from callboard_cli.bench.results import results
from callboard_cli.bench.samples import Work
from callboard_cli.bench.target import Target
from callboard_cli.bench.works import item_of
from callboard_cli.failures import CommandError
from tests.unit.cli.volunteer_stubs import serving

pytestmark = [pytest.mark.unit, pytest.mark.timeout(30)]

Answer = Callable[[web.Request, dict[str, Any]], Awaitable[web.StreamResponse]]
WHOLE = (
    {"choices": [{"delta": {"role": "assistant", "content": ""}}]},
    {"choices": [{"delta": {"content": "Hush"}}]},
    {"choices": [{"delta": {"content": "."}, "finish_reason": "stop"}]},
    {"choices": [], "usage": {"prompt_tokens": 9, "completion_tokens": 3}},
)
DONE = b"data: [DONE]\n\n"


def written(*events: Any) -> bytes:
    return b"".join(b"data: " + json.dumps(event).encode() + b"\n\n" for event in events)


async def streamed(request: web.Request, *parts: bytes, kind: str = "text/event-stream") -> web.StreamResponse:
    answer = web.StreamResponse(headers={"Content-Type": kind})
    await answer.prepare(request)
    for part in parts:
        await answer.write(part)
    await answer.write_eof()
    return answer


async def whole(request: web.Request, _body: dict[str, Any]) -> web.StreamResponse:
    return await streamed(request, written(*WHOLE), DONE)


@dataclass
class Server:
    """A server that is no Callboard; `answer` answers its chats and speeches."""

    answer: Answer = whole
    bodies: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    asked_s: list[float] = field(default_factory=list[float])
    connections: set[int] = field(default_factory=set[int])
    at_once: int = 0
    most_at_once: int = 0

    async def handle(self, request: web.Request) -> web.StreamResponse:
        if request.path == "/v1/models":
            return web.json_response({"data": [{"id": "owl"}, {"id": "toad"}]})
        self.asked_s.append(time.monotonic())
        self.connections.add(id(request.transport))
        self.bodies.append(await request.json())
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            return await self.answer(request, self.bodies[-1])
        finally:
            self.at_once -= 1


@asynccontextmanager
async def target_of(server: Server, *words: str) -> AsyncGenerator[tuple[Target, Any]]:
    async with serving(server.handle) as url:
        plan = plan_of(parser().parse_args(["bench", url, "--seed", "1", "--warm-up", "0", "--think", "0", *words]))
        async with opened(url, "", 0, plan, (None, "parrot", None)) as target:
            yield target, plan


async def loaded(server: Server, work: Work, *words: str) -> Load:
    """Runs one work without a warm-up."""
    async with target_of(server, *words) as (target, plan):
        load = Load(plan, work, target)
        item = item_of(work)
        await load.block(range(plan.items(work)), lambda number, due_s: item(load, number, due_s, plan.turns))
        return load


def kinds(load: Load) -> list[str | None]:
    return [None if one.failure is None else one.failure.kind for one in load.samples]


async def test_a_closed_load_keeps_as_many_under_way_and_opens_no_more_connections() -> None:
    async def slow(request: web.Request, _body: dict[str, Any]) -> web.StreamResponse:
        await asyncio.sleep(0.005)
        return await streamed(request, written(*WHOLE), DONE)

    server = Server(slow)
    load = await loaded(server, "chat", "--requests", "20", "--at-once", "3", "--temperature", "0")
    assert kinds(load) == [None] * 20
    assert server.most_at_once == 3
    # A reply is read to its end, so that its connection carries the next request.
    assert len(server.connections) == 3
    assert {(one.output_tokens, one.prompt_tokens, one.counted_by) for one in load.samples} == {(3, 9, "usage")}
    assert all(0.005 <= (one.to_first_s or 0) <= one.duration_s for one in load.samples)
    assert (server.bodies[0]["model"], server.bodies[0]["temperature"]) == ("owl", 0)
    assert len({json.dumps(body["messages"]) for body in server.bodies}) == 20


async def test_an_open_load_counts_from_when_a_request_was_due() -> None:
    stall_s = 0.3

    async def stalls_once(request: web.Request, _body: dict[str, Any]) -> web.StreamResponse:
        if len(server.bodies) == 1:
            await asyncio.sleep(stall_s)
        return await streamed(request, written(*WHOLE), DONE)

    server = Server(stalls_once)
    words = ("--requests", "10", "--at-once", "1", "--rate", "50", "--arrivals", "even")
    load = await loaded(server, "chat", *words)
    waits = [one.to_first_s or 0 for one in load.samples]
    due = [one.due_s for one in load.samples]
    # Each was due a fiftieth of a second after the last, however long the server kept the only place.
    assert [round(at - due[0], 6) for at in due] == [round(n / 50, 6) for n in range(10)]
    for n, wait in enumerate(waits):
        assert wait >= stall_s - n / 50
    # What waited for its place is told.
    assert load.waited_for_place >= 5


async def test_what_was_due_and_never_sent_makes_the_figures_doubtful() -> None:
    async def hangs(_request: web.Request, _body: dict[str, Any]) -> web.StreamResponse:
        await asyncio.sleep(0.5)
        return web.Response(status=500)

    words = ("--requests", "50", "--at-once", "1", "--rate", "200", "--seconds", "0.2", "--timeout", "0.4")
    async with target_of(Server(hangs), "--work", "chat", *words) as (target, plan):
        measurement = Measurement(plan, [target])
        await measurement.run()
    (load,) = measurement.loads
    assert kinds(load) == ["timeout"]
    assert load.never_sent > 0
    found = results(measurement)
    assert not found["generator"]["believable"]
    assert f"{load.never_sent} requests were due and never sent" in " ".join(found["generator"]["doubts"])
    assert "stopped by --seconds" in " ".join(found["notes"])


async def test_a_refusal_is_followed_by_the_pause_that_it_asks_for() -> None:
    async def refuses_once(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        if len(server.bodies) == 2:
            error = {"error": {"code": "rate_limited", "message": "Slowly."}}
            return web.json_response(error, status=429, headers={"Retry-After": "0.2"})
        return await whole(request, body)

    for words in ((), ("--rate", "100", "--arrivals", "even")):
        server = Server(refuses_once)
        load = await loaded(server, "chat", "--requests", "4", "--at-once", "1", *words)
        assert kinds(load) == [None, "429 rate_limited", None, None]
        assert load.backoff.pauses == 1
        assert server.asked_s[2] - server.asked_s[1] >= 0.2
        # A pause out of politeness is not the server's slowness.
        assert load.samples[2].due_s - load.samples[1].sent_s >= 0.2


async def test_a_server_that_refuses_for_long_is_left_alone() -> None:
    async def closed(_request: web.Request, _body: dict[str, Any]) -> web.StreamResponse:
        return web.Response(status=503, headers={"Retry-After": "3600"})

    server = Server(closed)
    load = await loaded(server, "chat", "--requests", "20", "--at-once", "1")
    assert kinds(load) == ["503 error"]
    assert load.backoff.gave_up == "it asks for 3600 s of quiet"


async def test_tokens_are_never_overrun() -> None:
    server = Server()
    load = await loaded(server, "chat", "--requests", "50", "--tokens", "150", "--max-tokens", "64", "--at-once", "1")
    used = sum(one.output_tokens + one.prompt_tokens for one in load.samples)
    assert load.allowance.ended_by == "tokens"
    assert 0 < used <= 150
    assert len(server.bodies) < 50


async def test_each_failure_has_its_kind() -> None:
    failure = {"error": {"type": "server_error", "message": "It broke."}}

    async def goes_away(request: web.Request, _body: dict[str, Any]) -> web.StreamResponse:
        answer = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await answer.prepare(request)
        await answer.write(written(WHOLE[1]))
        assert request.transport is not None
        request.transport.abort()
        return answer

    async def redirects(_request: web.Request, _body: dict[str, Any]) -> web.StreamResponse:
        return web.Response(status=302, headers={"Location": "http://elsewhere.invalid/"})

    def says(*parts: bytes, kind: str = "text/event-stream") -> Answer:
        async def answer(request: web.Request, _body: dict[str, Any]) -> web.StreamResponse:
            return await streamed(request, *parts, kind=kind)

        return answer

    cases: dict[str, Answer] = {
        "200 server_error": says(written(WHOLE[1], failure)),
        "200 incomplete": says(written(WHOLE[1]), DONE),
        "200 empty": says(written({"choices": [{"delta": {}, "finish_reason": "stop"}]}), DONE),
        "200 not_json": says(b"data: oh no\n\n"),
        "200 no_stream": says(b"{}", kind="application/json"),
        "302 error": redirects,
        "disconnected": goes_away,
    }
    server = Server()
    async with target_of(server, "--requests", "1") as (target, plan):
        for kind, answer in cases.items():
            server.answer = answer
            load = Load(plan, "chat", target)
            await item_of("chat")(load, 0, time.monotonic(), 1)
            assert kinds(load) == [kind]


async def test_a_server_that_is_not_there_is_said_to_refuse() -> None:
    plan = plan_of(parser().parse_args(["bench", "http://127.0.0.1:1"]))
    with pytest.raises(CommandError, match=r"^http://127\.0\.0\.1:1: refused$"):
        async with opened("http://127.0.0.1:1", "", 0, plan, (None, None, None)):
            pass


async def test_a_conversation_brings_along_what_was_said_and_thinks_between() -> None:
    server = Server()
    load = await loaded(server, "conversations", "--requests", "6", "--turns", "3", "--at-once", "1", "--think", "0.02")
    assert [one.turn for one in load.samples] == [1, 2, 3, 1, 2, 3]
    roles = [[message["role"] for message in body["messages"]] for body in server.bodies[:3]]
    assert roles == [["system", *["user", "assistant"] * n, "user"] for n in range(3)]
    assert server.bodies[2]["messages"][2]["content"] == "Hush."
    # Thinking is no part of a turn's time.
    first, second, third = load.samples[:3]
    assert min(second.due_s - first.end_s, third.due_s - second.end_s) >= 0.01


async def test_a_conversation_ends_with_a_turn_that_failed() -> None:
    async def fails(_request: web.Request, _body: dict[str, Any]) -> web.StreamResponse:
        return web.json_response({"detail": "Not today."}, status=400)

    load = await loaded(Server(fails), "conversations", "--requests", "8", "--turns", "4", "--at-once", "1")
    assert kinds(load) == ["400 error"] * 2
    assert load.samples[0].failure is not None
    assert load.samples[0].failure.example == "Not today."


async def test_speech_that_comes_too_slowly_runs_dry() -> None:
    form = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, 1, 24_000, 48_000, 2, 16)
    head = b"RIFF\xff\xff\xff\xffWAVE" + form + struct.pack("<4sI", b"data", 0xFFFFFFFF)

    async def speaks(request: web.Request, _body: dict[str, Any]) -> web.StreamResponse:
        answer = web.StreamResponse(headers={"Content-Type": "audio/wav"})
        await answer.prepare(request)
        await answer.write(head)
        for _ in range(3):
            # Twenty milliseconds of sound every sixty.
            await asyncio.sleep(0.06)
            await answer.write(bytes(960))
        await answer.write_eof()
        return answer

    server = Server(speaks)
    load = await loaded(server, "speech", "--requests", "1", "--text", "Hush")
    (sample,) = load.samples
    assert sample.failure is None
    assert (server.bodies[0]["model"], server.bodies[0]["voice"], server.bodies[0]["input"]) == (
        "parrot",
        "alloy",
        "Hush 1.",
    )
    # The head of the file is no sound.
    assert (sample.to_first_s or 0) >= 0.055
    assert sample.audio_s == pytest.approx(0.06)
    assert sample.underruns == 2
    assert 0.06 <= sample.underrun_s <= 0.5


async def test_a_measurement_that_is_stopped_keeps_what_it_has() -> None:
    stuck, released = asyncio.Event(), asyncio.Event()

    async def then_hangs(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        # One of the warm-up, two that count, and one that is never answered.
        if len(server.bodies) < 4:
            return await whole(request, body)
        stuck.set()
        await asyncio.wait_for(released.wait(), 20)
        return web.Response()

    server = Server(then_hangs)
    async with target_of(server, "--work", "chat", "--at-once", "1", "--warm-up", "1") as (target, plan):
        measurement = Measurement(plan, [target])
        async with asyncio.TaskGroup() as group:
            running = group.create_task(measurement.run())
            await stuck.wait()
            running.cancel()
        released.set()
        found = results(measurement)
    assert found["interrupted"]
    (work,) = found["works"]
    assert (work["requests"], work["succeeded"], work["cut_off"]) == (2, 2, 1)
