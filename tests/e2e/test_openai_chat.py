"""Chat and text completions through the official client and through plain curl."""

import asyncio
import json
from typing import Any

import openai
import pytest

from tests.support.deployment import Deployment
from tests.support.stub_chat import StubChat, numbered
from tests.support.stub_openai import Script

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(400)]

HELLO: Any = [{"role": "user", "content": "Hello."}]


async def curl(url: str, key: str, body: dict[str, Any]) -> tuple[str, bytes]:
    """What curl gets: the head of the answer and its body, byte for byte."""
    process = await asyncio.create_subprocess_exec(
        *("curl", "-sS", "-N", "-i", "--max-time", "20", url),
        *("-H", f"Authorization: Bearer {key}", "-H", "Content-Type: application/json", "-d", json.dumps(body)),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await process.communicate()
    assert process.returncode == 0, err.decode()
    head, _, payload = out.partition(b"\r\n\r\n")
    return head.decode().lower(), payload


def events(payload: bytes) -> list[Any]:
    """The events of an event stream; checks that every line has the one form that all clients read."""
    assert b"\r" not in payload
    blocks = payload.decode().split("\n\n")
    assert blocks.pop() == ""
    assert all(block.startswith("data: ") and "\n" not in block for block in blocks)
    assert blocks.pop() == "data: [DONE]"
    return [json.loads(block.removeprefix("data: ")) for block in blocks]


async def test_chat_answers_in_one_piece(
    client: openai.AsyncOpenAI, deployment: Deployment, chat_engine: StubChat
) -> None:
    chat_engine.plays(numbered(20))
    since = len(await deployment.usage())
    reply = await client.chat.completions.create(model="owl", messages=HELLO)
    choice = reply.choices[0]
    assert choice.message.content == "".join(f"w{n} " for n in range(20))
    assert choice.message.role == "assistant"
    assert choice.finish_reason == "stop"
    assert reply.object == "chat.completion"
    assert reply.model == "owl"
    assert reply.usage is not None
    assert (reply.usage.prompt_tokens, reply.usage.completion_tokens, reply.usage.total_tokens) == (7, 20, 27)
    (event,) = await deployment.usage_of(1, since)
    assert (event.kind, event.outcome) == ("chat", "stop")
    assert (event.work.prompt_tokens, event.work.completion_tokens) == (7, 20)


async def test_chat_streams_in_the_official_client(client: openai.AsyncOpenAI, chat_engine: StubChat) -> None:
    chat_engine.plays(numbered(40, delay_s=0.01))
    stream = await client.chat.completions.create(
        model="owl:latest", messages=HELLO, stream=True, stream_options={"include_usage": True}
    )
    chunks = [chunk async for chunk in stream]
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == "".join(f"w{n} " for n in range(40))
    assert len({chunk.id for chunk in chunks}) == 1
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] == "stop"
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.total_tokens == 47
    assert all(chunk.usage is None for chunk in chunks[:-1])
    assert sum(bool(chunk.choices and chunk.choices[0].delta.content) for chunk in chunks) > 5


async def test_chat_stream_has_the_bytes_that_strict_clients_want(deployment: Deployment, api_key: str) -> None:
    head, payload = await curl(
        f"{deployment.base_url}/chat/completions", api_key, {"model": "owl", "messages": HELLO, "stream": True}
    )
    assert head.startswith("http/1.1 200")
    assert "content-type: text/event-stream" in head
    assert "x-request-id: " in head
    found = events(payload)
    assert found[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert found[-1]["choices"][0] | {"delta": {}} == found[-1]["choices"][0]
    assert found[-1]["choices"][0]["finish_reason"] == "stop"
    assert all(event["choices"][0]["finish_reason"] is None for event in found[:-1])
    assert {event["object"] for event in found} == {"chat.completion.chunk"}
    assert all("usage" not in event for event in found)


async def test_chat_stops_at_the_limit(client: openai.AsyncOpenAI, chat_engine: StubChat) -> None:
    chat_engine.plays(numbered(100))
    for limit in ({"max_tokens": 10}, {"max_completion_tokens": 10}):
        reply = await client.chat.completions.create(model="owl", messages=HELLO, **limit)  # pyright: ignore[reportArgumentType, reportCallIssue]
        assert reply.choices[0].finish_reason == "length"
        assert reply.choices[0].message.content == "".join(f"w{n} " for n in range(10))


async def test_chat_never_passes_the_limit_of_an_engine_that_ignores_it(
    client: openai.AsyncOpenAI, deployment: Deployment, chat_engine: StubChat
) -> None:
    chat_engine.plays(Script(reply=[f"w{n} " for n in range(200)], ignore_limit=True))
    since = len(await deployment.usage())
    reply = await client.chat.completions.create(model="owl", messages=HELLO, max_tokens=10)
    assert reply.choices[0].finish_reason == "length"
    assert reply.choices[0].message.content == "".join(f"w{n} " for n in range(10))
    (event,) = await deployment.usage_of(1, since)
    assert event.work.completion_tokens == 10


async def test_chat_ends_before_a_stop_text(client: openai.AsyncOpenAI, chat_engine: StubChat) -> None:
    chat_engine.plays(numbered(30))
    reply = await client.chat.completions.create(model="owl", messages=HELLO, stop=["w5"])
    assert reply.choices[0].finish_reason == "stop"
    assert reply.choices[0].message.content == "w0 w1 w2 w3 w4 "


async def test_chat_passes_sampling_on(client: openai.AsyncOpenAI, chat_engine: StubChat) -> None:
    await client.chat.completions.create(
        model="owl", messages=HELLO, temperature=0.3, top_p=0.9, seed=7, presence_penalty=0.5, frequency_penalty=-0.5
    )
    sent = chat_engine.calls[-1]
    wanted = {"temperature": 0.3, "top_p": 0.9, "seed": 7, "presence_penalty": 0.5, "frequency_penalty": -0.5}
    assert {key: sent.get(key) for key in wanted} == wanted


async def test_chat_passes_tools_on_and_returns_the_call(client: openai.AsyncOpenAI, chat_engine: StubChat) -> None:
    chat_engine.plays(Script(tool_call={"name": "dim", "arguments": {"level": 3}}))
    tool: Any = {"type": "function", "function": {"name": "dim", "parameters": {"type": "object", "properties": {}}}}
    reply = await client.chat.completions.create(model="owl", messages=HELLO, tools=[tool])
    assert reply.choices[0].finish_reason == "tool_calls"
    calls: Any = reply.choices[0].message.tool_calls
    assert calls[0].function.name == "dim"
    assert json.loads(calls[0].function.arguments) == {"level": 3}
    assert chat_engine.calls[-1]["tools"][0]["function"]["name"] == "dim"


async def test_chat_keeps_thinking_out_of_the_reply(client: openai.AsyncOpenAI, chat_engine: StubChat) -> None:
    chat_engine.plays(Script(reply=["The ", "answer."], reasoning=["hidden ", "thought"]))
    reply = await client.chat.completions.create(model="owl", messages=HELLO)
    assert reply.choices[0].message.content == "The answer."
    chat_engine.plays(Script(reply=["The ", "answer."], reasoning=["hidden ", "thought"]))
    stream = await client.chat.completions.create(model="owl", messages=HELLO, stream=True)
    text = "".join([chunk.choices[0].delta.content or "" async for chunk in stream if chunk.choices])
    assert text == "The answer."


async def test_completion_answers_and_streams(client: openai.AsyncOpenAI, chat_engine: StubChat) -> None:
    chat_engine.plays(numbered(12))
    reply = await client.completions.create(model="owl", prompt="Once", max_tokens=50)
    assert reply.object == "text_completion"
    assert reply.choices[0].text == "".join(f"w{n} " for n in range(12))
    stream = await client.completions.create(model="owl", prompt="Once", max_tokens=50, stream=True)
    assert "".join([chunk.choices[0].text async for chunk in stream if chunk.choices]) == reply.choices[0].text


async def test_models_are_listed_and_found(client: openai.AsyncOpenAI) -> None:
    names = [model.id async for model in client.models.list()]
    assert "owl" in names
    assert "parrot" in names
    assert (await client.models.retrieve("owl")).id == "owl"
    with pytest.raises(openai.NotFoundError):
        await client.models.retrieve("nobody")


async def test_request_id_comes_back(client: openai.AsyncOpenAI) -> None:
    raw = await client.chat.completions.with_raw_response.create(
        model="owl", messages=HELLO, extra_headers={"X-Request-Id": "stage-left-7"}
    )
    assert raw.headers["x-request-id"] == "stage-left-7"


async def test_many_streams_at_once_keep_their_texts_apart(
    client: openai.AsyncOpenAI, deployment: Deployment, chat_engine: StubChat
) -> None:
    chat_engine.plays(numbered(30, delay_s=0.005))
    since = len(await deployment.usage())

    async def one() -> str:
        stream = await client.chat.completions.create(model="owl", messages=HELLO, stream=True)
        return "".join([chunk.choices[0].delta.content or "" async for chunk in stream if chunk.choices])

    texts = await asyncio.gather(*(one() for _ in range(40)))
    assert set(texts) == {"".join(f"w{n} " for n in range(30))}
    events_seen = await deployment.usage_of(40, since)
    assert len({event.request_id for event in events_seen}) == 40
