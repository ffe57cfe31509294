"""OpenAI's chat path, byte for byte."""

import asyncio
import hashlib
import json
import threading
from typing import Any

import pytest

from callboard_contracts.chat import ChatEnd, ChatFrame, ToolCall
from callboard_contracts.errors import ErrorCode, ErrorInfo
from callboard_contracts.quota import LimitState
from callboard_contracts.workers import OfferedModel, WorkerInfo
from callboard_edge.domain import schema_validator
from tests.unit.edge.harness import USAGE, EdgeHarness, asking, frames, read_events, running, said

pytestmark = pytest.mark.unit

CHAT = "/v1/chat/completions"
COUNTS = {
    "prompt_tokens": 7,
    "completion_tokens": 2,
    "total_tokens": 9,
    "prompt_tokens_details": {"cached_tokens": 0},
    "completion_tokens_details": {"reasoning_tokens": 0},
}
TOOL = {"type": "function", "function": {"name": "dim", "parameters": {"type": "object"}}}


async def test_reply_is_whole(harness: EdgeHarness) -> None:
    worker = harness.plays(frames("Hoo", "."))
    status, headers, body = await harness.post(CHAT, asking())
    answer = json.loads(body)
    job = await worker
    assert status == 200
    assert headers["Content-Type"] == "application/json"
    assert answer == {
        "id": f"chatcmpl-{job.request_id}",
        "object": "chat.completion",
        "created": answer["created"],
        "model": "owl",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "Hoo.", "refusal": None},
                "logprobs": None,
                "finish_reason": "stop",
            }
        ],
        "usage": COUNTS,
    }
    assert job.hold is not None
    assert harness.quota.released == []
    assert harness.jobs.cancelled == []
    await harness.all_closed()


async def test_stream_has_the_exact_framing(harness: EdgeHarness) -> None:
    harness.plays(frames("Hoo."))
    status, headers, body = await harness.post(CHAT, asking(stream=True))
    assert status == 200
    assert headers["Content-Type"] == "text/event-stream"
    events = read_events(body)
    assert [event["choices"][0] for event in events] == [
        {"index": 0, "delta": {"role": "assistant", "content": ""}, "logprobs": None, "finish_reason": None},
        {"index": 0, "delta": {"content": "Hoo."}, "logprobs": None, "finish_reason": None},
        {"index": 0, "delta": {}, "logprobs": None, "finish_reason": "stop"},
    ]
    assert len({(event["id"], event["created"], event["model"], event["object"]) for event in events}) == 1
    assert events[0]["object"] == "chat.completion.chunk"
    assert all("usage" not in event for event in events)


async def test_stream_with_usage_ends_in_a_chunk_of_its_own(harness: EdgeHarness) -> None:
    harness.plays(frames("Hoo."))
    _, _, body = await harness.post(CHAT, asking(stream=True, stream_options={"include_usage": True}))
    *events, last = read_events(body)
    assert all(event["usage"] is None for event in events)
    assert last["choices"] == []
    assert last["usage"] == COUNTS


async def test_cached_tokens_are_told_in_whole_and_streamed_replies(harness: EdgeHarness) -> None:
    usage = USAGE.model_copy(update={"cached_prompt_tokens": 5})
    end = ChatEnd(reason="stop", usage=usage)
    sent = [ChatFrame(seq=0, attempt=1, text="Hoo.", tokens=1), ChatFrame(seq=1, attempt=1, end=end)]
    harness.plays(sent)
    _, _, body = await harness.post(CHAT, asking())
    assert json.loads(body)["usage"]["prompt_tokens_details"] == {"cached_tokens": 5}
    harness.plays(sent)
    _, _, body = await harness.post(CHAT, asking(stream=True, stream_options={"include_usage": True}))
    assert read_events(body)[-1]["usage"]["prompt_tokens_details"] == {"cached_tokens": 5}


async def test_reasoning_tokens_are_told_in_whole_and_streamed_replies(harness: EdgeHarness) -> None:
    end = ChatEnd(reason="stop", usage=USAGE.model_copy(update={"thinking_tokens": 1}))
    sent = [
        ChatFrame(seq=0, attempt=1, thinking="Hm.", tokens=1, thinking_tokens=1),
        ChatFrame(seq=1, attempt=1, text="Hoo.", tokens=1, end=end),
    ]
    for over in ({}, {"n": 2}):
        asked = asking(**over)
        for _ in range(over.get("n", 1)):
            harness.plays(sent)
        _, _, body = await harness.post(CHAT, asked)
        wanted = {"reasoning_tokens": over.get("n", 1)}
        assert json.loads(body)["usage"]["completion_tokens_details"] == wanted
        for _ in range(over.get("n", 1)):
            harness.plays(sent)
        _, _, body = await harness.post(CHAT, {**asked, "stream": True, "stream_options": {"include_usage": True}})
        assert read_events(body)[-1]["usage"]["completion_tokens_details"] == wanted


async def test_stream_escapes_what_readers_take_for_line_ends(harness: EdgeHarness) -> None:
    text = 'a\u2028b\u0085c\r\nd"e\\f\x0bg\U0001f989'
    harness.plays(frames(text))
    _, _, body = await harness.post(CHAT, asking(stream=True))
    assert said(read_events(body)) == text
    assert body.isascii()


async def test_stream_sends_each_frame_as_it_comes(harness: EdgeHarness) -> None:
    harness.plays(frames("one ", "two ", "three", end=None))
    async with harness.session.post(harness.url + CHAT, json=asking(stream=True)) as reply:
        seen = b""
        async with asyncio.timeout(20):
            while b"three" not in seen:
                seen += await reply.content.readany()
    assert b"[DONE]" not in seen


async def test_thinking_is_kept_apart(harness: EdgeHarness) -> None:
    sent = [
        ChatFrame(seq=0, attempt=1, thinking="Let me ", tokens=1),
        ChatFrame(seq=1, attempt=1, thinking="see.", tokens=1),
        ChatFrame(seq=2, attempt=1, text="Yes.", tokens=1),
        ChatFrame(seq=3, attempt=1, end=ChatEnd(reason="stop", usage=USAGE)),
    ]
    harness.plays(sent)
    _, _, body = await harness.post(CHAT, asking())
    message = json.loads(body)["choices"][0]["message"]
    assert (message["content"], message["reasoning_content"]) == ("Yes.", "Let me see.")
    harness.plays(sent)
    _, _, body = await harness.post(CHAT, asking(stream=True))
    events = read_events(body)
    assert said(events) == "Yes."
    thoughts = [event["choices"][0]["delta"].get("reasoning_content", "") for event in events]
    assert "".join(thoughts) == "Let me see."


async def test_tool_calls_are_passed_through(harness: EdgeHarness) -> None:
    call = ToolCall(id="call_1", name="dim", arguments='{"level":3}')
    sent = [
        ChatFrame(seq=0, attempt=1, tool_calls=(call, call), tokens=4),
        ChatFrame(seq=1, attempt=1, end=ChatEnd(reason="tool_calls", usage=USAGE)),
    ]
    worker = harness.plays(sent)
    _, _, body = await harness.post(
        CHAT, asking(tools=[TOOL], tool_choice={"type": "function", "function": {"name": "dim"}})
    )
    choice = json.loads(body)["choices"][0]
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"]["content"] is None
    assert choice["message"]["tool_calls"][0] == {
        "id": "call_1",
        "type": "function",
        "function": {"name": "dim", "arguments": '{"level":3}'},
    }
    assert (await worker).request.tool_choice == "dim"
    harness.plays(sent)
    _, _, body = await harness.post(CHAT, asking(stream=True, tools=[TOOL]))
    deltas = [event["choices"][0]["delta"] for event in read_events(body)]
    found = [call for delta in deltas for call in delta.get("tool_calls", ())]
    assert found == [
        part
        for index in (0, 1)
        for part in (
            {"index": index, "id": "call_1", "type": "function", "function": {"name": "dim", "arguments": ""}},
            {"index": index, "function": {"arguments": '{"level":3}'}},
        )
    ]


async def test_long_arguments_come_in_pieces(harness: EdgeHarness) -> None:
    arguments = json.dumps({"text": '☃ and "quotes" ' * 100}, ensure_ascii=False)
    call = ToolCall(id="call_1", name="dim", arguments=arguments)
    end = ChatEnd(reason="tool_calls", usage=USAGE)
    harness.plays([ChatFrame(seq=0, attempt=1, tool_calls=(call,), tokens=4), ChatFrame(seq=1, attempt=1, end=end)])
    _, _, body = await harness.post(CHAT, asking(stream=True, tools=[TOOL]))
    deltas = [event["choices"][0]["delta"] for event in read_events(body)]
    pieces = [part["function"]["arguments"] for delta in deltas for part in delta.get("tool_calls", ())]
    assert len(pieces) > 3
    assert "".join(pieces) == arguments


WITH_PARAMETERS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "no parameters": ({}, {"type": "object", "properties": {}, "additionalProperties": False}),
    "null": ({"parameters": None}, {"type": "object", "properties": {}, "additionalProperties": False}),
    "an object": ({"parameters": {"type": "object"}}, {"type": "object"}),
    "no type": ({"parameters": {"properties": {}}}, {"properties": {}}),
}


@pytest.mark.parametrize("case", WITH_PARAMETERS)
async def test_functions_without_parameters_take_none(case: str, harness: EdgeHarness) -> None:
    function, parameters = WITH_PARAMETERS[case]
    worker = harness.plays(frames("x"))
    tool = {"type": "function", "function": {"name": "dim", "strict": True, **function}}
    await harness.post(CHAT, asking(tools=[tool], parallel_tool_calls=False))
    request = (await worker).request
    assert (request.tools[0].parameters, request.tools[0].strict) == (parameters, True)
    assert request.parallel_tool_calls is False


async def test_model_that_ignores_tools_answers_in_text() -> None:
    async with running({"chat": {"models": {"jay": {"pool": "main", "tools": "ignore"}}}}) as harness:
        worker = harness.plays(frames("x"))
        assert (await harness.post(CHAT, asking(model="jay", tools=[TOOL])))[0] == 200
        assert (await worker).request.tools == ()
        status, _, body = await harness.post(CHAT, asking(model="jay", tools=[TOOL], tool_choice="required"))
        assert (status, json.loads(body)["error"]["param"]) == (400, "tool_choice")


async def test_worker_that_cannot_call_tools_decides_for_its_model(harness: EdgeHarness) -> None:
    offered = OfferedModel(name="owl", abilities=("chat",))
    harness.known.announce(
        WorkerInfo(id="w", service="chat", pool="main", backend="fake", models=(offered,), slots=1, at=1.0)
    )
    status, _, body = await harness.post(CHAT, asking(tools=[TOOL]))
    assert (status, json.loads(body)["error"]["param"]) == (400, "tools")


async def test_fields_reach_the_job(harness: EdgeHarness) -> None:
    worker = harness.plays(frames("x"))
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
    await harness.post(
        CHAT,
        asking(
            model="owl:latest",
            temperature=0.5,
            top_p=0.9,
            top_k=40,
            min_p=0.1,
            presence_penalty=0.1,
            frequency_penalty=-0.1,
            repetition_penalty=1.1,
            seed=7.0,
            stop=["a", "", "b"],
            logit_bias={"5": -100},
            max_tokens=500,
            response_format={"type": "json_schema", "json_schema": {"name": "s", "schema": schema, "strict": True}},
            tools=[TOOL],
            user="me",
            something_new={"x": 1},
        ),
    )
    request = (await worker).request
    assert request.model == "owl"
    assert request.max_output_tokens == 100
    assert request.sampling.model_dump(exclude_none=True, exclude_defaults=True) == {
        "temperature": 0.5,
        "top_p": 0.9,
        "top_k": 40,
        "min_p": 0.1,
        "presence_penalty": 0.1,
        "frequency_penalty": -0.1,
        "repetition_penalty": 1.1,
        "seed": 7,
        "stop": ("a", "b"),
        "logit_bias": {"5": -100.0},
    }
    assert request.output_format.json_schema == schema
    assert request.output_format.kind == "json_schema"
    assert request.tools[0].name == "dim"
    asked = harness.quota.asked[0]
    assert asked.model == "owl"
    assert asked.work.completion_tokens == 100
    assert asked.work.prompt_tokens >= len("Hello.")


async def test_newer_limit_wins_over_the_older(harness: EdgeHarness) -> None:
    worker = harness.plays(frames("x"))
    await harness.post(CHAT, asking(max_tokens=50, max_completion_tokens=20))
    assert (await worker).request.max_output_tokens == 20


async def test_every_kind_of_message_is_read(harness: EdgeHarness) -> None:
    worker = harness.plays(frames("x"))
    await harness.post(
        CHAT,
        asking(
            messages=[
                {"role": "developer", "content": "Be kind."},
                {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
                {
                    "role": "assistant",
                    "content": None,
                    "tool_calls": [{"id": "c1", "type": "function", "function": {"name": "dim", "arguments": "{}"}}],
                },
                {"role": "tool", "tool_call_id": "c1", "content": "done"},
            ]
        ),
    )
    messages = (await worker).request.messages
    assert [message.role for message in messages] == ["system", "user", "assistant", "tool"]
    assert messages[1].content == "a\nb"
    assert messages[2].tool_calls[0].name == "dim"
    assert messages[3].tool_call_id == "c1"


REFUSED: dict[str, tuple[dict[str, Any], str, str]] = {
    "too many choices": ({"n": 9}, "n", "unsupported"),
    "top log probabilities alone": ({"top_logprobs": 3}, "top_logprobs", "invalid_request"),
    "too many of them": ({"logprobs": True, "top_logprobs": 21}, "top_logprobs", "invalid_request"),
    "a temperature out of range": ({"temperature": 3.5}, "temperature", "invalid_request"),
    "a regular expression": ({"guided_regex": "a+"}, "guided_regex", "unsupported"),
    "old functions": ({"functions": [{"name": "f"}]}, "functions", "unsupported"),
    "no messages": ({"messages": []}, "messages", "invalid_request"),
    "messages of the wrong type": ({"messages": "x"}, "messages", "invalid_request"),
    "a message of the wrong type": ({"messages": ["x"]}, "messages[0]", "invalid_request"),
    "content of the wrong type": (
        {"messages": [{"role": "user", "content": 7}]},
        "messages[0].content",
        "invalid_request",
    ),
    "no content": ({"messages": [{"role": "user"}]}, "messages[0].content", "invalid_request"),
    "an unknown role": ({"messages": [{"role": "x", "content": ""}]}, "messages[0].role", "invalid_request"),
    "a tool's message without an id": (
        {"messages": [{"role": "tool", "content": "x"}]},
        "messages[0].tool_call_id",
        "invalid_request",
    ),
    "a user's tool call": (
        {
            "messages": [
                {"role": "user", "content": "x", "tool_calls": [{"id": "1", "function": {"name": "f"}}]},
            ]
        },
        "messages[0].tool_calls",
        "invalid_request",
    ),
    "a part without a type": (
        {"messages": [{"role": "user", "content": [{"text": "x"}]}]},
        "messages[0].content[0].type",
        "invalid_request",
    ),
    "an unknown part": (
        {"messages": [{"role": "user", "content": [{"type": "smell"}]}]},
        "messages[0].content[0].type",
        "invalid_request",
    ),
    "an image": (
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
        "messages[0].content[0]",
        "unsupported",
    ),
    "audio": (
        {"messages": [{"role": "user", "content": [{"type": "input_audio", "input_audio": {}}]}]},
        "messages[0].content[0]",
        "unsupported",
    ),
    "temperature as text": ({"temperature": "0.5"}, "temperature", "invalid_request"),
    "temperature as a truth value": ({"temperature": True}, "temperature", "invalid_request"),
    "a negative temperature": ({"temperature": -1}, "temperature", "invalid_request"),
    "a temperature over two": ({"temperature": 2.1}, "temperature", "invalid_request"),
    "top_p over one": ({"top_p": 1.1}, "top_p", "invalid_request"),
    "a bias out of range": ({"logit_bias": {"5": 101}}, "logit_bias.5", "invalid_request"),
    "half a token": ({"max_tokens": 1.5}, "max_tokens", "invalid_request"),
    "no tokens": ({"max_tokens": 0}, "max_tokens", "invalid_request"),
    "a seed out of range": ({"seed": 2**70}, "seed", "invalid_request"),
    "too many stops": ({"stop": ["a"] * 5}, "stop", "invalid_request"),
    "a stop of the wrong type": ({"stop": 7}, "stop", "invalid_request"),
    "a stop in the list of the wrong type": ({"stop": ["a", 7]}, "stop[1]", "invalid_request"),
    "a format without a schema": (
        {"response_format": {"type": "json_schema", "json_schema": {"name": "x"}}},
        "response_format.json_schema.schema",
        "invalid_request",
    ),
    "a format without a name": (
        {"response_format": {"type": "json_schema", "json_schema": {"schema": {}}}},
        "response_format.json_schema.name",
        "invalid_request",
    ),
    "a schema that is none": (
        {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "objekt"}}}},
        "response_format.json_schema.schema",
        "invalid_request",
    ),
    "a choice of an unknown tool": (
        {"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "other"}}},
        "tool_choice",
        "invalid_request",
    ),
    "parameters that are no object's": (
        {"tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "string"}}}]},
        "tools[0].function.parameters",
        "invalid_request",
    ),
    "a function that is called as a choice is": (
        {
            "tools": [{"type": "function", "function": {"name": "auto"}}],
            "tool_choice": {"type": "function", "function": {"name": "auto"}},
        },
        "tool_choice",
        "invalid_request",
    ),
    "a choice without tools": ({"tool_choice": "required"}, "tool_choice", "invalid_request"),
    "a tool whose schema is none": (
        {"tools": [{"type": "function", "function": {"name": "f", "parameters": {"required": 7}}}]},
        "tools[0].function.parameters",
        "invalid_request",
    ),
    "tools that the model cannot call": ({"model": "wren/tiny", "tools": [TOOL]}, "tools", "unsupported"),
    "JSON that the model cannot promise": (
        {"model": "wren/tiny", "response_format": {"type": "json_object"}},
        "response_format",
        "unsupported",
    ),
    "a prompt that cannot fit": (
        {"model": "wren/tiny", "messages": [{"role": "user", "content": "a " * 20_000}]},
        "messages",
        "context_length_exceeded",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
async def test_request_that_cannot_be_served_names_its_field(case: str, harness: EdgeHarness) -> None:
    over, param, code = REFUSED[case]
    status, headers, body = await harness.post(CHAT, asking(**over))
    error = json.loads(body)["error"]
    assert (status, error["param"], error["code"], error["type"]) == (400, param, code, "invalid_request_error"), error
    assert headers["x-should-retry"] == "false"
    assert harness.quota.asked == []
    assert harness.jobs.queued == 0


def schema_of(objects: int) -> dict[str, Any]:
    return {"type": "object", "allOf": [{}] * objects}


def tools_of(*schemas: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"type": "function", "function": {"name": f"f{n}", "parameters": one}} for n, one in enumerate(schemas)]


async def test_schemas_are_bounded_over_the_whole_request(harness: EdgeHarness) -> None:
    status, _, body = await harness.post(CHAT, asking(tools=tools_of(schema_of(2_600), schema_of(2_601))))
    error = json.loads(body)["error"]
    assert (status, error["param"]) == (400, "tools[1].function.parameters")
    assert "together" in error["message"]
    assert harness.quota.asked == []


async def test_schema_that_was_found_good_is_not_checked_again(
    harness: EdgeHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    checked: list[Any] = []
    check = schema_validator._form  # pyright: ignore[reportPrivateUsage] - what takes the time

    def counted(asked: Any, text: str) -> str:
        checked.append(text)
        return check(asked, text)

    monkeypatch.setattr(schema_validator, "_form", counted)
    for _ in range(3):
        harness.plays(frames("one "))
        assert (await harness.post(CHAT, asking(tools=tools_of(schema_of(3), schema_of(4)))))[0] == 200
    assert len(checked) == 2
    for _ in range(2):
        assert (await harness.post(CHAT, asking(tools=tools_of({"type": "objekt"}))))[0] == 400
    assert len(checked) == 4


async def test_small_schema_does_not_wait_for_large_ones(harness: EdgeHarness, monkeypatch: pytest.MonkeyPatch) -> None:
    checking, go_on = threading.Event(), threading.Event()

    def slow(_asked: Any, text: str) -> str:
        if "allOf" in text:
            checking.set()
            assert go_on.wait(10)
        return text

    monkeypatch.setattr(schema_validator, "_form", slow)
    large = [
        asyncio.ensure_future(harness.post(CHAT, asking(tools=tools_of(schema_of(count))))) for count in (1000, 1001)
    ]
    try:
        assert await asyncio.to_thread(checking.wait, 10)
        harness.plays(frames("one "))
        assert (await harness.post(CHAT, asking(tools=tools_of({"type": "object"}))))[0] == 200
    finally:
        go_on.set()
    for _ in large:
        harness.plays(frames("two "))
    assert [status for status, _, _ in await asyncio.gather(*large)] == [200, 200]


STRING = {"type": "string"}


@pytest.mark.parametrize(
    ("schema", "words"),
    [
        ({"type": "array", "minItems": 5, "maxItems": 2}, "minItems (5) is greater than maxItems (2)"),
        ({"type": "integer", "minimum": 10, "maximum": 5}, "minimum (10) is greater than maximum (5)"),
        ({"type": "string", "minLength": 10, "maxLength": 5}, "minLength (10) is greater than maxLength (5)"),
        ({"type": "object", "minProperties": 5, "maxProperties": 2}, "minProperties > maxProperties"),
        ({"type": "object", "properties": {f"p{n}": STRING for n in range(2000)}}, "too complex"),
        ({"type": "integer", "minimum": 10**400}, "a number that is too large"),
        ({"anyOf": [{"pattern": "(?si)" + "[\u0001-\uffff]" * 60}]}, "a group with options"),
        ({"type": "array", "items": {}, "maxItems": 9000}, "bounds on the items of arrays"),
        ({"allOf": [{"type": "array", "minItems": 3000}] * 3}, "bounds on the items of arrays"),
    ],
)
@pytest.mark.parametrize("inside", [False, True])
async def test_schema_that_no_reply_can_satisfy_or_no_engine_load_is_refused(
    schema: dict[str, Any], words: str, inside: bool, harness: EdgeHarness
) -> None:
    whole = {"type": "object", "properties": {"x": schema}, "required": ["x"]} if inside else schema
    wanted = {"type": "json_schema", "json_schema": {"name": "s", "schema": whole}}
    async with running({"edge": {"max_body_bytes": 1_000_000}}) as roomy:
        status, _, body = await roomy.post(CHAT, asking(response_format=wanted))
    error = json.loads(body)["error"]
    assert (status, error["param"]) == (400, "response_format.json_schema.schema")
    assert words in error["message"] or (inside and "'x' is unsatisfiable" in error["message"])
    assert harness.quota.asked == []


@pytest.mark.parametrize("kind", ["json_object", "json_schema"])
async def test_schema_beside_the_type_is_one_without_a_name(kind: str, harness: EdgeHarness) -> None:
    worker = harness.plays(frames("{}"))
    form = {"type": kind, "schema": {"type": "object", "properties": {"a": {"const": 1}}}}
    assert (await harness.post(CHAT, asking(response_format=form)))[0] == 200
    wanted = (await worker).request.output_format
    assert (wanted.kind, wanted.json_schema) == (
        "json_schema",
        {"type": "object", "properties": {"a": {"enum": [1]}}},
    )
    refused = {"type": kind, "schema": {"uniqueItems": True}}
    status, _, body = await harness.post(CHAT, asking(response_format=refused))
    assert (status, json.loads(body)["error"]["param"]) == (400, "response_format.schema")


async def test_json_object_beside_a_named_schema_is_refused(harness: EdgeHarness) -> None:
    form = {"type": "json_object", "json_schema": {"name": "s", "schema": {"type": "object"}}}
    status, _, body = await harness.post(CHAT, asking(response_format=form))
    assert (status, json.loads(body)["error"]["param"]) == (400, "response_format.json_schema")


async def test_contradiction_of_a_property_is_named_with_its_place(harness: EdgeHarness) -> None:
    schema: dict[str, Any] = {"$ref": "#/$defs/few", "$defs": {"few": {"type": "array", "minItems": 5, "maxItems": 2}}}
    for name in ("b", "a"):
        schema = {"type": "object", "properties": {name: schema, "c": {}}, "required": ["c", name]}
        schema |= {"$defs": {"few": {"type": "array", "minItems": 5, "maxItems": 2}}}
    form = {"type": "json_schema", "json_schema": {"name": "s", "schema": schema}}
    status, _, body = await harness.post(CHAT, asking(response_format=form))
    assert status == 400
    assert "minItems (5) is greater than maxItems (2) at 'a/b'" in json.loads(body)["error"]["message"]


@pytest.mark.parametrize(
    "pattern", ["^(" + ".?" * 10 + "){190}$", "^" + "a*" * 2000 + "$", "^((.?.?){30}){30}$", "^(((a?){50}){50}){50}$"]
)
async def test_pattern_that_freezes_other_converters_is_checked_at_once(pattern: str, harness: EdgeHarness) -> None:
    schema = {"type": "object", "properties": {"a": {"type": "string", "pattern": pattern}}, "required": ["a"]}
    wanted = {"type": "json_schema", "json_schema": {"name": "s", "schema": schema}}
    worker = harness.plays(frames("x"))
    async with asyncio.timeout(20):
        status, _, _ = await harness.post(CHAT, asking(response_format=wanted))
    assert status == 200
    await worker


async def test_refusal_speaks_of_what_was_sent_and_not_of_how_it_was_checked(harness: EdgeHarness) -> None:
    _, _, body = await harness.post(CHAT, asking(messages=[]))
    message = json.loads(body)["error"]["message"]
    assert message == "Invalid value for 'messages': List should have at least 1 item, not 0."


async def test_unknown_model_is_told_what_is_offered(harness: EdgeHarness) -> None:
    status, _, body = await harness.post(CHAT, asking(model="nobody"))
    error = json.loads(body)["error"]
    assert (status, error["code"], error["param"]) == (404, "model_not_found", "model")
    assert "owl" in error["message"]


async def test_tools_are_left_out_when_none_may_be_called(harness: EdgeHarness) -> None:
    worker = harness.plays(frames("x"))
    status, _, _ = await harness.post(CHAT, asking(model="wren/tiny", tools=[TOOL], tool_choice="none"))
    assert status == 200
    assert (await worker).request.tools == ()


async def test_limits_are_told_in_headers(harness: EdgeHarness) -> None:
    harness.quota.states = (
        LimitState(limit="key.tokens_per_day", allowed=1000, remaining=900, resets_in_s=3723),
        LimitState(limit="address.requests_per_minute", allowed=60, remaining=41, resets_in_s=12),
    )
    harness.plays(frames("x"))
    _, headers, _ = await harness.post(CHAT, asking())
    assert {name: value for name, value in headers.items() if name.startswith("x-ratelimit")} == {
        "x-ratelimit-limit-tokens": "1000",
        "x-ratelimit-remaining-tokens": "900",
        "x-ratelimit-reset-tokens": "1h2m3s",
        "x-ratelimit-limit-requests": "60",
        "x-ratelimit-remaining-requests": "41",
        "x-ratelimit-reset-requests": "12s",
    }


async def test_refusal_by_quota_says_when_to_return(harness: EdgeHarness) -> None:
    harness.quota.states = (LimitState(limit="requests_per_minute", allowed=5, remaining=0, resets_in_s=12),)
    harness.quota.refusal = ErrorInfo(code=ErrorCode.QUOTA_EXCEEDED, message="Too many.", retry_after_s=11.2)
    status, headers, body = await harness.post(CHAT, asking(stream=True))
    assert (status, json.loads(body)["error"]["type"]) == (429, "rate_limit_error")
    assert headers["Retry-After"] == "12"
    assert headers["retry-after-ms"] == "11200"
    assert headers["x-should-retry"] == "true"
    assert headers["x-ratelimit-remaining-requests"] == "0"
    assert harness.jobs.queued == 0
    assert harness.figure("callboard_edge_too_many_requests_total", reason="quota_exceeded") == 1
    await harness.all_closed()


async def test_refusal_for_a_day_tells_the_client_not_to_retry(harness: EdgeHarness) -> None:
    harness.quota.refusal = ErrorInfo(code=ErrorCode.QUOTA_EXCEEDED, message="Too many.", retry_after_s=40_000)
    _, headers, _ = await harness.post(CHAT, asking())
    assert headers["x-should-retry"] == "false"
    assert headers["Retry-After"] == "40000"


async def test_refusal_of_what_no_limit_has_room_for_names_no_time(harness: EdgeHarness) -> None:
    harness.quota.refusal = ErrorInfo(code=ErrorCode.QUOTA_EXCEEDED, message="Too large.")
    _, headers, _ = await harness.post(CHAT, asking())
    assert headers["x-should-retry"] == "false"
    assert "Retry-After" not in headers


async def test_quota_that_is_away_is_503(harness: EdgeHarness) -> None:
    harness.quota.refusal = ErrorInfo(code=ErrorCode.QUOTA_UNAVAILABLE, message="Away.", retry_after_s=2)
    status, _, body = await harness.post(CHAT, asking())
    assert (status, json.loads(body)["error"]["code"]) == (503, "quota_unavailable")


async def test_engine_error_before_the_first_word_is_a_status(harness: EdgeHarness) -> None:
    error = ErrorInfo(code=ErrorCode.ENGINE_UNAVAILABLE, message="The engine is away.", retry_after_s=5)
    failed = [ChatFrame(seq=0, attempt=1, end=ChatEnd(reason="error", error=error))]
    for stream in (True, False):
        harness.plays(failed)
        status, headers, body = await harness.post(CHAT, asking(stream=stream))
        assert (status, headers["x-should-retry"]) == (503, "true")
        assert json.loads(body)["error"]["code"] == "engine_unavailable"


async def test_engine_error_after_the_first_word_ends_the_stream_with_it(harness: EdgeHarness) -> None:
    error = ErrorInfo(code=ErrorCode.ENGINE_FAILED, message="The engine failed.")
    broken = [*frames("Once ", end=None), ChatFrame(seq=1, attempt=1, end=ChatEnd(reason="error", error=error))]
    harness.plays(broken, pause_s=0.05)
    status, _, body = await harness.post(CHAT, asking(stream=True))
    *events, last = read_events(body)
    assert status == 200
    assert said(events) == "Once "
    assert last == {
        "error": {"message": "The engine failed.", "type": "server_error", "param": None, "code": "engine_failed"}
    }
    harness.plays(broken)
    status, headers, _ = await harness.post(CHAT, asking())
    assert (status, headers["x-should-retry"]) == (502, "false")
    assert harness.figure("callboard_edge_errors_total", route="chat_completions", code="engine_failed") == 2


async def test_key_and_address_go_to_quota_as_a_digest(harness: EdgeHarness) -> None:
    for header in (
        {"Authorization": "Bearer cb_k1"},
        {"x-api-key": "cb_k1"},
        {"apikey": "cb_k1"},
        {"Authorization": "bearer  cb_k1"},
    ):
        harness.plays(frames("x"))
        await harness.post(CHAT, asking(), **header)
    assert {asked.key_digest for asked in harness.quota.asked} == {hashlib.sha256(b"cb_k1").hexdigest()}
    assert {asked.address for asked in harness.quota.asked} == {"127.0.0.1"}


async def test_request_ids_are_fresh_and_the_clients_own_comes_back(harness: EdgeHarness) -> None:
    workers = [harness.plays(frames("x")) for _ in range(2)]
    for _ in range(2):
        _, headers, _ = await harness.post(CHAT, asking(), **{"x-request-id": "mine-7"})
        assert headers["x-request-id"] == "mine-7"
    ids = {(await worker).request_id for worker in workers}
    assert len(ids) == 2
    assert "mine-7" not in ids
    _, headers, _ = await harness.post(CHAT, {}, **{"x-request-id": "not a > safe id"})
    assert headers["x-request-id"].startswith("req_")
    worker = harness.plays(frames("x"))
    _, headers, _ = await harness.post(CHAT, asking())
    assert headers["x-request-id"] == f"req_{(await worker).request_id}"
