"""`/v1/responses`, asked by the `openai` package and by hand."""

import asyncio
import json
from collections.abc import AsyncGenerator
from typing import Any

import httpx2 as httpx
import pytest
from openai import AsyncOpenAI, DefaultAsyncHttpxClient, NotFoundError
from openai.types.responses import (
    Response,
    ResponseFunctionToolCall,
    ResponseOutputMessage,
    ResponseReasoningItem,
    ResponseStreamEvent,
)
from pydantic import BaseModel, TypeAdapter

from callboard_contracts.chat import ChatEnd, ChatFrame, ChatJob, ChatResult, TokenLogprob, ToolCall
from callboard_contracts.errors import CallboardError, ErrorCode, ErrorInfo
from callboard_contracts.workers import Ability, OfferedModel, WorkerInfo
from tests.unit.edge.harness import USAGE, EdgeHarness, frames, running

pytestmark = pytest.mark.unit

PATH = "/v1/responses"
CALL = ToolCall(id="call_1", name="dim", arguments='{"level":3}')
OTHER = CALL.model_copy(update={"id": "call_2"})
TOOL: Any = {"type": "function", "name": "dim", "parameters": {"type": "object"}, "strict": False}
END = ChatEnd(reason="stop", usage=USAGE)
THOUGHTFUL = [
    ChatFrame(seq=0, attempt=1, thinking="Let me ", tokens=1),
    ChatFrame(seq=1, attempt=1, thinking="see.", tokens=1),
    ChatFrame(seq=2, attempt=1, text="Y\u2028es", tokens=1),
    ChatFrame(seq=3, attempt=1, text=".", tokens=1),
    ChatFrame(seq=4, attempt=1, tool_calls=(CALL, OTHER), tokens=4),
    ChatFrame(
        seq=5, attempt=1, end=ChatEnd(reason="tool_calls", usage=USAGE.model_copy(update={"thinking_tokens": 1}))
    ),
]
EVENTS: TypeAdapter[ResponseStreamEvent] = TypeAdapter(ResponseStreamEvent)


@pytest.fixture
async def client(harness: EdgeHarness) -> AsyncGenerator[AsyncOpenAI]:
    # A connection that stayed open would be a task that is left behind.
    closing = DefaultAsyncHttpxClient(limits=httpx.Limits(max_keepalive_connections=0))
    url = harness.url + "/v1"
    async with AsyncOpenAI(base_url=url, api_key="none", max_retries=0, http_client=closing) as made:
        yield made


def asking(**over: Any) -> dict[str, Any]:
    return {"model": "owl", "input": "Hello.", **over}


def offers(harness: EdgeHarness, *abilities: Ability) -> None:
    offered = OfferedModel(name="owl", abilities=abilities)
    harness.known.announce(
        WorkerInfo(id="w", service="chat", pool="main", backend="fake", models=(offered,), slots=1, at=1.0)
    )


def remember(harness: EdgeHarness, job: ChatJob, *sent: ChatFrame) -> None:
    """Keeps a reply, as a worker does once it has ended."""
    end = next(frame.end for frame in sent if frame.end)
    harness.replies.results[job.request_id] = ChatResult(
        request_id=job.request_id,
        model=job.request.model,
        text="".join(frame.text for frame in sent),
        thinking="".join(frame.thinking for frame in sent),
        tool_calls=tuple(call for frame in sent for call in frame.tool_calls),
        end=end,
    )


async def replies(harness: EdgeHarness, client: AsyncOpenAI, sent: list[ChatFrame], **fields: Any) -> Response:
    """A reply that is kept, asked for by the package."""
    worker = harness.plays(sent)
    response = await client.responses.create(**{**asking(), **fields})
    remember(harness, await worker, *sent)
    return response


def events_of(body: bytes) -> list[Any]:
    """The events of a stream; checks the framing and the numbers."""
    assert body.isascii()
    found: list[Any] = []
    for block in body.decode().removesuffix("\n\n").split("\n\n"):
        event, data = block.split("\n")
        found.append(json.loads(data.removeprefix("data: ")))
        assert event == f"event: {found[-1]['type']}"
    assert [event["sequence_number"] for event in found] == list(range(len(found)))
    return found


async def test_reply_is_whole(harness: EdgeHarness, client: AsyncOpenAI) -> None:
    worker = harness.plays(frames("Hoo", "."))
    response = await client.responses.create(
        model="owl", input="Hello.", instructions="Be an owl.", max_output_tokens=50, temperature=0.5
    )
    request = (await worker).request
    assert (response.output_text, response.status, response.object) == ("Hoo.", "completed", "response")
    assert [(one.role, one.content) for one in request.messages] == [("system", "Be an owl."), ("user", "Hello.")]
    assert (request.max_output_tokens, request.sampling.temperature) == (50, 0.5)
    assert response.usage is not None
    assert (response.usage.input_tokens, response.usage.output_tokens, response.usage.total_tokens) == (7, 2, 9)
    assert response.usage.output_tokens_details.reasoning_tokens == 0
    assert (response.instructions, response.temperature) == ("Be an owl.", 0.5)
    Response.model_validate_json(response.model_dump_json(by_alias=True))
    await harness.all_closed()


async def test_reply_satisfies_the_packages_types(harness: EdgeHarness) -> None:
    for body in (asking(), asking(tools=[TOOL], tool_choice={"type": "function", "name": "dim"})):
        harness.plays(THOUGHTFUL)
        _, _, answer = await harness.post(PATH, body)
        response = Response.model_validate_json(answer)
        assert [type(item) for item in response.output] == [
            ResponseReasoningItem,
            ResponseOutputMessage,
            ResponseFunctionToolCall,
            ResponseFunctionToolCall,
        ]
        assert response.output_text == "Y\u2028es."


async def test_stream_has_the_packages_events(harness: EdgeHarness, client: AsyncOpenAI) -> None:
    harness.plays(THOUGHTFUL)
    async with client.responses.stream(model="owl", input="Hello.", tools=[TOOL]) as stream:
        seen = [event async for event in stream]
        final = await stream.get_final_response()
    assert seen[0].type == "response.created"
    assert seen[1].type == "response.in_progress"
    assert seen[-1].type == "response.completed"
    assert final.output_text == "Y\u2028es."
    calls = [item for item in final.output if item.type == "function_call"]
    assert [(call.call_id, call.arguments) for call in calls] == [
        ("call_1", '{"level":3}'),
        ("call_2", '{"level":3}'),
    ]
    harness.plays(THOUGHTFUL)
    _, headers, body = await harness.post(PATH, asking(stream=True, tools=[TOOL]))
    assert headers["Content-Type"] == "text/event-stream"
    events = events_of(body)
    for event in events:
        EVENTS.validate_python(event)
    reasoned = [event["type"] for event in events if event.get("item_id", "").startswith("rs_")]
    assert reasoned == [
        "response.content_part.added",
        *["response.reasoning_text.delta"] * reasoned.count("response.reasoning_text.delta"),
        "response.reasoning_text.done",
        "response.content_part.done",
    ]
    for counts in (final.usage, Response.model_validate(events[-1]["response"]).usage):
        assert counts is not None
        assert counts.output_tokens_details.reasoning_tokens == 1
    reasoning, message, *_calls = [event["item"] for event in events if event["type"] == "response.output_item.done"]
    assert reasoning["content"] == [{"type": "reasoning_text", "text": "Let me see."}]
    assert message["content"][0]["text"] == "Y\u2028es."
    assert [event["output_index"] for event in events if event["type"] == "response.output_item.added"] == [0, 1, 2, 3]
    deltas = [event["delta"] for event in events if event["type"] == "response.output_text.delta"]
    assert "".join(deltas) == "Y\u2028es."
    harness.plays(THOUGHTFUL)
    whole = json.loads((await harness.post(PATH, asking(tools=[TOOL])))[2])
    for one in (whole, events[-1]["response"]):
        for item in one["output"]:
            item["id"] = item["id"].replace(one["id"].removeprefix("resp_"), "")
    assert whole["output"] == events[-1]["response"]["output"]
    assert set(whole) == set(events[-1]["response"])


@pytest.mark.parametrize("name", ["summary", "generate_summary"])
async def test_thoughts_are_a_summary_where_one_is_asked_for(
    name: str, harness: EdgeHarness, client: AsyncOpenAI
) -> None:
    asked: Any = {"effort": "low", name: "auto"}
    harness.plays(THOUGHTFUL)
    async with client.responses.stream(model="owl", input="Hello.", reasoning=asked, tools=[TOOL]) as stream:
        seen = [event async for event in stream if "reasoning" in event.type]
        final = await stream.get_final_response()
    part, text = "response.reasoning_summary_part", "response.reasoning_summary_text"
    kinds = list(dict.fromkeys(event.type for event in seen))
    assert kinds == [f"{part}.added", f"{text}.delta", f"{text}.done", f"{part}.done"]
    assert {(event.output_index, event.summary_index) for event in seen} == {(0, 0)}  # pyright: ignore[reportAttributeAccessIssue]
    harness.plays(THOUGHTFUL)
    whole = await client.responses.create(model="owl", input="Hello.", reasoning=asked, tools=[TOOL])
    for response in (final, whole):
        thoughts = response.output[0]
        assert isinstance(thoughts, ResponseReasoningItem)
        assert ([part.text for part in thoughts.summary], thoughts.content) == (["Let me see."], None)
        assert response.reasoning is not None
        assert (response.reasoning.effort, response.reasoning.summary) == ("low", "auto")


async def test_reply_that_is_cut_is_incomplete(harness: EdgeHarness) -> None:
    harness.plays(frames("Hoo", end="length"))
    whole = json.loads((await harness.post(PATH, asking()))[2])
    assert (whole["status"], whole["incomplete_details"]) == ("incomplete", {"reason": "max_output_tokens"})
    harness.plays(frames("Hoo", end="length"))
    last = events_of((await harness.post(PATH, asking(stream=True)))[2])[-1]
    assert (last["type"], last["response"]["output"][0]["status"]) == ("response.incomplete", "incomplete")
    harness.plays(frames())
    empty = events_of((await harness.post(PATH, asking(stream=True)))[2])[-1]["response"]
    assert empty["output"][0]["content"][0]["text"] == ""


async def test_failure_in_a_stream_is_told(harness: EdgeHarness) -> None:
    error = ErrorInfo(code=ErrorCode.ENGINE_FAILED, message="It failed.")
    end = ChatFrame(seq=1, attempt=1, end=ChatEnd(reason="error", error=error))
    harness.plays([*frames("Hoo", end=None), end], pause_s=0.05)
    *_, told, last = events_of((await harness.post(PATH, asking(stream=True)))[2])
    assert (told["type"], told["code"], told["message"]) == ("error", "engine_failed", "It failed.")
    assert (last["type"], last["response"]["error"]["code"]) == ("response.failed", "server_error")
    assert last["response"]["output"][0]["content"][0]["text"] == "Hoo"
    Response.model_validate(last["response"])
    harness.plays([ChatFrame(seq=0, attempt=1, end=end.end)])
    assert (await harness.post(PATH, asking(stream=True)))[0] == 502


class Sum(BaseModel):
    """What a reply is parsed into."""

    total: int


async def test_reply_is_parsed(harness: EdgeHarness, client: AsyncOpenAI) -> None:
    worker = harness.plays(frames('{"total": ', "3}"))
    parsed = await client.responses.parse(model="owl", input="1 + 2", text_format=Sum)
    assert parsed.output_parsed == Sum(total=3)
    output_format = (await worker).request.output_format
    assert (output_format.kind, output_format.name, output_format.strict) == ("json_schema", "Sum", True)
    worker = harness.plays(frames("{}"))
    await client.responses.create(model="owl", input="JSON", text={"format": {"type": "json_object"}})
    assert (await worker).request.output_format.kind == "json_object"


async def test_items_become_messages(harness: EdgeHarness) -> None:
    items: list[dict[str, Any]] = [
        {"role": "developer", "content": "Be brief."},
        {
            "type": "message",
            "role": "user",
            "content": [{"type": "input_text", "text": "Dim"}, {"type": "input_text", "text": "it."}],
        },
        {"type": "reasoning", "id": "rs_1", "summary": []},
        {
            "type": "message",
            "role": "assistant",
            "content": [{"type": "output_text", "text": "Yes.", "annotations": []}],
        },
        {"type": "function_call", "call_id": "a", "name": "dim", "arguments": "{}"},
        {"type": "function_call", "call_id": "b", "name": "dim", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "a", "output": "done"},
        {"type": "function_call_output", "call_id": "b", "output": [{"type": "input_text", "text": "done too"}]},
    ]
    worker = harness.plays(frames("x"))
    status, _, answer = await harness.post(PATH, asking(input=items, tools=[TOOL], tool_choice="required"))
    assert status == 200, answer
    request = (await worker).request
    assert [(one.role, one.content) for one in request.messages] == [
        ("system", "Be brief."),
        ("user", "Dim\nit."),
        ("assistant", "Yes."),
        ("tool", "done"),
        ("tool", "done too"),
    ]
    assert [call.id for call in request.messages[2].tool_calls] == ["a", "b"]
    assert (request.tools[0].name, request.tools[0].strict, request.tool_choice) == ("dim", False, "required")


async def test_dialogue_goes_on_from_a_reply(harness: EdgeHarness, client: AsyncOpenAI) -> None:
    first = await replies(harness, client, frames("Hoo."), instructions="Be an owl.")
    second = await replies(harness, client, THOUGHTFUL, input="And?", previous_response_id=first.id, tools=[TOOL])
    worker = harness.plays(frames("Dimmed."))
    output: Any = [
        {"type": "function_call_output", "call_id": "call_1", "output": "ok"},
        {"type": "function_call_output", "call_id": "call_2", "output": "ok too"},
    ]
    third = await client.responses.create(model="owl", input=output, previous_response_id=second.id)
    messages = (await worker).request.messages
    assert [(one.role, one.content) for one in messages] == [
        ("user", "Hello."),
        ("assistant", "Hoo."),
        ("user", "And?"),
        ("assistant", "Y\u2028es."),
        ("tool", "ok"),
        ("tool", "ok too"),
    ]
    assert messages[3].tool_calls == (CALL, OTHER)
    assert third.previous_response_id == second.id


async def test_item_stands_for_what_it_names(harness: EdgeHarness, client: AsyncOpenAI) -> None:
    first = await replies(harness, client, THOUGHTFUL, tools=[TOOL])
    references: list[Any] = [{"type": "item_reference", "id": item.id} for item in first.output]
    outputs = [{"type": "function_call_output", "call_id": call.id, "output": "ok"} for call in (CALL, OTHER)]
    worker = harness.plays(frames("x"))
    status, _, answer = await harness.post(
        PATH, asking(input=[{"role": "user", "content": "Hi"}, *references, *outputs])
    )
    assert status == 200, answer
    _user, said, *_tools = (await worker).request.messages
    assert (said.role, said.content, said.tool_calls) == ("assistant", "Y\u2028es.", (CALL, OTHER))
    for wrong in ("msg_" + "0" * 32, "elsewhere"):
        body = asking(input=[{"type": "item_reference", "id": wrong}])
        status, _, answer = await harness.post(PATH, body)
        assert (status, json.loads(answer)["error"]["param"]) == (400, "input[0].id")


async def test_reply_is_shown_again_until_it_is_deleted(harness: EdgeHarness, client: AsyncOpenAI) -> None:
    response = await replies(harness, client, THOUGHTFUL, tools=[TOOL], metadata={"scene": "1"})
    again = await client.responses.retrieve(response.id)
    assert again.model_dump() == response.model_dump()
    await client.responses.delete(response.id)
    for asked in (client.responses.retrieve, client.responses.delete):
        with pytest.raises(NotFoundError):
            await asked(response.id)
    status, _, answer = await harness.post(PATH, asking(previous_response_id=response.id))
    assert (status, json.loads(answer)["error"]["param"]) == (400, "previous_response_id")


async def test_reply_is_nobody_elses(harness: EdgeHarness, client: AsyncOpenAI) -> None:
    response = await replies(harness, client, frames("Hoo."))
    key = {"Authorization": "Bearer cb_" + "x" * 40}
    status, _, answer = await harness.post(PATH, asking(previous_response_id=response.id), **key)
    assert (status, json.loads(answer)["error"]["code"]) == (400, "invalid_request")
    for method in ("GET", "DELETE"):
        async with harness.session.request(method, f"{harness.url}{PATH}/{response.id}", headers=key) as reply:
            assert reply.status == 404
    assert (await client.responses.retrieve(response.id)).output_text == "Hoo."


async def test_reply_that_is_not_stored_is_not_kept(harness: EdgeHarness, client: AsyncOpenAI) -> None:
    response = await replies(harness, client, frames("Hoo."), store=False)
    with pytest.raises(NotFoundError):
        await client.responses.retrieve(response.id)


async def test_refused_request_leaves_nothing(harness: EdgeHarness) -> None:
    harness.quota.refusal = ErrorInfo(code=ErrorCode.QUOTA_EXCEEDED, message="Enough.")
    assert (await harness.post(PATH, asking()))[0] == 429
    assert harness.results.dialogues == {}
    harness.quota.refusal = None
    harness.results.failure = CallboardError(ErrorCode.BUS_UNAVAILABLE, "Away.")
    harness.plays(frames("x"))
    assert (await harness.post(PATH, asking()))[0] == 200
    assert (await harness.post(PATH, asking(previous_response_id="resp_1")))[0] == 503


async def test_reply_that_is_being_written_is_in_progress(
    harness: EdgeHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("callboard_edge.domain.dialogues.RESULT_WAIT_S", 0.0)
    asked = asyncio.ensure_future(harness.post(PATH, asking()))
    job = await harness.jobs.next_chat()
    async with asyncio.timeout(20):
        while not harness.results.dialogues:
            await asyncio.sleep(0.01)
    url = f"{harness.url}{PATH}/resp_{job.request_id}"
    async with harness.session.get(url) as reply:
        assert (await reply.json())["status"] == "in_progress"
    async with harness.session.get(url + "?stream=true") as reply:
        assert reply.status == 400
    for frame in frames("x"):
        harness.replies.send(job.request_id, frame)
    assert (await asked)[0] == 200


async def test_log_probabilities_come_where_the_engine_tells_them(harness: EdgeHarness) -> None:
    offers(harness)
    for fields, param in (
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"include": ["message.output_text.logprobs"]}, "include"),
    ):
        status, _, answer = await harness.post(PATH, asking(**fields))
        assert (status, json.loads(answer)["error"]["param"]) == (400, param)
    offers(harness, "logprobs")
    token = TokenLogprob(token="Hoo", logprob=-0.5, top=(TokenLogprob(token="H\ufffd", logprob=-1.0),))
    sent = [ChatFrame(seq=0, attempt=1, text="Hoo", tokens=1, logprobs=(token,)), *frames(first=1)]
    worker = harness.plays(sent)
    response = Response.model_validate_json((await harness.post(PATH, asking(top_logprobs=1)))[2])
    assert (await worker).request.top_logprobs == 1
    (message,) = response.output
    assert isinstance(message, ResponseOutputMessage)
    assert [one.token for one in getattr(message.content[0], "logprobs", ())] == ["Hoo"]
    harness.plays(sent)
    events = events_of((await harness.post(PATH, asking(top_logprobs=1, stream=True)))[2])
    (delta,) = [event for event in events if event["type"] == "response.output_text.delta"]
    assert delta["logprobs"][0]["logprob"] == -0.5


async def test_reasoning_is_asked_of_models_that_reason(harness: EdgeHarness) -> None:
    thinks: tuple[Ability, ...] = ("thinking",)
    for abilities, effort, wanted in (((), "low", None), (thinks, "low", "low"), (thinks, "none", None)):
        offers(harness, *abilities)
        worker = harness.plays(frames("x"))
        await harness.post(PATH, asking(reasoning={"effort": effort}))
        thinking = (await worker).request.thinking
        assert thinking.effort == wanted
        assert thinking.enabled == (None if not abilities else effort != "none")


async def test_tools_are_ignored_where_a_model_says_so() -> None:
    async with running({"chat": {"models": {"jay": {"pool": "main", "tools": "ignore"}}}}) as harness:
        worker = harness.plays(frames("x"))
        body = {"model": "jay", "input": "Hi", "tools": [TOOL, {"type": "web_search"}]}
        assert (await harness.post(PATH, body))[0] == 200
        assert (await worker).request.tools == ()


REFUSED: dict[str, tuple[dict[str, Any], str, str]] = {
    "a tool that runs here": ({"tools": [{"type": "web_search"}]}, "tools[0]", "unsupported"),
    "the choice of such a tool": ({"tools": [TOOL], "tool_choice": {"type": "mcp"}}, "tool_choice", "unsupported"),
    "the choice of an unknown tool": (
        {"tools": [TOOL], "tool_choice": {"type": "function", "name": "x"}}, "tool_choice", "invalid_request",
    ),
    "a tool without a name": ({"tools": [{"type": "function"}]}, "tools[0].name", "invalid_request"),
    "a tool of a list": (
        {"tools": [{**TOOL, "parameters": {"type": "array"}}]}, "tools[0].parameters", "invalid_request",
    ),
    "tools of a model without": ({"model": "wren/tiny", "tools": [TOOL]}, "tools", "unsupported"),
    "work in the background": ({"background": True}, "background", "unsupported"),
    "a conversation": ({"conversation": "conv_1"}, "conversation", "unsupported"),
    "a stored prompt": ({"prompt": {"id": "pmpt_1"}}, "prompt", "unsupported"),
    "nothing": ({"input": []}, "input", "invalid_request"),
    "a number": ({"input": 7}, "input", "invalid_request"),
    "a message without a role": ({"input": [{"content": "x"}]}, "input[0].role", "invalid_request"),
    "a message without content": ({"input": [{"role": "user"}]}, "input[0].content", "invalid_request"),
    "an unknown item": ({"input": [{"type": "computer_call"}]}, "input[0].type", "unsupported"),
    "an image": (
        {"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "data:,"}]}]},
        "input[0].content[0]",
        "unsupported",
    ),
    "an output without a call": (
        {"input": [{"type": "function_call_output", "output": "x"}]}, "input[0].call_id", "invalid_request",
    ),
    "a format without a schema": (
        {"text": {"format": {"type": "json_schema", "name": "x"}}}, "text.format.schema", "invalid_request",
    ),
    "a schema that is none": (
        {"text": {"format": {"type": "json_schema", "name": "x", "schema": {"type": "what"}}}},
        "text.format.schema",
        "invalid_request",
    ),
    "a form that the model cannot keep to": (
        {"model": "wren/tiny", "text": {"format": {"type": "json_object"}}}, "text.format", "unsupported",
    ),
    "a prompt that is certain not to fit": (
        {"model": "wren/tiny", "input": "a " * 20_000}, "input", "context_length_exceeded",
    ),
    "a reply of nobody's": ({"previous_response_id": "resp_x"}, "previous_response_id", "invalid_request"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
async def test_request_that_cannot_be_served_names_its_field(case: str, harness: EdgeHarness) -> None:
    over, param, code = REFUSED[case]
    status, _, body = await harness.post(PATH, asking(**over))
    error = json.loads(body)["error"]
    assert (status, error["param"], error["code"]) == (400, param, code), error
    assert harness.quota.asked == []
