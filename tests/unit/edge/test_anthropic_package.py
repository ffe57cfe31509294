"""The official `anthropic` package against an edge without a bus: what its users call works as they know it."""

import asyncio
import json
from collections.abc import AsyncGenerator
from typing import Any

import anthropic
import pytest
from pydantic import BaseModel

from callboard_contracts.chat import ChatEnd, ChatFrame, ToolCall
from callboard_contracts.errors import ErrorCode, ErrorInfo
from tests.unit.edge.harness import USAGE, EdgeHarness, frames, running

pytestmark = pytest.mark.unit

HELLO: Any = [{"role": "user", "content": "Hello."}]
ASKED: Any = {"model": "owl", "max_tokens": 50, "messages": HELLO}
DIM: Any = {"name": "dim", "description": "Dims the light.", "input_schema": {"type": "object", "properties": {}}}
OPTIONS: Any = {
    "timeout": 30.0,
    "max_retries": 0,
    # A connection that stays open is a task of the edge, which runs in the test's own loop.
    "default_headers": {"Connection": "close"},
    "_strict_response_validation": True,
}


def asking(**over: Any) -> Any:
    """The arguments of a request."""
    return {**ASKED, **over}


@pytest.fixture
async def client(harness: EdgeHarness) -> AsyncGenerator[anthropic.AsyncAnthropic]:
    async with anthropic.AsyncAnthropic(base_url=harness.url, api_key="cb_x", **OPTIONS) as one:
        yield one


def calling() -> list[ChatFrame]:
    """Thoughts, a text and a tool call."""
    call = ToolCall(id="call_1", name="dim", arguments='{"to": 3}')
    return [
        ChatFrame(seq=0, attempt=1, thinking="Hm.", tokens=1),
        ChatFrame(seq=1, attempt=1, text="I dim it.", tokens=1),
        ChatFrame(seq=2, attempt=1, tool_calls=(call,), tokens=1),
        ChatFrame(seq=3, attempt=1, end=ChatEnd(reason="tool_calls", usage=USAGE)),
    ]


async def test_message_is_created(client: anthropic.AsyncAnthropic, harness: EdgeHarness) -> None:
    harness.plays(frames("Hi", " there."))
    reply = await client.messages.create(**ASKED, system="Be kind.", stop_sequences=["END"])
    assert [block.text for block in reply.content if block.type == "text"] == ["Hi there."]
    assert (reply.role, reply.stop_reason, reply.model) == ("assistant", "end_turn", "owl")
    assert (reply.usage.input_tokens, reply.usage.output_tokens) == (7, 2)
    assert reply._request_id  # pyright: ignore[reportPrivateUsage] - the package's documented name for it


async def test_sync_client_works_too(harness: EdgeHarness) -> None:
    def ask() -> tuple[str, str, str, int, list[str]]:
        with anthropic.Anthropic(base_url=harness.url, auth_token="cb_x", **OPTIONS) as client:
            reply = client.messages.create(**ASKED)
            (block,) = reply.content
            assert block.type == "text"
            text = "".join(
                event.delta.text
                for event in client.messages.create(**ASKED, stream=True)
                if event.type == "content_block_delta" and event.delta.type == "text_delta"
            )
            with client.messages.stream(**ASKED) as stream:
                streamed = "".join(stream.text_stream)
            count = client.messages.count_tokens(model="owl", messages=HELLO)
            return block.text, text, streamed, count.input_tokens, [model.id for model in client.models.list()]

    for _ in range(3):
        harness.plays(frames("Hi", " there."))
    assert await asyncio.to_thread(ask) == (*["Hi there."] * 3, 3, ["owl", "wren/tiny"])


async def test_stream_helper_builds_the_message(client: anthropic.AsyncAnthropic, harness: EdgeHarness) -> None:
    harness.plays(calling(), 0.01)
    asked = asking(tools=[DIM], thinking={"type": "enabled", "budget_tokens": 1024})
    async with client.messages.stream(**asked) as stream:
        kinds = [event.type async for event in stream]
        reply = await stream.get_final_message()
    assert {"thinking", "signature", "text", "input_json", "content_block_stop", "message_stop"} <= set(kinds)
    thought, text, call = reply.content
    assert thought.type == "thinking"
    assert (thought.thinking, bool(thought.signature)) == ("Hm.", True)
    assert text.type == "text"
    assert text.text == "I dim it."
    assert call.type == "tool_use"
    assert (call.id, call.name, call.input) == ("call_1", "dim", {"to": 3})
    assert (reply.stop_reason, reply.usage.input_tokens, reply.usage.output_tokens) == ("tool_use", 7, 2)


async def test_reply_goes_back_with_the_result_of_its_call(
    client: anthropic.AsyncAnthropic, harness: EdgeHarness
) -> None:
    harness.plays(calling())
    reply = await client.messages.create(**ASKED, tools=[DIM], tool_choice={"type": "any"})
    result: Any = {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "call_1", "content": "Done."}]}
    worker = harness.plays(frames("It is dim."))
    await client.messages.create(**asking(messages=[*HELLO, reply.to_param(), result], tools=[DIM]))
    _, said, answered = (await worker).request.messages
    assert (said.content, said.thinking, said.tool_calls[0].arguments) == ("I dim it.", "Hm.", '{"to": 3}')
    assert (answered.role, answered.tool_call_id, answered.content) == ("tool", "call_1", "Done.")


async def test_reply_is_parsed(client: anthropic.AsyncAnthropic, harness: EdgeHarness) -> None:
    class Bird(BaseModel):
        name: str

    worker = harness.plays(frames('{"name": ', '"owl"}'))
    reply = await client.messages.parse(**ASKED, output_format=Bird)
    assert reply.parsed_output == Bird(name="owl")
    assert (await worker).request.output_format.kind == "json_schema"


@pytest.mark.parametrize(
    ("error", "kind", "status"),
    [
        (ErrorInfo(code=ErrorCode.INVALID_API_KEY, message="No such key."), anthropic.AuthenticationError, 401),
        (ErrorInfo(code=ErrorCode.QUOTA_EXCEEDED, message="Over."), anthropic.RateLimitError, 429),
        (ErrorInfo(code=ErrorCode.OVERLOADED, message="Full."), anthropic.InternalServerError, 529),
        (ErrorInfo(code=ErrorCode.QUOTA_UNAVAILABLE, message="Away."), anthropic.InternalServerError, 503),
    ],
)
async def test_refusals_are_the_errors_that_users_catch(
    error: ErrorInfo,
    kind: type[anthropic.APIStatusError],
    status: int,
    client: anthropic.AsyncAnthropic,
    harness: EdgeHarness,
) -> None:
    harness.quota.refusal = error
    for stream in (False, True):
        with pytest.raises(kind) as caught:
            await client.messages.create(**ASKED, stream=stream)
        found = caught.value
        assert (found.status_code, found.error_code, found.api_message) == (status, error.code, error.message)
        assert found.request_id == found.response.headers["x-request-id"]


async def test_unknown_model_and_wrong_field_are_errors(client: anthropic.AsyncAnthropic) -> None:
    with pytest.raises(anthropic.NotFoundError):
        await client.messages.create(**asking(model="nobody"))
    with pytest.raises(anthropic.NotFoundError):
        await client.models.retrieve("nobody")
    with pytest.raises(anthropic.BadRequestError, match="max_tokens"):
        await client.messages.create(**asking(max_tokens=0))
    with pytest.raises(anthropic.BadRequestError, match="Batches"):
        await client.messages.batches.create(requests=[])


async def test_failure_in_mid_stream_is_raised(client: anthropic.AsyncAnthropic, harness: EdgeHarness) -> None:
    failed = ErrorInfo(code=ErrorCode.ENGINE_FAILED, message="The engine failed.")
    harness.plays(
        [*frames("Hi", end=None), ChatFrame(seq=1, attempt=1, end=ChatEnd(reason="error", error=failed))], 0.05
    )
    text = ""

    async def read() -> None:
        nonlocal text
        async for event in await client.messages.create(**ASKED, stream=True):
            if event.type == "content_block_delta" and event.delta.type == "text_delta":
                text += event.delta.text

    with pytest.raises(anthropic.APIStatusError) as caught:
        await read()
    assert text == "Hi"
    assert (caught.value.type, caught.value.api_message) == ("api_error", "The engine failed.")


async def test_request_is_sent_again_where_that_can_help() -> None:
    async with running() as harness:
        options: Any = {**OPTIONS, "max_retries": 1}
        async with anthropic.AsyncAnthropic(base_url=harness.url, api_key="cb_x", **options) as client:
            harness.quota.refusal = ErrorInfo(code=ErrorCode.QUOTA_UNAVAILABLE, message="Away.", retry_after_s=0.01)
            with pytest.raises(anthropic.InternalServerError):
                await client.messages.create(**ASKED)
            assert len(harness.quota.asked) == 2
            harness.quota.refusal = ErrorInfo(code=ErrorCode.QUOTA_EXCEEDED, message="Over.", retry_after_s=3600)
            with pytest.raises(anthropic.RateLimitError) as caught:
                await client.messages.create(**ASKED)
            assert len(harness.quota.asked) == 3
            assert json.loads(caught.value.response.headers["Retry-After"]) == 3600


async def test_client_that_closes_its_stream_ends_the_job(
    client: anthropic.AsyncAnthropic, harness: EdgeHarness
) -> None:
    harness.plays(frames(*"Hello", end=None), 0.01)
    async with await client.messages.create(**ASKED, stream=True) as stream:
        async for event in stream:
            if event.type == "content_block_delta":
                break
    await harness.all_closed()
    assert len(harness.jobs.cancelled) == 1
