"""A volunteer over real HTTP, between a Horde and each of the engines, both stubs."""

import asyncio
import dataclasses
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from callboard_cli.__main__ import main
from callboard_cli.failures import CommandError, ExitCode
from callboard_cli.key_files import read_key
from callboard_cli.volunteer.command import KEY
from callboard_cli.volunteer.engines import KINDS, Kind, find_engine, until_stop
from callboard_cli.volunteer.errors import EngineFailed
from callboard_cli.volunteer.server import HordeServer
from callboard_cli.volunteer.worker import FAULTS_IN_A_ROW, Offer, Refused, Rhythm, Volunteer
from tests.unit.cli.volunteer_stubs import JOB, NO_JOB, StubEngine, StubHorde, serving

pytestmark = [pytest.mark.unit, pytest.mark.timeout(30)]

POP, SUBMIT, PROGRESS = "generate/text/pop", "generate/text/submit", "generate/text/progress"
QUICK = Rhythm(**{one.name: 0.01 for one in dataclasses.fields(Rhythm)})
OFFER = Offer("barn", {"owl": "owl"}, max_length=512, max_context_length=4096, threads=1, agent="Callboard:1:x")


def session_of() -> aiohttp.ClientSession:
    """A session that leaves no connection open."""
    return aiohttp.ClientSession(connector=aiohttp.TCPConnector(force_close=True))


class Site:
    """A volunteer with its Horde and its engine."""

    def __init__(self, stack: AsyncExitStack, horde: StubHorde, engine: StubEngine) -> None:
        self._stack = stack
        self.horde = horde
        self.engine = engine
        self.said: list[str] = []
        self.volunteer: Volunteer

    async def start(self, offer: Offer = OFFER, rhythm: Rhythm = QUICK) -> None:
        """Makes the volunteer, which knows its server already."""
        engine_url = await self._stack.enter_async_context(serving(self.engine.handle))
        horde_url = await self._stack.enter_async_context(serving(self.horde.handle))
        session = await self._stack.enter_async_context(session_of())
        server = HordeServer(session, horde_url, "cb_volunteer", offer.agent)
        await server.find_user()
        engine = await find_engine(session, engine_url, None, None)
        self.volunteer = Volunteer(server, engine, offer, self.said.append, rhythm)

    async def run_until(self, path: str, times: int = 1) -> None:
        """Runs until so many calls of a path came, and then to the end of the jobs at hand."""

        def count(asked: str) -> None:
            if asked == path and len(self.horde.of(path)) >= times:
                self.volunteer.stop()

        self.horde.on_ask = count
        async with asyncio.timeout(10):
            await self.volunteer.run()


@pytest.fixture
async def stack() -> AsyncGenerator[AsyncExitStack]:
    async with AsyncExitStack() as one:
        yield one


async def made(stack: AsyncExitStack, horde: StubHorde, kind: Kind = "koboldcpp", **engine: Any) -> Site:
    site = Site(stack, horde, StubEngine(kind, **engine))
    await site.start()
    return site


def job(**payload: Any) -> dict[str, Any]:
    return {**JOB, "payload": {**JOB["payload"], **payload}}


@pytest.mark.parametrize("kind", KINDS)
async def test_job_is_written_by_each_engine_and_handed_in(stack: AsyncExitStack, kind: Kind) -> None:
    asked = job(temperature=0.7, top_k=40, rep_pen=1.1, stop_sequence=["\nUser:"])
    site = await made(stack, StubHorde([asked]), kind)
    await site.run_until(SUBMIT)
    (offer, *_) = site.horde.of(POP)
    assert offer == {
        "name": "barn",
        "models": ["owl"],
        "max_length": 512,
        "max_context_length": 4096,
        "priority_usernames": [],
        "softprompts": [],
        "nsfw": True,
        "threads": 1,
        "amount": 1,
        "bridge_agent": "Callboard:1:x",
    }
    assert site.horde.of(SUBMIT) == [{"id": JOB["id"], "generation": " sat in the oak.", "state": "ok", "seed": 0}]
    ((_, body),) = site.engine.asked
    options = body.get("options", body)
    assert body["prompt"] == "An owl"
    assert options["temperature"] == 0.7
    lengths = {"koboldcpp": "max_length", "llamacpp": "n_predict", "ollama": "num_predict", "openai": "max_tokens"}
    assert options[lengths[kind]] == 40
    stops = {"koboldcpp": "stop_sequence"}.get(kind, "stop")
    assert options[stops] == ["\nUser:"]
    headers = {name.casefold(): value for name, value in site.horde.asked[0][1].items()}
    assert (headers["apikey"], headers["client-agent"]) == ("cb_volunteer", "Callboard:1:x")
    assert (site.volunteer.tally.done, site.volunteer.tally.kudos) == (1, 4.5)


async def test_horde_is_asked_without_a_wait_and_told_no_progress(stack: AsyncExitStack) -> None:
    site = await made(stack, StubHorde([NO_JOB, JOB]))
    await site.run_until(SUBMIT)
    assert site.horde.of(PROGRESS) == []
    assert not any("X-Wait" in headers for _, headers, _ in site.horde.asked)


async def test_callboard_is_asked_with_a_wait_and_told_the_text_while_it_grows(stack: AsyncExitStack) -> None:
    gate = asyncio.Event()
    site = await made(stack, StubHorde([JOB], node="callboard"), gate=gate)
    running = asyncio.create_task(site.run_until(SUBMIT))
    async with asyncio.timeout(5):
        while not any(body["text"] == " sat in the" for body in site.horde.of(PROGRESS)):
            await asyncio.sleep(0.005)
    assert site.horde.of(SUBMIT) == []
    gate.set()
    await running
    texts = [body["text"] for body in site.horde.of(PROGRESS)]
    assert texts[0].startswith(" sat")
    assert texts == sorted(texts, key=len)
    assert {body["id"] for body in site.horde.of(PROGRESS)} == {JOB["id"]}
    pops = [headers for path, headers, _ in site.horde.asked if path == POP]
    assert pops[0]["X-Wait"] == "20"


async def test_job_that_went_to_somebody_else_is_dropped(stack: AsyncExitStack) -> None:
    gone = web.json_response({"message": "aborted", "rc": "AbortedGen"}, status=400)
    horde = StubHorde([JOB], {PROGRESS: [gone]}, node="callboard")
    gate = asyncio.Event()
    site = await made(stack, horde, pieces=["a", "b", "c"], gate=gate)
    running = asyncio.create_task(site.run_until(POP, 2))
    async with asyncio.timeout(5):
        while not site.horde.of(PROGRESS):
            await asyncio.sleep(0.005)
    await asyncio.sleep(0.05)
    gate.set()
    await running
    assert site.horde.of(SUBMIT) == []
    assert site.volunteer.tally.dropped == 1


async def test_stop_finishes_the_job_at_hand_and_asks_for_no_more(stack: AsyncExitStack) -> None:
    gate = asyncio.Event()
    site = await made(stack, StubHorde([JOB, JOB]), gate=gate)
    running = asyncio.create_task(site.volunteer.run())
    async with asyncio.timeout(5):
        while not site.engine.asked:
            await asyncio.sleep(0.005)
        site.volunteer.stop()
        gate.set()
        await running
    assert len(site.horde.of(SUBMIT)) == 1
    assert len(site.horde.of(POP)) == 1


async def test_volunteer_that_is_to_end_at_once_hands_its_jobs_back(stack: AsyncExitStack) -> None:
    gate = asyncio.Event()
    site = await made(stack, StubHorde([JOB], node="callboard"), gate=gate)
    running = asyncio.create_task(site.volunteer.run())
    async with asyncio.timeout(5):
        while not site.horde.of(PROGRESS):
            await asyncio.sleep(0.005)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    gate.set()
    assert [body["state"] for body in site.horde.of(SUBMIT)] == ["faulted"]
    assert site.said[-1].endswith("handed back")


async def test_stop_ends_an_idle_wait_at_once(stack: AsyncExitStack) -> None:
    site = Site(stack, StubHorde(), StubEngine("koboldcpp"))
    await site.start(rhythm=Rhythm(no_job_s=600.0))
    running = asyncio.create_task(site.volunteer.run())
    async with asyncio.timeout(5):
        while not site.horde.of(POP):
            await asyncio.sleep(0.005)
        site.volunteer.stop()
        await running


async def test_several_jobs_are_written_at_once(stack: AsyncExitStack) -> None:
    gate = asyncio.Event()
    site = Site(stack, StubHorde([JOB, JOB, JOB]), StubEngine("koboldcpp", gate=gate))
    await site.start(dataclasses.replace(OFFER, threads=3))
    running = asyncio.create_task(site.run_until(SUBMIT, 3))
    async with asyncio.timeout(5):
        while len(site.engine.asked) < 3:
            await asyncio.sleep(0.005)
    gate.set()
    await running
    assert [body["threads"] for body in site.horde.of(POP)[:3]] == [3, 3, 3]
    assert site.volunteer.tally.done == 3


@pytest.mark.parametrize(
    ("statuses", "tries", "state"),
    [([503, 503, 200], 3, "ok"), ([503] * 5, 5, "faulted"), ([422], 1, "faulted"), ([500], 1, "faulted")],
)
async def test_engine_that_fails_is_asked_again_only_where_that_can_help(
    stack: AsyncExitStack, statuses: list[int], tries: int, state: str
) -> None:
    site = await made(stack, StubHorde([JOB]), statuses=statuses)
    await site.run_until(SUBMIT)
    (handed_in,) = site.horde.of(SUBMIT)
    assert (len(site.engine.asked), handed_in["state"]) == (tries, state)
    if state == "faulted":
        assert (handed_in["generation"], handed_in["seed"]) == ("faulted", -1)


@pytest.mark.parametrize(
    "spoilt",
    [{**JOB, "payload": {}}, {**JOB, "payload": None}, {**JOB, "model": "wren"}, {**JOB, "payload": {"prompt": 7}}],
)
async def test_job_that_cannot_be_done_is_a_fault_at_once(stack: AsyncExitStack, spoilt: dict[str, Any]) -> None:
    site = await made(stack, StubHorde([spoilt]))
    await site.run_until(SUBMIT)
    assert [body["state"] for body in site.horde.of(SUBMIT)] == ["faulted"]
    assert site.engine.asked == []


async def test_job_whose_time_is_over_is_a_fault(stack: AsyncExitStack) -> None:
    gate = asyncio.Event()
    site = await made(stack, StubHorde([{**JOB, "ttl": 1}]), gate=gate)
    await site.run_until(SUBMIT)
    gate.set()
    assert [body["state"] for body in site.horde.of(SUBMIT)] == ["faulted"]


def trouble(status: int, rc: str = "x", **headers: str) -> web.Response:
    return web.json_response({"message": "no", "rc": rc}, status=status, headers=headers)


@pytest.mark.parametrize(
    ("answers", "submits", "done"),
    [
        ([trouble(500), web.Response(text="<html>"), trouble(502)], 4, 1),
        ([trouble(404, "InvalidJobID")], 1, 0),
        ([trouble(400, "DuplicateGen")], 1, 0),
        ([trouble(500)] * 10, 10, 0),
    ],
    ids=["again", "unknown", "duplicate", "given up"],
)
async def test_text_is_handed_in_again_where_that_can_help(
    stack: AsyncExitStack, answers: list[web.Response], submits: int, done: int
) -> None:
    copies = [web.Response(status=one.status, body=one.body, content_type=one.content_type) for one in answers]
    site = await made(stack, StubHorde([JOB], {SUBMIT: copies}))
    await site.run_until(SUBMIT)
    assert (len(site.horde.of(SUBMIT)), site.volunteer.tally.done) == (submits, done)


@pytest.mark.parametrize("rc", ["InvalidAPIKey", "WrongCredentials", "AnonForbiddenWorker"])
async def test_volunteer_ends_where_no_waiting_helps(stack: AsyncExitStack, rc: str) -> None:
    site = Site(stack, StubHorde(troubles={POP: [trouble(403, rc) for _ in range(9)]}), StubEngine("koboldcpp"))
    await site.start(dataclasses.replace(OFFER, threads=2))
    with pytest.raises(Refused, match="no"):
        await site.run_until(SUBMIT)


async def test_maintenance_is_obeyed_and_ends(stack: AsyncExitStack) -> None:
    site = await made(stack, StubHorde([JOB], {POP: [trouble(403, "WorkerMaintenance")]}))
    await site.run_until(SUBMIT)
    assert "in maintenance: no" in site.said
    assert site.volunteer.tally.done == 1


async def test_pop_that_fails_in_any_way_is_repeated(stack: AsyncExitStack) -> None:
    troubles = [trouble(500), web.Response(text="<html>"), web.json_response([]), trouble(429, **{"Retry-After": "0"})]
    site = await made(stack, StubHorde([JOB], {POP: troubles}))
    await site.run_until(SUBMIT)
    assert site.volunteer.tally.done == 1


async def test_notes_of_the_servers_operators_are_shown_once(stack: AsyncExitStack) -> None:
    noted = {**NO_JOB, "messages": [{"message": "update\nsoon"}, "update soon", 7]}
    site = await made(stack, StubHorde([noted, noted, JOB]))
    await site.run_until(SUBMIT)
    assert site.said.count("note of the server: update soon") == 1


async def test_no_jobs_are_asked_for_while_the_engine_is_away(stack: AsyncExitStack) -> None:
    site = await made(stack, StubHorde([JOB]))
    site.volunteer.tally.faults_in_a_row = FAULTS_IN_A_ROW
    site.engine.kind = "ollama"
    running = asyncio.create_task(site.run_until(SUBMIT))
    async with asyncio.timeout(5):
        while not any(line.startswith("no jobs are asked for") for line in site.said):
            await asyncio.sleep(0.005)
    assert site.horde.of(POP) == []
    site.engine.kind = "koboldcpp"
    await running
    assert site.volunteer.tally.done == 1


@pytest.mark.parametrize("kind", KINDS)
async def test_tags_of_turns_are_left_to_the_engine_that_knows_them(stack: AsyncExitStack, kind: Kind) -> None:
    prompt, stops = "{{[INPUT]}}Hoot?{{[OUTPUT]}}", ["{{[INPUT]}}", "{{[INPUT_END]}}", "\nUser:"]
    site = await made(stack, StubHorde([job(prompt=prompt, stop_sequence=stops)]), kind)
    await site.run_until(SUBMIT)
    ((_, body),) = site.engine.asked
    sent = body.get("options", body)
    if kind == "koboldcpp":
        assert (body["prompt"], body["stop_sequence"]) == (prompt, stops)
    else:
        assert body["prompt"] == "\n### Instruction:\nHoot?\n### Response:\n"
        assert sent["stop"] == ["### Instruction:", "\nUser:"]


async def test_prompt_beyond_llamacpps_context_loses_its_beginning(stack: AsyncExitStack) -> None:
    site = await made(stack, StubHorde([job(prompt="x" * 200, max_context_length=100)]), "llamacpp")
    await site.run_until(SUBMIT)
    assert site.engine.asked[1][1]["prompt"] == list(range(140, 200))


MOST = 8


async def pieces_of(*pieces: str) -> AsyncGenerator[str]:
    for piece in pieces:
        yield piece


@pytest.mark.parametrize(
    ("pieces", "stops", "text"),
    [
        (("a", "\nUs", "er: c"), ["\nUser:"], "a\nUser:"),
        (("one two three",), ["two", "one t"], "one t"),
        (("", "abc", ""), [], "abc"),
        (("abcdef", "ghij"), ["zz"], "abcdefgh"),
        (("ab", "ab"), ["ba"], "aba"),
    ],
)
async def test_text_ends_with_the_first_stop_sequence(pieces: tuple[str, ...], stops: list[str], text: str) -> None:
    assert "".join([piece async for piece in until_stop(pieces_of(*pieces), stops, MOST)]) == text


@pytest.mark.parametrize("kind", KINDS)
async def test_engine_is_found_by_what_it_answers(stack: AsyncExitStack, kind: Kind) -> None:
    url = await stack.enter_async_context(serving(StubEngine(kind).handle))
    session = await stack.enter_async_context(session_of())
    found = await find_engine(session, url, None, None)
    assert found.kind == kind
    assert next(iter(await found.models())).endswith("owl")


async def test_page_that_is_no_engine_is_told(stack: AsyncExitStack) -> None:
    async def page(_request: web.Request) -> web.StreamResponse:
        return web.Response(text="<html>")

    url = await stack.enter_async_context(serving(page))
    session = await stack.enter_async_context(session_of())
    with pytest.raises(EngineFailed):
        await find_engine(session, url, None, None)


def test_key_comes_from_a_file_or_the_environment(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text("cb_file\n", encoding="utf-8")
    assert read_key(KEY, file, {KEY: "cb_environ"}) == "cb_file"
    assert read_key(KEY, None, {f"{KEY}_FILE": str(file)}) == "cb_file"
    assert read_key(KEY, None, {KEY: " cb_environ "}) == "cb_environ"
    assert read_key(KEY, None, {}) == ""
    for spoilt in (tmp_path / "none", tmp_path):
        with pytest.raises(CommandError):
            read_key(KEY, spoilt, {})
    with pytest.raises(CommandError):
        read_key(KEY, None, {KEY: "cb_\u0663"})


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ([], "no API key"),
        (["--server", "voices.example"], "--server"),
        (["--engine", "ftp://x"], "--engine"),
        (["--threads", "0"], "--threads"),
        (["--max-length", "5000"], "--max-length"),
        (["--name", "a\nb"], "--name"),
    ],
)
def test_malformed_argument_is_told_by_its_name(
    arguments: list[str], told: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(KEY, raising=False)
    usual = ["volunteer", "--server", "http://127.0.0.1:1", "--engine", "http://127.0.0.1:2", "--name", "barn"]
    assert main([*usual, *arguments]) == ExitCode.USAGE
    assert told in capsys.readouterr().err
