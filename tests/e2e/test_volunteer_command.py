"""`callboard volunteer` as a process for a site: its stream, its end, and what becomes of a dead volunteer's job."""

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncGenerator, Generator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import openai
import pytest

from callboard_contracts.config import SiteSection
from callboard_kit.model_files import model_path
from tests.support.deployment import Deployment
from tests.support.ports import free_port
from tests.unit.cli.volunteer_stubs import StubEngine, serving

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

OWL = "owl"
SMALL = "smollm2"
LLAMACPP = """
import sys, time, xllamacpp
params = xllamacpp.CommonParams()
params.model.path, params.port, params.n_ctx = sys.argv[1], int(sys.argv[2]), 2048
server = xllamacpp.Server(params)
print("ready", flush=True)
time.sleep(600)
"""
"""The server of llama.cpp, as the package of it that chat workers use has it."""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Generator[Deployment]:
    config: dict[str, Any] = {
        "chat": {
            "pools": {"crowd": {"backend": "volunteers", "volunteer_time_s": 1}},
            "models": {SMALL: {"pool": "crowd", "engine_model": "smollm2-135m", "prompt_format": "chatml"}},
        },
        "kudos": {"enabled": True},
        "quota": {"reap_interval_s": 1},
    }
    deployment = Deployment(tmp_path_factory.mktemp("lent"), config, forked=True)
    try:
        deployment.start(speakers=0)
        yield deployment
        deployment.wait_idle()
        deployment.command("kudos", "verify")
        deployment.stop()
    finally:
        deployment.abandon()


@pytest.fixture(scope="module")
def key(site: Deployment) -> str:
    return site.create_key("standard")


class Lent:
    """A volunteer's process, and what it says."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process

    async def ended(self) -> str:
        """What it said until its end."""
        async with asyncio.timeout(60):
            output, _ = await self.process.communicate()
        return output.decode()


@asynccontextmanager
async def lent(site: Deployment, key: str, engine: str, name: str, **options: str) -> AsyncGenerator[Lent]:
    """Runs `callboard volunteer` until the block is left."""
    given = [word for option, value in options.items() for word in (f"--{option}", value)]
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "callboard_cli", "volunteer", "--server", site.root_url(), "--engine", engine, "--name", name, *given),
        env={**os.environ, "CALLBOARD_VOLUNTEER_KEY": key},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        yield Lent(process)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def pieces(client: openai.AsyncOpenAI, model: str, max_tokens: int) -> AsyncGenerator[str]:
    """The pieces of a streamed reply, once somebody offers the model."""
    async with asyncio.timeout(60):
        while model not in [one.id async for one in client.models.list()]:
            await asyncio.sleep(0.05)
        message: Any = [{"role": "user", "content": "Tell me of an owl."}]
        stream = await client.chat.completions.create(model=model, messages=message, stream=True, max_tokens=max_tokens)
        async for chunk in stream:
            if chunk.choices and chunk.choices[0].delta.content:
                yield chunk.choices[0].delta.content


@pytest.fixture
async def client(site: Deployment, key: str) -> AsyncGenerator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=site.base_url, api_key=key, max_retries=0) as client:
        yield client


async def test_text_is_streamed_while_the_engine_writes_and_an_interrupt_hands_it_in(
    site: Deployment, key: str, client: openai.AsyncOpenAI
) -> None:
    gate = asyncio.Event()
    engine = StubEngine("ollama", gate=gate)
    async with serving(engine.handle) as url, lent(site, key, url, "barn", model=OWL) as barn:
        found: list[str] = []
        async for piece in pieces(client, OWL, 20):
            if not found:
                # The engine waits with the end of its text until the client has the beginning.
                barn.process.send_signal(signal.SIGINT)
                gate.set()
            found.append(piece)
        assert "".join(found) == "sat in the oak."
        assert len(found) > 1
        told = await barn.ended()
    assert barn.process.returncode == 0, told
    assert "ended: 1 texts, 0 faults, 0 dropped" in told
    assert key not in told
    assert "### Instruction:\nTell me of an owl." in engine.asked[0][1]["prompt"]


async def test_job_of_a_volunteer_or_an_engine_that_is_killed_is_gone_on_with_and_charged_once(
    site: Deployment, key: str, client: openai.AsyncOpenAI
) -> None:
    before = len(await site.usage())
    never = asyncio.Event()
    async with AsyncExitStack() as stack:
        engines = [StubEngine("llamacpp", gate=never), StubEngine("llamacpp", ["", " in", " the", " oak."], gate=never)]
        servers = [AsyncExitStack() for _ in engines]
        for server in servers:
            await stack.enter_async_context(server)
        urls = [
            await server.enter_async_context(serving(one.handle)) for server, one in zip(servers, engines, strict=True)
        ]
        # What the engines were asked ends with them.
        stack.callback(never.set)
        barn = await stack.enter_async_context(lent(site, key, urls[0], "barn"))
        found: list[str] = []
        async for piece in pieces(client, OWL, 6):
            found.append(piece)
            text = "".join(found)
            if text == "sat in the" and barn.process.returncode is None:
                barn.process.kill()
                await stack.enter_async_context(lent(site, key, urls[1], "shed"))
            if text == "sat in the in the":
                # The second volunteer stays, and its engine goes.
                await servers[1].aclose()
                last = await stack.enter_async_context(serving(StubEngine("llamacpp", [" oak", "."]).handle))
                await stack.enter_async_context(lent(site, key, last, "loft"))
        assert "".join(found) == "sat in the in the oak."
    await asyncio.to_thread(site.wait_idle)
    (event,) = (await site.usage())[before:]
    assert event.volunteer is not None
    assert event.volunteer.worker_name == "loft"


async def test_key_that_the_site_does_not_know_ends_the_volunteer_with_the_reason(site: Deployment) -> None:
    async with serving(StubEngine("ollama").handle) as url, lent(site, "cb_wrong", url, "barn", model=OWL) as barn:
        assert "the server does not know the API key" in await barn.ended()
    assert barn.process.returncode == 1


@pytest.mark.slow
async def test_server_of_llamacpp_is_lent(site: Deployment, key: str, client: openai.AsyncOpenAI) -> None:
    """With a real model: text comes in pieces, and a Horde requester's lengths hold."""
    pytest.importorskip("xllamacpp")
    model = model_path(SiteSection(), "smollm2-135m-instruct-q4_1.gguf", os.environ)
    if not model.exists():
        pytest.skip("no model; `callboard models fetch` fetches it")
    port = free_port()
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        LLAMACPP,
        str(model),
        str(port),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        assert process.stdout is not None
        async with asyncio.timeout(60):
            while await process.stdout.readline() not in {b"ready\n", b""}:
                pass
        async with lent(site, key, f"http://127.0.0.1:{port}", "barn", offer="smollm2-135m") as barn:
            found = [piece async for piece in pieces(client, SMALL, 24)]
            assert len(found) > 1
            assert len("".join(found).split()) > 3
            barn.process.send_signal(signal.SIGTERM)
            assert "ended: 1 texts" in await barn.ended()
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
