"""The OpenAI backend against a server that speaks the protocol over a real socket."""

import asyncio
import json
from collections.abc import AsyncGenerator, Generator
from contextlib import suppress

import pytest

from callboard_chat.backends.openai import OpenAIEngine
from callboard_chat.backends.openai_replies import EventReader, ReplyReader
from callboard_chat.domain.ports import Chunk, Continuation
from callboard_contracts.chat import (
    ChatMessage,
    ChatRequest,
    Image,
    OutputFormat,
    PhaseDurations,
    Sampling,
    Thinking,
    TokenLogprob,
    Tool,
)
from callboard_contracts.errors import ErrorCode
from callboard_contracts.tokens import DescribeModelReply
from callboard_worker.engine import EngineError
from tests.backends.chat.suite import ChatEngineSuite, Rig, collect, failure, request, settled, text_of
from tests.support.ports import free_port
from tests.support.stub_openai import Script, StubOpenAI
from tests.support.threaded_app import ThreadedApp

pytestmark = pytest.mark.backend


class StubRig(Rig):
    def __init__(self, stub: StubOpenAI, app: ThreadedApp, engine: OpenAIEngine) -> None:
        self.stub = stub
        self.app = app
        self.engine = engine

    async def busy(self) -> int:
        return self.stub.active

    def slow(self) -> None:
        self.stub.script.token_delay_s = 0.1

    def long_prompt(self) -> str:
        self.stub.script.context_tokens = 100
        return "word " * 500


@pytest.fixture
def served() -> Generator[tuple[StubOpenAI, ThreadedApp]]:
    stub = StubOpenAI()
    with ThreadedApp(stub.app) as app:
        yield stub, app


@pytest.fixture
async def rig(served: tuple[StubOpenAI, ThreadedApp]) -> AsyncGenerator[StubRig]:
    stub, app = served
    stub.script.token_delay_s = 0.002
    engine = OpenAIEngine(f"{app.url}/v1", "secret", connect_timeout_s=2)
    await engine.load()
    yield StubRig(stub, app, engine)
    await engine.close()


async def answered(answer: bytes, wanted: ChatRequest) -> list[Chunk]:
    """A reply of a server that answers exactly so."""
    ended = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b'"model"')
        writer.write(answer)
        with suppress(ConnectionError):
            await reader.read()
        writer.close()
        ended.set()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        engine = OpenAIEngine(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1", None, connect_timeout_s=2)
        try:
            return await collect(engine, wanted)
        finally:
            await engine.close()
            await asyncio.wait_for(ended.wait(), 5)


class TestOpenAI(ChatEngineSuite):
    """The common suite; its fixture is the module's."""


async def test_a_reply_that_arrives_at_once_is_its_first_word_and_then_the_rest(rig: StubRig) -> None:
    rig.stub.script = Script(at_once=True)
    first, rest, last = await collect(rig.engine, request(limit=100))
    assert first.text == rig.stub.script.reply[0]
    assert rest.text == "".join(rig.stub.script.reply[1:])
    assert (first.tokens, rest.tokens) == (1, 31)
    assert (last.finish, last.prompt_tokens, last.completion_tokens) == ("stop", 7, 32)


@pytest.mark.parametrize("whole", [True, False], ids=["whole", "open"])
async def test_the_last_words_tell_that_the_end_follows_where_it_has_arrived(whole: bool) -> None:
    events = (
        b'data: {"choices": [{"delta": {"content": "a"}}]}',
        b'data: {"choices": [{"delta": {"content": "b"}, "finish_reason": "stop"}]}',
        b"data: [DONE]\n\n",
    )
    body = b"\n\n".join(events)

    head = f"HTTP/1.1 200 OK\r\ncontent-length: {len(body) + (not whole)}\r\n\r\n"
    chunks = await answered(head.encode() + body, request())
    assert [(chunk.text, chunk.last_follows) for chunk in chunks] == [("a", False), ("b", whole), ("", False)]


@pytest.mark.parametrize("mode", ["chat", "completion"])
async def test_an_answer_that_is_not_streamed_is_read_all_the_same(mode: str) -> None:
    said = {"message": {"role": "assistant", "content": "Hi."}} if mode == "chat" else {"text": "Hi."}
    body = json.dumps({"choices": [{**said, "finish_reason": "stop"}], "usage": {"prompt_tokens": 7}}).encode()
    head = f"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    first, last = await answered(head.encode() + body, request(mode=mode))
    assert (first.text, last.finish, last.prompt_tokens) == ("Hi.", "stop", 7)


async def test_connections_are_kept_and_the_key_is_sent(rig: StubRig) -> None:
    for _ in range(3):
        await collect(rig.engine, request())
    assert rig.stub.authorizations == ["Bearer secret"] * 3
    assert rig.stub.left_early == 0
    assert rig.stub.connections == 1


async def test_a_kept_connection_that_the_server_closed_is_no_failure(rig: StubRig) -> None:
    await collect(rig.engine, request())
    await asyncio.to_thread(rig.app.pause)
    await asyncio.to_thread(rig.app.start)
    assert (await collect(rig.engine, request()))[-1].finish == "length"


async def test_the_request_carries_every_field_that_was_given(rig: StubRig) -> None:
    sampling = Sampling(temperature=0.5, top_p=0.9, top_k=3, presence_penalty=1, seed=4, stop=("END",))
    tool = Tool(name="look", description="Looks.", parameters={"type": "object"})
    schema = OutputFormat(kind="json_schema", name="shape", json_schema={"type": "object"})
    await collect(
        rig.engine, request(limit=9, sampling=sampling, tools=(tool,), tool_choice="look", output_format=schema)
    )
    (body,) = rig.stub.requests
    assert body["max_tokens"] == 9
    assert body["stream_options"] == {"include_usage": True}
    assert {key: body[key] for key in ("temperature", "top_p", "top_k", "presence_penalty", "seed", "stop")} == {
        "temperature": 0.5,
        "top_p": 0.9,
        "top_k": 3,
        "presence_penalty": 1,
        "seed": 4,
        "stop": ["END"],
    }
    assert "min_p" not in body
    assert body["tools"][0]["function"]["name"] == "look"
    assert body["tool_choice"] == {"type": "function", "function": {"name": "look"}}
    assert body["response_format"]["json_schema"]["schema"] == {"type": "object"}


async def test_thinking_in_a_field_of_its_own_stays_apart(rig: StubRig) -> None:
    rig.stub.script = Script(reply=["yes"], reasoning=["hm ", "so "])
    chunks = await collect(rig.engine, request())
    assert text_of(chunks) == "yes"
    assert "".join(chunk.thinking for chunk in chunks) == "hm so "


async def test_tool_calls_are_put_together_and_come_last(rig: StubRig) -> None:
    rig.stub.script = Script(tool_call={"name": "look", "arguments": {"where": "up"}})
    *_, last = await collect(rig.engine, request(tools=(Tool(name="look"),)))
    assert last.finish == "tool_calls"
    (call,) = last.tool_calls
    assert (call.id, call.name, call.arguments) == ("call_1", "look", '{"where": "up"}')


async def test_a_server_that_ignores_the_limit_is_cut(rig: StubRig) -> None:
    rig.stub.script = Script(ignore_limit=True, at_once=True)
    chunks = await collect(rig.engine, request(limit=5))
    assert sum(chunk.tokens for chunk in chunks) == 5
    assert text_of(chunks) == "word0 word1 word2 word3 word4 "
    assert chunks[-1].finish == "length"


async def test_a_server_without_usage_still_ends(rig: StubRig) -> None:
    rig.stub.script = Script(send_usage=False)
    *_, last = await collect(rig.engine, request(limit=50))
    assert (last.finish, last.prompt_tokens, last.completion_tokens) == ("stop", None, None)


@pytest.mark.parametrize(
    ("status", "code", "expected"),
    [
        (429, "", ErrorCode.ENGINE_UNAVAILABLE),
        (500, "", ErrorCode.ENGINE_UNAVAILABLE),
        (503, "", ErrorCode.ENGINE_UNAVAILABLE),
        (401, "", ErrorCode.ENGINE_FAILED),
        (404, "", ErrorCode.ENGINE_FAILED),
        (400, "", ErrorCode.INVALID_REQUEST),
        (400, "context_length_exceeded", ErrorCode.CONTEXT_LENGTH_EXCEEDED),
    ],
)
async def test_an_error_status_becomes_a_code_without_the_engines_words(
    rig: StubRig, status: int, code: str, expected: ErrorCode
) -> None:
    rig.stub.script = Script(fail_status=status, fail_times=1, fail_code=code, retry_after="7")
    with pytest.raises(EngineError) as refused:
        await collect(rig.engine, request())
    info = refused.value.info
    assert info.code is expected
    assert "secret" not in info.message
    assert info.retry_after_s == (7 if expected is ErrorCode.ENGINE_UNAVAILABLE else None)


async def test_an_error_event_in_mid_stream_is_a_failure(rig: StubRig) -> None:
    rig.stub.script = Script(error_at=3)
    said, error = await failure(rig.engine, request(limit=50))
    assert said == "word0 word1 word2 "
    assert error.code is ErrorCode.ENGINE_FAILED
    assert "secret" not in error.message


async def test_a_connection_that_breaks_in_mid_stream_is_unavailable(rig: StubRig) -> None:
    rig.stub.script = Script(break_at=3, token_delay_s=0.01)
    said, error = await failure(rig.engine, request(limit=50))
    assert said == "word0 word1 word2 "
    assert error.code is ErrorCode.ENGINE_UNAVAILABLE


@pytest.mark.parametrize(
    "data",
    [
        b"{not json",
        b"[]",
        b'{"choices": [7]}',
        b'{"choices": [{"delta": {"content": 7}}]}',
        b'{"choices": [{"delta": {"content": "\xff"}}]}',
        b'{"choices": [], "timings": ' + b"[" * 100_000,
    ],
)
def test_an_event_of_another_form_is_a_failure(data: bytes) -> None:
    reader = ReplyReader(10)
    said = reader.read([b'{"choices": [{"delta": {"content": "a"}}]}', data])
    assert said is not None
    assert (said.text, reader.done) == ("a", True)
    with pytest.raises(EngineError) as failed:
        reader.last()
    assert failed.value.info.code is ErrorCode.ENGINE_FAILED


CHAT_LOGPROBS = (
    b'{"choices": [{"delta": {"content": "Hi"}, "logprobs": {"content": [{"token": "Hi", "id": 9, "logprob": -0.5,'
    b' "top_logprobs": [{"token": "Hi", "id": 9, "logprob": -0.5}, {"token": "Yo", "logprob": null}]}]}}]}'
)
TEXT_LOGPROBS = (
    b'{"choices": [{"text": "Hi", "logprobs": {"tokens": ["Hi"], "token_logprobs": [-0.5],'
    b' "top_logprobs": [{"Hi": -0.5, "Yo": -1e9}]}}]}'
)


@pytest.mark.parametrize(("event", "token_id"), [(CHAT_LOGPROBS, 9), (TEXT_LOGPROBS, None)], ids=["chat", "text"])
def test_log_probabilities_come_with_their_text(event: bytes, token_id: int | None) -> None:
    chunk = ReplyReader(10, top_logprobs=2).read([event])
    assert chunk is not None
    likeliest = TokenLogprob(token="Hi", token_id=token_id, logprob=-0.5)
    assert chunk.logprobs == (
        likeliest.model_copy(update={"top": (likeliest, TokenLogprob(token="Yo", logprob=-9999.0))}),
    )
    only = ReplyReader(10, top_logprobs=0).read([event])
    assert only is not None
    assert only.logprobs == (likeliest,)
    none = ReplyReader(10).read([event])
    assert none is not None
    assert none.logprobs == ()


def test_a_log_probability_that_is_no_finite_number_is_the_least() -> None:
    # JSON has no such number, and some engines write it all the same.
    event = b'{"choices": [{"text": "a", "logprobs": {"tokens": ["a"], "token_logprobs": [-Infinity]}}]}'
    chunk = ReplyReader(10, top_logprobs=0).read([event])
    assert chunk is not None
    assert chunk.text == "a"
    assert [each.logprob for each in chunk.logprobs] == [-9999.0]


def test_what_an_event_leaves_empty_may_have_any_form() -> None:
    reader = ReplyReader(10)
    empty = b'"logprobs": [], "finish_reason": null, "stop_reason": 0'
    chunk = reader.read(
        [
            b'{"choices": [{"delta": {"content": [], "reasoning": false, "tool_calls": {}}, ' + empty + b"}]}",
            b'{"choices": [{"delta": {"content": "a"}, ' + empty + b'}], "usage": "", "timings": [], "error": false}',
            b'{"choices": null, "more": {"of": ["anything"]}}',
        ]
    )
    assert chunk is not None
    assert (chunk.text, chunk.tokens, reader.done) == ("a", 1, False)


def test_a_token_that_is_no_whole_character_has_its_bytes() -> None:
    tokens = [
        {"token": "\ufffd", "id": 3, "logprob": -1, "bytes": [240, 159], "top_logprobs": []},
        {"token": "é", "id": 4, "logprob": -1, "bytes": [195, 169], "top_logprobs": []},
    ]
    event = json.dumps({"choices": [{"text": "é", "logprobs": {"content": tokens}}]}).encode()
    chunk = ReplyReader(10, top_logprobs=0).read([event])
    assert chunk is not None
    assert [each.bytes for each in chunk.logprobs] == [(240, 159), None]


async def test_nothing_is_told_of_tokens_or_models(rig: StubRig) -> None:
    for question in (rig.engine.tokenize(request()), rig.engine.detokenize("stub", (1,))):
        with pytest.raises(EngineError) as refused:
            await question
        assert refused.value.info.code is ErrorCode.UNSUPPORTED
    assert await rig.engine.describe("stub") == DescribeModelReply()
    assert rig.engine.own_turns("stub").format == "alpaca"


def test_end_says_what_the_engine_reports() -> None:
    reader = ReplyReader(10)
    usage = b'"usage": {"prompt_tokens": 7, "completion_tokens": 1, "prompt_tokens_details": {"cached_tokens": 5}}'
    reader.read([b'{"choices": [{"delta": {"content": "a"}}]}'])
    reader.read([b'{"choices": [{"delta": {}, "finish_reason": "stop", "stop_reason": "END"}], ' + usage + b"}"])
    last = reader.last()
    assert (last.stop_sequence, last.prompt_tokens, last.cached_prompt_tokens) == ("END", 7, 5)
    assert last.durations is None


def test_tokens_of_thinking_are_told_apart() -> None:
    reader = ReplyReader(10)
    thought = b'{"choices": [{"delta": {"reasoning_content": "a"}}]}'
    said = b'{"choices": [{"delta": {"content": "b"}}]}'
    chunk = reader.read([thought, thought, said])
    assert chunk is not None
    assert (chunk.tokens, chunk.thinking_tokens) == (3, 2)
    details = b'"usage": {"completion_tokens": 9, "completion_tokens_details": {"reasoning_tokens": 8}}'
    reader.read([b'{"choices": [{"delta": {}, "finish_reason": "stop"}], ' + details + b"}"])
    assert reader.last().thinking_tokens == 6


def test_timings_become_durations() -> None:
    reader = ReplyReader(10)
    timings = b'"timings": {"cache_n": 4, "prompt_n": 3, "prompt_ms": 250, "predicted_n": 1, "predicted_ms": 40}'
    reader.read([b'{"choices": [{"delta": {"content": "a"}, "finish_reason": "stop"}], ' + timings + b"}"])
    last = reader.last()
    assert (last.prompt_tokens, last.cached_prompt_tokens) == (7, 4)
    assert last.durations == PhaseDurations(prompt_s=0.25, generate_s=0.04)


@pytest.mark.parametrize(
    ("thinking", "effort"),
    [
        (Thinking(), None),
        (Thinking(enabled=False, effort="high"), "none"),
        (Thinking(enabled=True), None),
        (Thinking(effort="minimal"), "minimal"),
        (Thinking(budget_tokens=100), None),
    ],
)
async def test_thinking_is_an_effort(rig: StubRig, thinking: Thinking, effort: str | None) -> None:
    await collect(rig.engine, request(thinking=thinking))
    assert rig.stub.requests[0].get("reasoning_effort") == effort


async def test_log_probabilities_are_asked_for_in_each_modes_own_way(rig: StubRig) -> None:
    await collect(rig.engine, request(top_logprobs=3))
    await collect(rig.engine, request("Once", mode="completion", top_logprobs=3))
    chat, text = rig.stub.requests
    assert (chat["logprobs"], chat["top_logprobs"], text["logprobs"]) == (True, 3, 3)


async def test_images_are_sent_as_data_urls(rig: StubRig) -> None:
    picture = Image(media_type="image/png", data="aGk=")
    await collect(rig.engine, request(messages=(ChatMessage(role="user", content="Look.", images=(picture,)),)))
    assert rig.stub.requests[0]["messages"][0]["content"] == [
        {"type": "text", "text": "Look."},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,aGk="}},
    ]


def test_events_are_read_whatever_the_cuts_and_line_ends() -> None:
    stream = b': hello\r\ndata: {"a": 1}\r\n\r\ndata:{"b": 2}\n\nevent: x\ndata: [DONE]\n\n'
    for step in (1, 3, 1000):
        events = EventReader()
        pieces = [stream[n : n + step] for n in range(0, len(stream), step)]
        assert [event for piece in pieces for event in events.feed(piece)] == [b'{"a": 1}', b'{"b": 2}', b"[DONE]"]


async def test_an_engine_that_is_not_there_is_unavailable_and_not_ready() -> None:
    engine = OpenAIEngine(f"http://127.0.0.1:{free_port()}/v1", None, connect_timeout_s=1)
    await engine.load()
    with pytest.raises(EngineError) as away:
        await collect(engine, request())
    assert away.value.info.code is ErrorCode.ENGINE_UNAVAILABLE
    assert await engine.ready() is not None
    await engine.close()


async def test_an_engine_without_prefill_interrupts_a_continuation(rig: StubRig) -> None:
    rig.stub.script = Script(prefill=False)
    with pytest.raises(EngineError) as refused:
        await collect(rig.engine, request(), Continuation("word0 ", "", 1))
    assert refused.value.info.code is ErrorCode.INTERRUPTED


async def test_a_continuation_asks_for_no_more_than_what_is_left(rig: StubRig) -> None:
    await collect(rig.engine, request(limit=10), Continuation("word0 word1 ", "", 2))
    (body,) = rig.stub.requests
    assert body["max_tokens"] == 8
    assert body["messages"][-1] == {"role": "assistant", "content": "word0 word1 "}
    assert body["continue_final_message"] is True


async def test_a_silent_engine_is_left_when_the_stream_is_closed(rig: StubRig) -> None:
    rig.stub.script = Script(hang_at=2)
    stream = rig.engine.stream(request(limit=50))
    await anext(stream)
    await stream.aclose()
    await settled(0, rig)
    assert rig.stub.left_early == 1


async def test_control_tokens_in_messages_are_broken_up_and_raw_prompts_are_not(rig: StubRig) -> None:
    await collect(rig.engine, request("Hi<|im_end|>"), Continuation("word0 <|end|>", "", 1))
    await collect(rig.engine, request("Hi<|im_end|>", mode="completion"))
    chat, completion = rig.stub.requests
    assert [message["content"] for message in chat["messages"]] == ["Hi< |im_end|>", "word0 < |end|>"]
    assert completion["prompt"] == "Hi<|im_end|>"


async def test_control_tokens_may_be_kept(served: tuple[StubOpenAI, ThreadedApp]) -> None:
    stub, app = served
    engine = OpenAIEngine(f"{app.url}/v1", None, connect_timeout_s=2, parse_special=frozenset({"stub"}))
    await engine.load()
    await collect(engine, request("Hi<|im_end|>"))
    await engine.close()
    assert stub.requests[0]["messages"][0]["content"] == "Hi<|im_end|>"
