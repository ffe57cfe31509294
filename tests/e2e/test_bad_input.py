"""Requests that cannot be served: a clear error in OpenAI's form, nothing charged, nothing left in a queue."""

import asyncio
import contextlib
import json
import time
from typing import Any

import aiohttp
import pytest

from tests.support.deployment import Deployment
from tests.support.stub_chat import StubChat
from tests.support.stub_speech import StubSpeech

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(400)]

CHAT = "/chat/completions"
COMPLETION = "/completions"
SPEECH = "/audio/speech"
HELLO = [{"role": "user", "content": "Hello."}]


def chat(**over: Any) -> dict[str, Any]:
    return {"model": "owl", "messages": HELLO, **over}


def speech(**over: Any) -> dict[str, Any]:
    return {"model": "parrot", "input": "Good evening.", "voice": "tenor", **over}


FIELDS: dict[str, tuple[str, dict[str, Any], int, str | None]] = {
    "messages of the wrong type": (CHAT, chat(messages="hello"), 400, "messages"),
    "no messages": (CHAT, {"model": "owl"}, 400, "messages"),
    "empty messages": (CHAT, chat(messages=[]), 400, "messages"),
    "a message that is no object": (CHAT, chat(messages=["hello"]), 400, "messages"),
    "an unknown role": (CHAT, chat(messages=[{"role": "stranger", "content": "x"}]), 400, "messages"),
    "a user without content": (CHAT, chat(messages=[{"role": "user"}]), 400, "messages"),
    "content of the wrong type": (CHAT, chat(messages=[{"role": "user", "content": 7}]), 400, "messages"),
    "an image": (
        CHAT,
        chat(messages=[{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:,"}}]}]),
        400,
        "messages",
    ),
    "an unknown chat model": (CHAT, chat(model="nobody"), 404, "model"),
    "a model of the wrong type": (CHAT, chat(model=7), 400, "model"),
    "temperature as text": (CHAT, chat(temperature="hot"), 400, "temperature"),
    "a negative temperature": (CHAT, chat(temperature=-0.1), 400, "temperature"),
    "an absurd temperature": (CHAT, chat(temperature=1e9), 400, "temperature"),
    "top_p over one": (CHAT, chat(top_p=1.5), 400, "top_p"),
    "a penalty out of range": (CHAT, chat(presence_penalty=5), 400, "presence_penalty"),
    "no tokens wanted": (CHAT, chat(max_tokens=0), 400, "max_tokens"),
    "a negative limit": (CHAT, chat(max_completion_tokens=-3), 400, "max_completion_tokens"),
    "too many answers": (CHAT, chat(n=9), 400, "n"),
    "too many stops": (CHAT, chat(stop=["a", "b", "c", "d", "e"]), 400, "stop"),
    "a seed as text": (CHAT, chat(seed="x"), 400, "seed"),
    "stream as text": (CHAT, chat(stream="yes please"), 400, "stream"),
    "an unknown response format": (CHAT, chat(response_format={"type": "yaml"}), 400, "response_format"),
    "a schema without a schema": (
        CHAT,
        chat(response_format={"type": "json_schema", "json_schema": {"name": "x"}}),
        400,
        "response_format",
    ),
    "a prompt over the context": (
        CHAT,
        chat(messages=[{"role": "user", "content": "word " * 20_000}]),
        400,
        "messages",
    ),
    "a completion without a prompt": (COMPLETION, {"model": "owl"}, 400, "prompt"),
    "a prompt of tokens and texts": (COMPLETION, {"model": "owl", "prompt": [1, "a"]}, 400, "prompt"),
    "an unknown speech model": (SPEECH, speech(model="nobody"), 404, "model"),
    "an unknown voice": (SPEECH, speech(voice="nobody"), 400, "voice"),
    "a voice of the wrong type": (SPEECH, speech(voice=3), 400, "voice"),
    "no text": (SPEECH, {"model": "parrot", "voice": "tenor"}, 400, "input"),
    "an empty text": (SPEECH, speech(input=""), 400, "input"),
    "a text of blanks": (SPEECH, speech(input=" \n\t "), 400, "input"),
    "a text over the limit": (SPEECH, speech(input="a" * 4097), 400, "input"),
    "an unknown format": (SPEECH, speech(response_format="ogg-ish"), 400, "response_format"),
    "too slow": (SPEECH, speech(speed=0.1), 400, "speed"),
    "too fast": (SPEECH, speech(speed=9), 400, "speed"),
    "speed as text": (SPEECH, speech(speed="fast"), 400, "speed"),
    "an unknown stream format": (SPEECH, speech(stream_format="tape"), 400, "stream_format"),
}

BODIES: dict[str, bytes] = {
    "cut off": b'{"model": "owl", "messages": [',
    "empty": b"",
    "a list": b"[]",
    "a number": b"7",
    "null": b"null",
    "not UTF-8": b'{"model": "owl", "messages": [{"role": "user", "content": "\xff\xfe"}]}',
    "NaN": b'{"model": "owl", "messages": [{"role": "user", "content": "x"}], "temperature": NaN}',
    "infinity": b'{"model": "owl", "messages": [{"role": "user", "content": "x"}], "temperature": 1e999}',
    "a number of 5000 digits": b'{"model": "owl", "messages": [{"role": "user", "content": "x"}], "max_tokens": '
    + b"9" * 5000
    + b"}",
    "a lone surrogate": b'{"model": "owl", "messages": [{"role": "user", "content": "\\ud800"}]}',
    "nested too deeply": b'{"model": "owl", "messages": ' + b"[" * 50_000 + b"]" * 50_000 + b"}",
}


def auth(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}


async def refused(reply: aiohttp.ClientResponse, status: int) -> dict[str, Any]:
    """Checks the form that every error has, and returns the error."""
    body = await reply.json()
    assert reply.status == status, body
    assert reply.content_type == "application/json"
    assert reply.headers["x-request-id"]
    error = body["error"]
    assert set(body) == {"error"}
    assert isinstance(error["message"], str)
    assert error["message"]
    assert error["type"]
    assert {"param", "code"} <= set(error)
    assert "Traceback" not in error["message"]
    return error


@pytest.mark.parametrize("case", FIELDS)
async def test_field_that_cannot_be_served_is_named_and_costs_nothing(
    case: str, deployment: Deployment, api_key: str, chat_engine: StubChat, speech_engine: StubSpeech
) -> None:
    path, body, status, param = FIELDS[case]
    before = await deployment.counters()
    async with (
        aiohttp.ClientSession() as session,
        session.post(deployment.base_url + path, json=body, headers=auth(api_key)) as reply,
    ):
        error = await refused(reply, status)
    assert error["param"] is not None
    assert error["param"].partition(".")[0].partition("[")[0] == param
    if "unknown" in case and param in {"model", "voice"}:
        offered = {"model": "parrot" if path == SPEECH else "owl", "voice": "alto"}[param]
        assert offered in error["message"]
    await asyncio.to_thread(deployment.wait_idle)
    assert {key: value for key, value in (await deployment.counters()).items() if value != before.get(key, 0)} == {}
    assert chat_engine.calls == []
    assert speech_engine.calls == []


@pytest.mark.parametrize("case", BODIES)
async def test_body_that_is_no_request_is_refused(case: str, deployment: Deployment, api_key: str) -> None:
    before = await deployment.counters()
    async with (
        aiohttp.ClientSession() as session,
        session.post(deployment.base_url + CHAT, data=BODIES[case], headers=auth(api_key)) as reply,
    ):
        await refused(reply, 400)
    await asyncio.to_thread(deployment.wait_idle)
    assert await deployment.counters() == before


@pytest.mark.parametrize("chunked", [False, True], ids=["with a length", "chunked"])
async def test_body_over_the_limit_is_413(chunked: bool, deployment: Deployment, api_key: str) -> None:
    body = json.dumps(chat(messages=[{"role": "user", "content": "x" * 400_000}])).encode()

    async def pieces() -> Any:
        for start in range(0, len(body), 50_000):
            yield body[start : start + 50_000]

    async with aiohttp.ClientSession() as session:
        try:
            async with session.post(
                deployment.base_url + CHAT, data=pieces() if chunked else body, headers=auth(api_key)
            ) as reply:
                await refused(reply, 413)
        except (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError):
            # A server may hang up on a sender that does not stop; then the answer cannot be read by every client.
            assert await refused_after_expect(deployment, api_key, len(body)) == 413


async def refused_after_expect(deployment: Deployment, key: str, length: int) -> int:
    """Sends only the head of a request that announces too much, and returns the status that comes back."""
    host = deployment.root_url().removeprefix("http://")
    reader, writer = await asyncio.open_connection("127.0.0.1", int(host.rpartition(":")[2]))
    writer.write(
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {key}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n".encode()
    )
    async with asyncio.timeout(10):
        line = await reader.readline()
    writer.close()
    return int(line.split()[1])


async def test_key_that_is_unknown_is_401(deployment: Deployment) -> None:
    async with (
        aiohttp.ClientSession() as session,
        session.post(deployment.base_url + CHAT, json=chat(), headers=auth("cb_no-such-key-of-ours")) as reply,
    ):
        error = await refused(reply, 401)
    assert "cb_no-such-key-of-ours" not in error["message"]


async def test_key_that_was_revoked_is_401_at_once(deployment: Deployment) -> None:
    key = await asyncio.to_thread(deployment.create_key, "standard")
    async with aiohttp.ClientSession() as session:
        async with session.post(deployment.base_url + CHAT, json=chat(), headers=auth(key)) as reply:
            assert reply.status == 200
        await asyncio.to_thread(deployment.revoke_key, key)
        for path, body in ((CHAT, chat()), (SPEECH, speech())):
            async with session.post(deployment.base_url + path, json=body, headers=auth(key)) as reply:
                await refused(reply, 401)


async def test_key_over_its_limit_is_429_with_a_time_to_return(deployment: Deployment) -> None:
    """A day of 120 tokens has room for two replies of 7 + 32 tokens, and not for a third."""
    key = await asyncio.to_thread(deployment.create_key, "tiny")
    body = {"model": "owl", "prompt": "Once", "max_tokens": 32}
    async with aiohttp.ClientSession() as session:
        for _ in range(2):
            async with session.post(deployment.base_url + COMPLETION, json=body, headers=auth(key)) as reply:
                assert reply.status == 200
            await asyncio.to_thread(deployment.wait_idle)
        before = await deployment.counters()
        async with session.post(
            deployment.base_url + COMPLETION, json=body | {"max_tokens": 60}, headers=auth(key)
        ) as reply:
            error = await refused(reply, 429)
            assert int(reply.headers["Retry-After"]) >= 1
    assert error["code"]
    assert await deployment.counters() == before


async def test_request_larger_than_the_whole_limit_is_429_without_a_time_to_return(deployment: Deployment) -> None:
    key = await asyncio.to_thread(deployment.create_key, "tiny")
    async with (
        aiohttp.ClientSession() as session,
        session.post(deployment.base_url + CHAT, json=chat(max_tokens=200), headers=auth(key)) as reply,
    ):
        await refused(reply, 429)
        assert "Retry-After" not in reply.headers
        assert reply.headers.get("x-should-retry") == "false"


@pytest.mark.parametrize(
    ("path", "status", "code", "allowed"),
    [
        ("/chat/completions", 405, "method_not_allowed", "POST, OPTIONS"),
        ("/nothing/here", 404, "not_found", None),
        ("/models/nobody", 404, "model_not_found", None),
    ],
)
async def test_path_that_is_not_served_answers_in_openai_form(
    path: str, status: int, code: str, allowed: str | None, deployment: Deployment, api_key: str
) -> None:
    async with (
        aiohttp.ClientSession() as session,
        session.get(deployment.base_url + path, headers=auth(api_key)) as reply,
    ):
        error = await refused(reply, status)
        assert error["code"] == code
        assert reply.headers.get("Allow") == allowed


@pytest.mark.parametrize("part", ["head", "body"])
async def test_client_that_sends_a_byte_a_second_is_cut_off(part: str, deployment: Deployment, api_key: str) -> None:
    """The set allows 3 s for each part; a client that needs minutes must not hold a connection that long."""
    host = deployment.root_url().removeprefix("http://")
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {api_key}\r\n"
        "Content-Type: application/json\r\nContent-Length: 300\r\n\r\n"
    ).encode()
    reader, writer = await asyncio.open_connection("127.0.0.1", int(host.rpartition(":")[2]))
    slow = head if part == "head" else b'{"model": "owl", "messages": [' + b" " * 200
    if part == "body":
        writer.write(head)

    async def dribble() -> None:
        with contextlib.suppress(ConnectionError):
            for byte in slow:
                writer.write(bytes([byte]))
                await writer.drain()
                await asyncio.sleep(1)

    started = time.monotonic()
    sender = asyncio.ensure_future(dribble())
    try:
        async with asyncio.timeout(30):
            answer = await reader.read()
    except ConnectionError:
        answer = b""
    finally:
        sender.cancel()
        await asyncio.gather(sender, return_exceptions=True)
        writer.close()
    assert time.monotonic() - started < 20
    if part == "body":
        assert answer.startswith(b"HTTP/1.1 408"), answer[:200]
        assert b'"error"' in answer


async def test_error_texts_and_logs_hold_no_prompt(deployment: Deployment, api_key: str) -> None:
    secret = "the-understudy-is-asleep"
    async with aiohttp.ClientSession() as session:
        for body in (
            chat(messages=[{"role": secret, "content": secret}]),
            chat(messages=secret),
            chat(model=7, n=secret),
        ):
            async with session.post(deployment.base_url + CHAT, json=body, headers=auth(api_key)) as reply:
                assert secret not in await reply.text()
        async with session.post(
            deployment.base_url + CHAT, json=chat(messages=[{"role": "user", "content": secret}]), headers=auth(api_key)
        ) as reply:
            assert reply.status == 200
    for service in deployment.services:
        assert secret not in service.running.output(), service.name
        assert api_key not in service.running.output(), service.name
