"""What clients send and get back stands in no log, no metric, no error text and no file, wherever it is put."""

import asyncio
import contextlib
import json
from typing import Any

import aiohttp
import pytest

from tests.e2e.conftest import MakeBoard
from tests.support.deployment import Deployment, eventually
from tests.support.stored_files import files_with
from tests.support.stub_chat import StubChat
from tests.support.stub_openai import Script

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(400)]

MARKER = "Zq7wXv9marker"
ADDRESS = "127.0.0.77"
TOKEN = "an-operators-own-long-token"
SHAPE: dict[str, Any] = {
    "type": "object",
    "title": MARKER,
    "properties": {MARKER: {"type": "string", "pattern": f"^{MARKER}$", "description": MARKER}},
}
TOOL: dict[str, Any] = {"type": "function", "function": {"name": MARKER, "description": MARKER, "parameters": SHAPE}}
SAID: list[dict[str, Any]] = [
    {"role": "system", "content": MARKER},
    {"role": "user", "content": MARKER, "name": MARKER},
]
IMAGE = [{"type": "image_url", "image_url": {"url": f"https://{MARKER}.example/{MARKER}.png"}}]


def chat(**over: Any) -> dict[str, Any]:
    return {"model": "owl", "messages": SAID, "user": MARKER, "metadata": {MARKER: MARKER}, **over}


def schema(body: dict[str, Any]) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "x", "description": MARKER, "schema": body, "strict": True}}


BODIES: dict[str, tuple[str, Any]] = {
    "a chat": ("chat/completions", chat(stop=[MARKER], safety_identifier=MARKER, prompt_cache_key=MARKER)),
    "a streamed chat": ("chat/completions", chat(stream=True, stop=MARKER)),
    "tools": ("chat/completions", chat(tools=[TOOL], tool_choice={"type": "function", "function": {"name": MARKER}})),
    "a tool's name that is none": ("chat/completions", chat(tools=[{**TOOL, "function": {"name": f"{MARKER} !"}}])),
    "a schema": ("chat/completions", chat(response_format=schema(SHAPE))),
    "a wrong schema": ("chat/completions", chat(response_format=schema({"type": MARKER, "pattern": f"({MARKER}"}))),
    "a schema that contradicts itself": (
        "chat/completions",
        chat(response_format=schema({**SHAPE, "minProperties": 5, "maxProperties": 2})),
    ),
    "an unknown format": ("chat/completions", chat(response_format={"type": MARKER})),
    "an unknown model": ("chat/completions", chat(model=MARKER)),
    "an unknown role": ("chat/completions", chat(messages=[{"role": MARKER, "content": MARKER}])),
    "an image": ("chat/completions", chat(messages=[{"role": "user", "content": IMAGE}])),
    "a bias": ("chat/completions", chat(logit_bias={MARKER: 1})),
    "a wrong type": ("chat/completions", chat(temperature=MARKER, seed=MARKER)),
    "a completion": ("completions", {"model": "owl", "prompt": MARKER, "stop": [MARKER], "user": MARKER}),
    "speech": ("audio/speech", {"model": "parrot", "input": f"{MARKER}.", "voice": "tenor", "instructions": MARKER}),
    "an unknown voice": ("audio/speech", {"model": "parrot", "input": MARKER, "voice": MARKER}),
    "an unknown sound format": (
        "audio/speech",
        {"model": "parrot", "input": MARKER, "voice": "tenor", "response_format": MARKER},
    ),
    "no JSON": ("chat/completions", f'{{"{MARKER}": {MARKER}'),
    "nothing known": (f"{MARKER}/{MARKER}?{MARKER}={MARKER}", {MARKER: MARKER}),
}
RAW: dict[str, bytes] = {
    "a large header": b"GET /v1/models HTTP/1.1\r\nHost: x\r\nX-Words: %s\r\n\r\n" % (MARKER.encode() * 20_000),
    "a bad target": b"GET http://[%s HTTP/1.1\r\nHost: x\r\n\r\n" % MARKER.encode(),
    "a bad request line": b"%s\r\n\r\n" % MARKER.encode(),
    "a bad header": b"GET / HTTP/1.1\r\n%s\x01\r\n\r\n" % MARKER.encode(),
    "a bad chunk": b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n%s\r\n"
    % MARKER.encode(),
    "an unfinished body": b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 999\r\n\r\n%s"
    % MARKER.encode(),
    "unfinished headers": b"POST /v1/%s HTTP/1.1\r\nX-Words: %s" % (MARKER.encode(), MARKER.encode()),
    "a broken gzip body": b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Encoding: gzip\r\n"
    b"Content-Length: %d\r\n\r\n%s" % (len(MARKER), MARKER.encode()),
    "an unknown encoding": b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Encoding: %s\r\n"
    b"Content-Length: 2\r\n\r\n{}" % MARKER.encode(),
}
KEYS = (MARKER, f"cb-{MARKER}", f"cb_{MARKER}", f"sk-{MARKER}")


async def send_raw(deployment: Deployment, data: bytes) -> None:
    port = deployment.edges[0].config["edge"]["port"]
    reader, writer = await asyncio.open_connection("127.0.0.1", port, local_addr=(ADDRESS, 0))
    try:
        # Where the connection may be used again, it stays open.
        with contextlib.suppress(ConnectionError, TimeoutError):
            writer.write(data)
            await writer.drain()
            async with asyncio.timeout(20):
                await reader.read()
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


def session() -> aiohttp.ClientSession:
    connector = aiohttp.TCPConnector(local_addr=(ADDRESS, 0))
    headers = {"X-Words": MARKER, "User-Agent": MARKER, "Referer": MARKER, "X-Forwarded-For": MARKER}
    return aiohttp.ClientSession(connector=connector, headers=headers, timeout=aiohttp.ClientTimeout(60))


def nothing_shown(deployment: Deployment) -> None:
    """Every log, configuration and store file lies in the deployment's folder."""
    for words in (MARKER, ADDRESS):
        assert files_with(deployment.folder, words.encode()) == []
        for service in deployment.services:
            assert words not in json.dumps(service.metrics())


@pytest.fixture
async def private(make_deployment: MakeBoard) -> Deployment:
    over = {"edge": {"admin_token": TOKEN, "body_timeout_s": 2}}
    return await asyncio.to_thread(make_deployment, over)


async def test_words_are_nowhere_while_a_job_waits_runs_and_is_over(private: Deployment, chat_engine: StubChat) -> None:
    chat_engine.plays(Script(reply=[MARKER, " and ", MARKER], first_delay_s=1.0))
    async with session() as one:
        asked = asyncio.ensure_future(one.post(f"{private.base_url}/chat/completions", json=chat()))
        await eventually(lambda: chat_engine.calls, 20, "the engine has the job")
        # The job is in its queue until the reply is over.
        assert await asyncio.to_thread(private.messages_in, "CHAT") == 1
        await asyncio.to_thread(nothing_shown, private)
        reply = await asked
        assert MARKER in await reply.text()
    await asyncio.to_thread(private.wait_idle)
    # The reply is kept for twenty minutes more.
    assert await asyncio.to_thread(private.messages_in, "RESULT") == 1
    await asyncio.to_thread(nothing_shown, private)


async def test_words_are_nowhere_whatever_is_sent(private: Deployment, chat_engine: StubChat) -> None:
    chat_engine.plays(Script(reply=[MARKER]))
    statuses: dict[str, int] = {}
    async with session() as one:
        for name, (path, body) in BODIES.items():
            data = body if isinstance(body, str) else json.dumps(body)
            async with one.post(f"{private.base_url}/{path}", data=data) as reply:
                statuses[name] = reply.status
                await reply.read()
        # The engine writes the same words under a schema and with a tool that must be called.
        failed = {name: status for name, status in statuses.items() if status >= 500}
        assert failed == {"a schema": 502, "tools": 502}
        assert (statuses["a chat"], statuses["a streamed chat"], statuses["speech"]) == (200, 200, 200)
        chat_engine.plays(Script(fail_status=400, fail_times=99, fail_code=MARKER))
        async with one.post(f"{private.base_url}/chat/completions", json=chat()) as reply:
            assert reply.status >= 400
    await asyncio.gather(*(send_raw(private, data) for data in RAW.values()))
    await asyncio.to_thread(private.wait_idle)
    await asyncio.to_thread(nothing_shown, private)


async def test_keys_and_tokens_are_not_repeated(private: Deployment) -> None:
    async with session() as one:
        for key in KEYS:
            headers = {"Authorization": f"Bearer {key}"}
            for path in ("/v1/models", "/v1/usage", "/admin/v1/accounts"):
                async with one.get(f"{private.root_url()}{path}", headers=headers) as reply:
                    assert MARKER not in await reply.text()
                    assert MARKER not in str(reply.headers)
            async with one.post(f"{private.base_url}/chat/completions", headers=headers, json={}) as reply:
                assert MARKER not in await reply.text()
    await asyncio.to_thread(nothing_shown, private)
