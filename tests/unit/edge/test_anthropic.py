"""Anthropic's messages: what a request becomes, and every event of a reply, over an edge without a bus."""

import json
from contextlib import suppress
from datetime import datetime
from typing import Any

import pytest
from anthropic.types import Message, RawMessageStreamEvent
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter

from callboard_contracts.accounts import key_digest
from callboard_contracts.chat import (
    ChatEnd,
    ChatFrame,
    ChatMessage,
    ChatRequest,
    Image,
    OutputFormat,
    Thinking,
    TokenUsage,
    ToolCall,
)
from callboard_contracts.errors import CallboardError, ErrorCode, ErrorInfo
from callboard_contracts.pools import ChatSection
from callboard_contracts.quota import LimitState
from callboard_contracts.tokens import TokenizeRequest
from callboard_edge.domain.catalogue import ChatModel, chat_catalogue
from callboard_edge.domain.conversation import with_usual_end
from callboard_edge.http.bodies import parse
from callboard_edge.protocols.anthropic.bodies import MessagesBody
from callboard_edge.protocols.anthropic.requests import messages_request
from tests.hostile.schemas import values_of
from tests.protocols.test_anthropic import PING, read_events
from tests.unit.edge.harness import EdgeHarness, frames, running

pytestmark = pytest.mark.unit

PATH = "/v1/messages"
COUNT = "/v1/messages/count_tokens"
VERSION = {"anthropic-version": "2023-06-01"}
EVENTS: TypeAdapter[RawMessageStreamEvent] = TypeAdapter(RawMessageStreamEvent)
PNG = {"type": "base64", "media_type": "image/png", "data": "aGVsbG8="}
DIM: dict[str, Any] = {
    "name": "dim",
    "description": "Dims the light.",
    "input_schema": {"type": "object", "properties": {"to": {"type": "integer"}}},
}
CALL = ToolCall(id="call_1", name="dim", arguments='{"to": 3}')
USED = {"type": "tool_use", "id": "call_1", "name": "dim", "input": {"to": 3}}


def model(**over: Any) -> ChatModel:
    table = {"pools": {"main": {"backend": "fake"}}, "models": {"owl": {"pool": "main", **over}}}
    return chat_catalogue(ChatSection.model_validate(table)).resolve("owl")


OWL, SEEING = model(), model(images=True)


def asking(*turns: Any, **over: Any) -> dict[str, Any]:
    """A request for a reply; a turn is a user's, or any message."""
    messages = [turn if isinstance(turn, dict) else {"role": "user", "content": turn} for turn in turns or ("Hello.",)]
    return {"model": "owl", "max_tokens": 50, "messages": messages, **over}


def neutral(body: dict[str, Any], of: ChatModel = OWL) -> ChatRequest:
    return messages_request(parse(MessagesBody, json.dumps(body).encode()), of)


def refusal(body: dict[str, Any], of: ChatModel = OWL) -> ErrorInfo:
    with pytest.raises(CallboardError) as caught:
        neutral(body, of)
    return caught.value.info


def ending(reason: str = "stop", **fields: Any) -> ChatFrame:
    usage = TokenUsage(prompt_tokens=7, completion_tokens=2, cached_prompt_tokens=4, thinking_tokens=1)
    return ChatFrame(seq=9, attempt=1, end=ChatEnd.model_validate({"reason": reason, "usage": usage, **fields}))


def numbered(*sent: ChatFrame) -> list[ChatFrame]:
    return [frame.model_copy(update={"seq": n}) for n, frame in enumerate(sent)]


def piece(**fields: Any) -> ChatFrame:
    return ChatFrame(seq=0, attempt=1, tokens=1, **fields)


THOUGHTFUL = numbered(
    piece(thinking="Let me "),
    piece(thinking="see."),
    piece(text="I dim"),
    piece(text=" it."),
    piece(tool_calls=(CALL,)),
    ending("tool_calls"),
)
"""A reply with everything in it."""


async def streamed(harness: EdgeHarness, sent: list[ChatFrame], body: dict[str, Any]) -> list[Any]:
    """The events of a streamed reply, each of which Anthropic's own types take."""
    harness.plays(sent)
    status, headers, answer = await harness.post(PATH, {**body, "stream": True})
    assert (status, headers["Content-Type"]) == (200, "text/event-stream; charset=utf-8")
    events = read_events(answer)
    for event in events:
        EVENTS.validate_python(event)
    return events


async def whole(harness: EdgeHarness, sent: list[ChatFrame], body: dict[str, Any]) -> Any:
    """A whole reply, which Anthropic's own type takes."""
    harness.plays(sent)
    status, _, answer = await harness.post(PATH, body)
    assert status == 200, answer
    Message.model_validate_json(answer)
    return json.loads(answer)


def assembled(events: list[Any]) -> tuple[list[Any], Any]:
    """The content that a stream's events add up to, and its last delta; checks the order of the events."""
    start, *middle, delta, stop = events
    assert (start["type"], delta["type"], stop) == ("message_start", "message_delta", {"type": "message_stop"})
    assert (start["message"]["content"], start["message"]["stop_reason"]) == ([], None)
    content: list[Any] = []
    is_open = False
    for event in middle:
        if event["type"] == "content_block_start":
            assert (is_open, event["index"]) == (False, len(content))
            content.append(dict(event["content_block"]))
            is_open = True
            continue
        assert (is_open, event["index"]) == (True, len(content) - 1)
        if event["type"] == "content_block_stop":
            is_open = False
            continue
        block, change = content[-1], dict(event["delta"])
        kind = change.pop("type").removesuffix("_delta")
        ((name, value),) = change.items()
        if kind == "input_json":
            name, kind = "partial_json", "tool_use"
        assert kind in (block["type"], "signature")
        block[name] = block.get(name, "") + value
    assert not is_open
    for block in content:
        if block["type"] == "tool_use":
            block["input"] = json.loads(block.pop("partial_json", "{}"))
    return content, delta


async def test_reply_is_whole(harness: EdgeHarness) -> None:
    reply = await whole(harness, numbered(*frames("Hi", " there.", end=None), ending()), asking())
    assert reply.pop("id").startswith("msg_")
    assert reply == {
        "type": "message",
        "role": "assistant",
        "model": "owl",
        "content": [{"type": "text", "text": "Hi there."}],
        "stop_reason": "end_turn",
        "stop_sequence": None,
        "usage": {
            "input_tokens": 3,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": 4,
            "output_tokens": 2,
            "output_tokens_details": {"thinking_tokens": 1},
        },
    }


async def test_stream_has_its_events_in_their_order(harness: EdgeHarness) -> None:
    events = await streamed(harness, numbered(*frames("Hi", end=None), ending()), asking())
    message = events[0]["message"]
    assert message.pop("id").startswith("msg_")
    assert events == [
        {
            "type": "message_start",
            "message": {
                "type": "message",
                "role": "assistant",
                "model": "owl",
                "content": [],
                "stop_reason": None,
                "stop_sequence": None,
                "usage": {
                    "input_tokens": 0,
                    "cache_creation_input_tokens": 0,
                    "cache_read_input_tokens": 0,
                    "output_tokens": 0,
                    "output_tokens_details": {"thinking_tokens": 0},
                },
            },
        },
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "Hi"}},
        {"type": "content_block_stop", "index": 0},
        {
            "type": "message_delta",
            "delta": {"stop_reason": "end_turn", "stop_sequence": None},
            "usage": {
                "input_tokens": 3,
                "cache_creation_input_tokens": 0,
                "cache_read_input_tokens": 4,
                "output_tokens": 2,
                "output_tokens_details": {"thinking_tokens": 1},
            },
        },
        {"type": "message_stop"},
    ]


async def test_limits_are_told_in_anthropics_headers_too(harness: EdgeHarness) -> None:
    states = (
        LimitState(limit="key.tokens_per_day", allowed=1000, remaining=900, resets_in_s=3723),
        LimitState(limit="address.requests_per_minute", allowed=60, remaining=-1, resets_in_s=12),
        LimitState(limit="key.jobs_at_once", allowed=2, remaining=1, resets_in_s=0),
    )
    harness.quota.states = states
    harness.plays(numbered(*frames("Hi", end=None), ending()))
    served = (await harness.post(PATH, asking()))[:2]
    harness.quota.refusal = ErrorInfo(code=ErrorCode.QUOTA_EXCEEDED, message="No.", retry_after_s=1)
    for wanted, (status, headers) in ((200, served), (429, (await harness.post(PATH, asking()))[:2])):
        assert status == wanted
        told = {name.lower(): value for name, value in headers.items() if name.lower().startswith("anthropic-")}
        tokens, requests = [
            datetime.fromisoformat(told.pop(f"anthropic-ratelimit-{kind}-reset")) for kind in ("tokens", "requests")
        ]
        assert (tokens - requests).total_seconds() in (3710, 3711, 3712)
        assert requests.tzinfo is not None
        assert told == {
            "anthropic-ratelimit-tokens-limit": "1000",
            "anthropic-ratelimit-tokens-remaining": "900",
            "anthropic-ratelimit-requests-limit": "60",
            "anthropic-ratelimit-requests-remaining": "0",
        }
        assert headers["x-ratelimit-limit-jobs"] == "2"


@pytest.mark.parametrize("pause_s", [0.0, 0.01])
async def test_stream_of_thoughts_text_and_calls_adds_up_to_the_whole_reply(
    harness: EdgeHarness, pause_s: float
) -> None:
    reply = await whole(harness, THOUGHTFUL, asking(tools=[DIM]))
    thought, text, call = reply["content"]
    assert (thought["thinking"], text["text"], call) == ("Let me see.", "I dim it.", USED)
    assert thought["signature"]
    harness.plays(THOUGHTFUL, pause_s)
    _, _, answer = await harness.post(PATH, asking(tools=[DIM], stream=True))
    content, delta = assembled(read_events(answer))
    assert content[0].pop("signature")
    thought.pop("signature")
    assert content == reply["content"]
    assert (delta["delta"]["stop_reason"], delta["usage"]) == (reply["stop_reason"], reply["usage"])
    assert reply["stop_reason"] == "tool_use"


async def test_each_kind_of_block_may_come_again(harness: EdgeHarness) -> None:
    other = CALL.model_copy(update={"id": "call_2", "arguments": json.dumps({"to": "é\u2028" * 300})})
    sent = numbered(
        piece(text="a"), piece(thinking="b"), piece(text="c", thinking="d", tool_calls=(CALL, other)),
        piece(text="e"), piece(tool_calls=(CALL.model_copy(update={"arguments": ""}),)), ending(),
    )  # fmt: skip
    for pause_s in (0.0, 0.01):
        harness.plays(sent, pause_s)
        _, _, answer = await harness.post(PATH, asking(stream=True))
        content, _ = assembled(read_events(answer))
        kinds = [block["type"] for block in content]
        assert kinds == ["text", "thinking", "text", "tool_use", "tool_use", "text", "tool_use"]
        said = [block.get("text", block.get("thinking")) for block in content if "input" not in block]
        assert said == ["a", "bd", "c", "e"]
        assert [block["input"] for block in content if "input" in block] == [{"to": 3}, {"to": "é\u2028" * 300}, {}]


async def test_thoughts_are_left_out_where_that_is_asked_for(harness: EdgeHarness) -> None:
    body = asking(thinking={"type": "enabled", "budget_tokens": 20, "display": "omitted"})
    content, _ = assembled(await streamed(harness, THOUGHTFUL, body))
    reply = await whole(harness, THOUGHTFUL, body)
    for thought in (content[0], reply["content"][0]):
        assert thought["signature"]
        assert thought["thinking"] == ""
    assert [block["type"] for block in content] == [block["type"] for block in reply["content"]]


@pytest.mark.parametrize(
    ("end", "stops", "reason", "stop"),
    [
        (ending("stop", stop_sequence="END"), ["END"], "stop_sequence", "END"),
        (ending("stop", stop_sequence="<|im_end|>"), ["END"], "end_turn", None),
        (ending("stop"), None, "end_turn", None),
        (ending("length"), ["END"], "max_tokens", None),
        (ending("tool_calls"), None, "tool_use", None),
    ],
)
async def test_reason_why_the_reply_ended(
    harness: EdgeHarness, end: ChatFrame, stops: list[str] | None, reason: str, stop: str | None
) -> None:
    sent = numbered(piece(text="x"), end)
    body = asking(stop_sequences=stops)
    reply = await whole(harness, sent, body)
    _, last = assembled(await streamed(harness, sent, body))
    for found in (reply, last["delta"]):
        assert (found["stop_reason"], found["stop_sequence"]) == (reason, stop)


async def test_reply_without_text_has_no_block(harness: EdgeHarness) -> None:
    assert assembled(await streamed(harness, numbered(ending()), asking()))[0] == []
    assert (await whole(harness, numbered(ending()), asking()))["content"] == []


@pytest.mark.parametrize("arguments", ['{"to": 3', "[1]", "[" * 100_000, ""])
async def test_input_that_is_no_object_is_empty(harness: EdgeHarness, arguments: str) -> None:
    call = CALL.model_copy(update={"arguments": arguments})
    reply = await whole(harness, numbered(piece(tool_calls=(call,)), ending("length")), asking(tools=[DIM]))
    assert reply["content"] == [{**USED, "input": {}}]


async def test_failure_in_mid_stream_is_an_event(harness: EdgeHarness) -> None:
    failed = ErrorInfo(code=ErrorCode.ENGINE_FAILED, message="The engine failed.", limit="day")
    harness.plays(numbered(piece(text="Hi"), ending("error", error=failed)), 0.05)
    _, _, answer = await harness.post(PATH, asking(stream=True))
    events = read_events(answer)
    assert events[-1] == {
        "type": "error",
        "error": {
            "type": "api_error",
            "message": "The engine failed.",
            "details": {"error_code": "engine_failed", "limit": "day"},
        },
    }
    assert [event["type"] for event in events[:3]] == ["message_start", "content_block_start", "content_block_delta"]


async def test_waiting_client_gets_pings(harness: EdgeHarness) -> None:
    harness.plays(frames("x"), 0.7)
    _, _, answer = await harness.post(PATH, asking(stream=True))
    assert answer.startswith(PING + b"event: message_start\n")


async def test_request_becomes_neutral() -> None:
    request = neutral(
        asking(
            system=[{"type": "text", "text": "Be kind."}, {"type": "text", "text": "Be short."}],
            stop_sequences=["END", ""],
            temperature=0.5,
            top_p=0.9,
            top_k=40,
            seed=7,
            metadata={"user_id": "u"},
            thinking={"type": "enabled", "budget_tokens": 30},
            tools=[{**DIM, "cache_control": {"type": "ephemeral"}, "type": "custom", "strict": True}],
            tool_choice={"type": "any", "disable_parallel_tool_use": True},
            service_tier="auto",
        )
    )
    assert request.messages == (
        ChatMessage(role="system", content="Be kind.\nBe short."),
        ChatMessage(role="user", content="Hello."),
    )
    assert request.sampling.model_dump(exclude_defaults=True) == {
        "temperature": 0.5, "top_p": 0.9, "top_k": 40, "seed": 7, "stop": ("END",),
    }  # fmt: skip
    (tool,) = request.tools
    assert (tool.name, tool.description, tool.strict) == ("dim", "Dims the light.", True)
    assert tool.parameters == DIM["input_schema"]
    assert (request.tool_choice, request.parallel_tool_calls) == ("required", False)
    assert (request.thinking, request.max_output_tokens) == (Thinking(enabled=True, budget_tokens=30), 50)
    assert (request.speaker, neutral(asking()).speaker) == ("u", "")
    assert neutral(asking(max_tokens=10**9)).max_output_tokens == OWL.max_output_tokens


@pytest.mark.parametrize(
    ("wanted", "effort", "thinking"),
    [
        (None, "high", Thinking()),
        ({"type": "disabled"}, "high", Thinking(enabled=False)),
        ({"type": "enabled", "budget_tokens": 20}, None, Thinking(enabled=True, budget_tokens=20)),
        ({"type": "adaptive"}, None, Thinking()),
        ({"type": "adaptive"}, "low", Thinking(effort="low")),
        ({"type": "between_tools"}, "max", Thinking(effort="high")),
    ],
)
async def test_thinking_is_asked_for(wanted: Any, effort: str | None, thinking: Thinking) -> None:
    assert neutral(asking(thinking=wanted, output_config={"effort": effort})).thinking == thinking


async def test_reply_that_is_cut_to_the_models_limit_thinks_less() -> None:
    body = asking(max_tokens=4 * OWL.max_output_tokens, thinking={"type": "enabled", "budget_tokens": 1024})
    assert neutral(body).thinking == Thinking(enabled=True, budget_tokens=256)


@pytest.mark.parametrize(
    ("choice", "found"),
    [
        (None, "auto"),
        ({"type": "auto"}, "auto"),
        ({"type": "any"}, "required"),
        ({"type": "tool", "name": "dim"}, "dim"),
    ],
)
async def test_tools_are_chosen(choice: Any, found: str) -> None:
    request = neutral(asking(tools=[DIM], tool_choice=choice))
    assert (request.tool_choice, request.parallel_tool_calls, len(request.tools)) == (found, None, 1)


async def test_tools_that_must_not_be_called_are_not_offered() -> None:
    assert neutral(asking(tools=[DIM], tool_choice={"type": "none"})).tools == ()


async def test_schema_of_the_reply_is_kept() -> None:
    schema = {"type": "object", "properties": {}}
    request = neutral(asking(output_config={"format": {"type": "json_schema", "schema": schema}}))
    assert request.output_format == OutputFormat(kind="json_schema", json_schema=schema)


async def test_conversation_with_tools_keeps_its_order() -> None:
    request = neutral(
        asking(
            "Dim it.",
            {
                "role": "assistant",
                "content": [
                    {"type": "thinking", "thinking": "Hm.", "signature": "x"},
                    {"type": "redacted_thinking", "data": "x"},
                    {"type": "text", "text": "I try."},
                    USED,
                ],
            },
            [
                {"type": "tool_result", "tool_use_id": "call_1", "content": [{"type": "text", "text": "No light."}],
                 "is_error": True},
                {"type": "image", "source": PNG},
                {"type": "document", "title": "Notes", "source": {"type": "text", "data": "Lamps."}},
                {"type": "text", "text": "And now?"},
            ],
            {"role": "assistant", "content": [{**USED, "id": "call_2", "input": None}]},
            [{"type": "tool_result", "tool_use_id": "call_2"}],
        ),
        SEEING,
    )  # fmt: skip
    assert request.messages == (
        ChatMessage(role="user", content="Dim it."),
        ChatMessage(role="assistant", content="I try.", thinking="Hm.", tool_calls=(CALL,)),
        ChatMessage(role="tool", content="Error: No light.", tool_call_id="call_1"),
        ChatMessage(
            role="user", content="Notes\nLamps.\nAnd now?", images=(Image(media_type="image/png", data="aGVsbG8="),)
        ),
        ChatMessage(role="assistant", tool_calls=(ToolCall(id="call_2", name="dim", arguments="{}"),)),
        ChatMessage(role="tool", tool_call_id="call_2"),
    )


async def test_image_in_a_result_is_shown_by_the_user() -> None:
    result = {"type": "tool_result", "tool_use_id": "call_1", "content": [{"type": "image", "source": PNG}]}
    *_, tool, user = neutral(asking("See.", {"role": "assistant", "content": [USED]}, [result]), SEEING).messages
    assert (tool.role, tool.images) == ("tool", ())
    assert (user.role, [image.data for image in user.images]) == ("user", ["aGVsbG8="])


async def test_neighbours_of_one_role_are_one_turn_and_the_last_of_the_assistant_is_the_start_of_the_reply(
    harness: EdgeHarness,
) -> None:
    body = asking(
        "A?",
        "B?",
        {"role": "system", "content": "Be short."},
        "C?",
        {"role": "assistant", "content": "The answer is ("},
    )
    worker = harness.plays(frames("B)"))
    status, _, answer = await harness.post(PATH, body)
    assert (status, json.loads(answer)["content"]) == (200, [{"type": "text", "text": "B)"}])
    assert (await worker).request.messages == (
        ChatMessage(role="user", content="A?\n\nB?"),
        ChatMessage(role="system", content="Be short."),
        ChatMessage(role="user", content="C?"),
        ChatMessage(role="assistant", content="The answer is ("),
    )


def turn(*blocks: Any, role: str = "user") -> dict[str, Any]:
    return asking({"role": role, "content": list(blocks)})


@pytest.mark.parametrize(
    ("body", "code", "param"),
    [
        (asking(tools=[{"type": "web_search_20250305", "name": "web_search"}]), "unsupported", "tools[0]"),
        (asking(tools=[{"name": "dim"}]), "invalid_request", "tools[0].input_schema"),
        (asking(tools=[{**DIM, "input_schema": {"type": "string"}}]), "invalid_request", "tools[0].input_schema"),
        (asking(tools=[DIM], tool_choice={"type": "tool", "name": "x"}), "invalid_request", "tool_choice.name"),
        (asking(tools=[{**DIM, "name": "auto"}], tool_choice={"type": "tool", "name": "auto"}), "invalid_request",
         "tool_choice.name"),
        (asking(tool_choice={"type": "any"}), "invalid_request", "tool_choice"),
        (asking(thinking={"type": "enabled"}), "invalid_request", "thinking.budget_tokens"),
        (asking(mcp_servers=[{}]), "unsupported", "mcp_servers"),
        (asking(system=[{"type": "image", "source": PNG}]), "unsupported", "system[0].type"),
        (turn({"type": "text"}), "invalid_request", "messages[0].content[0].text"),
        (turn({"type": "image", "source": PNG}), "unsupported", "messages[0].content[0]"),
        (turn({"type": "document", "source": {"type": "base64", "data": "x"}}), "unsupported",
         "messages[0].content[0].source"),
        (turn({"type": "tool_result", "content": "x"}), "invalid_request", "messages[0].content[0].tool_use_id"),
        (turn({"type": "tool_result", "tool_use_id": "x", "content": [{"type": "search_result"}]}), "unsupported",
         "messages[0].content[0].content[0].type"),
        (turn(USED), "unsupported", "messages[0].content[0].type"),
        (turn({**USED, "id": None}, role="assistant"), "invalid_request", "messages[0].content[0].id"),
        (turn({"type": "server_tool_use", "id": "x"}, role="assistant"), "unsupported",
         "messages[0].content[0].type"),
    ],
)  # fmt: skip
async def test_what_cannot_be_served_is_named(
    body: dict[str, Any], code: str, param: str, harness: EdgeHarness
) -> None:
    found = refusal(body)
    assert (found.code, found.param) == (code, param)
    status, _, answer = await harness.post(PATH, body)
    error = json.loads(answer)["error"]
    assert (status, error["type"], error["details"]) == (400, "invalid_request_error", {"error_code": code})
    assert param in error["message"]
    assert harness.quota.asked == []


@pytest.mark.parametrize(
    ("source", "code"),
    [
        ({"type": "url", "url": "https://a.example/b.png"}, "unsupported"),
        ({**PNG, "media_type": "image/tiff"}, "unsupported"),
        ({**PNG, "data": "aGVsbG8"}, "invalid_request"),
        ({**PNG, "data": "é"}, "invalid_request"),
        ({**PNG, "data": None}, "invalid_request"),
    ],
)
async def test_image_that_cannot_be_read_is_refused(source: Any, code: str) -> None:
    assert refusal(turn({"type": "image", "source": source}), SEEING).code == code


async def test_model_that_ignores_tools_takes_those_of_anthropic() -> None:
    tools = [{"type": "bash_20250124", "name": "bash"}, {"type": "custom", "name": "x"}, DIM]
    assert [tool.name for tool in neutral(asking(tools=tools), model(tools="ignore")).tools] == ["dim"]


async def test_prompt_that_is_too_long_is_said_in_the_words_that_clients_know(harness: EdgeHarness) -> None:
    body = asking("x " * 20_000, model="wren/tiny")
    status, _, answer = await harness.post(PATH, body)
    assert status == 400
    assert json.loads(answer)["error"]["message"].startswith("prompt is too long: ")


async def test_full_queue_is_an_overloaded_server() -> None:
    async with running(most_queued=0) as harness:
        status, headers, answer = await harness.post(PATH, asking())
        assert (status, json.loads(answer)["error"]["type"]) == (529, "overloaded_error")
        assert (headers["x-should-retry"], int(headers["Retry-After"]) >= 1) == ("true", True)


@pytest.mark.parametrize(
    ("method", "path", "status", "kind"),
    [
        ("GET", PATH, 405, "invalid_request_error"),
        ("GET", f"{PATH}/nothing", 404, "not_found_error"),
        ("POST", "/messages/nothing", 404, "not_found_error"),
        ("POST", f"{PATH}/batches", 400, "invalid_request_error"),
        ("GET", f"{PATH}/batches", 400, "invalid_request_error"),
        ("GET", f"{PATH}/batches/msgbatch_1/results", 400, "invalid_request_error"),
    ],
)
async def test_path_below_messages_answers_as_anthropic_whatever_it_is(
    method: str, path: str, status: int, kind: str, harness: EdgeHarness
) -> None:
    async with harness.session.request(method, harness.url + path) as reply:
        found = await reply.json()
        assert (reply.status, found["type"], found["error"]["type"]) == (status, "error", kind)
        assert reply.headers["request-id"] == reply.headers["x-request-id"]
        assert "request-id" in reply.headers["Access-Control-Expose-Headers"]


@pytest.mark.parametrize(
    ("headers", "key"),
    [
        ({"x-api-key": "cb_mine"}, "cb_mine"),
        ({"Authorization": "Bearer cb_mine"}, "cb_mine"),
        ({"x-api-key": "cb_mine", "Authorization": "Bearer cb_other"}, "cb_mine"),
        ({"x-api-key": "sk-none"}, None),
        ({}, None),
    ],
)
async def test_key_is_found(headers: dict[str, str], key: str | None, harness: EdgeHarness) -> None:
    harness.plays(frames("x"))
    status, answered, _ = await harness.post("/messages", asking(), **headers, **VERSION, **{"anthropic-beta": "x"})
    assert (status, answered["request-id"]) == (200, answered["x-request-id"])
    assert [asked.key_digest for asked in harness.quota.asked] == [key_digest(key) if key else None]


async def test_key_that_is_needed_and_missing_is_refused_in_anthropics_form(harness: EdgeHarness) -> None:
    harness.quota.require_key = True
    for path in (PATH, COUNT):
        status, headers, answer = await harness.post(path, asking())
        assert (status, json.loads(answer)["error"]["type"]) == (401, "authentication_error")
        assert headers["request-id"]


async def test_tokens_are_counted_as_the_prompt_has_them(harness: EdgeHarness) -> None:
    body = asking("One two.", {"role": "assistant", "content": "Three"}, system="Be short.", tools=[DIM])
    status, _, answer = await harness.post(COUNT, {name: body[name] for name in body if name != "max_tokens"})
    pool, asked = harness.inquiry.asked[-1]
    assert (status, pool) == (200, "main")
    assert isinstance(asked, TokenizeRequest)
    assert [(one.role, one.content) for one in asked.messages] == [
        ("system", "Be short."),
        ("user", "One two."),
        ("assistant", "Three"),
    ]
    assert [tool.name for tool in asked.tools] == ["dim"]
    # The start of the prompt, the tool, the roles and the words.
    assert json.loads(answer) == {"input_tokens": 1 + 1 + 3 + 5}
    assert harness.quota.asked == []


async def test_tokens_are_refused_where_the_engine_tells_none_or_the_model_takes_no_tools(
    harness: EdgeHarness,
) -> None:
    status, _, answer = await harness.post(COUNT, asking(model="wren/tiny", tools=[DIM]))
    assert (status, json.loads(answer)["error"]["details"]["error_code"]) == (400, "unsupported")
    harness.inquiry.failure = CallboardError(ErrorCode.UNSUPPORTED, "No tokens.", param="model")
    status, _, answer = await harness.post(COUNT, asking())
    assert (status, json.loads(answer)["error"]["message"]) == (400, "model: No tokens.")


async def test_models_are_listed_in_the_form_that_their_client_reads(harness: EdgeHarness) -> None:
    async def got(path: str, **headers: str) -> tuple[int, Any]:
        async with harness.session.get(harness.url + path, headers=headers) as reply:
            return reply.status, await reply.json()

    status, listed = await got("/v1/models", **VERSION)
    names = [entry["id"] for entry in listed["data"]]
    assert (status, names, listed["has_more"]) == (200, ["owl", "wren/tiny"], False)
    assert (listed["first_id"], listed["last_id"]) == ("owl", "wren/tiny")
    assert listed["data"][0] == {
        "type": "model", "id": "owl", "display_name": "owl", "created_at": "2026-01-01T00:00:00Z",
        "lifecycle": "active", "max_input_tokens": 4096, "max_tokens": 100,
    }  # fmt: skip
    assert await got("/v1/models/owl", **VERSION) == (200, listed["data"][0])
    status, error = await got("/v1/models/nobody", **VERSION)
    assert (status, error["error"]["type"]) == (404, "not_found_error")
    assert (await got("/v1/models"))[1]["object"] == "list"
    assert (await got("/v1/models/owl"))[1]["object"] == "model"


@settings(max_examples=80, deadline=None, suppress_health_check=(HealthCheck.too_slow,))
@given(values_of(MessagesBody.model_json_schema()), st.sampled_from([OWL, SEEING, model(tools="ignore")]))
def test_any_body_is_a_request_or_refused(fields: Any, of: ChatModel) -> None:
    body = {**asking(), **{name: value for name, value in fields.items() if value is not None}}
    request: ChatRequest | None = None
    with suppress(CallboardError):
        request = with_usual_end(neutral(body, of))
    if request is not None:
        assert request.messages
        assert 1 <= request.max_output_tokens <= of.max_output_tokens
        assert ChatRequest.model_validate_json(request.compact()) == request
