"""Ollama's paths: what their clients read, byte for byte, and what becomes of each field."""

import asyncio
import json
import re
from datetime import datetime
from typing import Any

import ollama
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from callboard_contracts.characters import Character
from callboard_contracts.chat import ChatEnd, ChatFrame, ChatMessage, PhaseDurations, TokenLogprob, ToolCall
from callboard_contracts.errors import CallboardError, ErrorCode, ErrorInfo
from callboard_contracts.tokens import DescribeModelReply
from callboard_contracts.workers import Ability, OfferedModel, WorkerInfo
from callboard_edge.domain.catalogue import Catalogue, ChatModel
from callboard_edge.http.bodies import parse
from callboard_edge.protocols.ollama import context, models, names, text
from callboard_edge.protocols.ollama.bodies import ChatBody, GenerateBody
from tests.unit.edge.harness import USAGE, EdgeHarness, frames, running, vectors

pytestmark = pytest.mark.unit

CHAT, GENERATE = "/api/chat", "/api/generate"
OWL = ChatModel("owl", ("owl:latest",), "main", False, 0.0, 4096, 100, "grammar", True, False)
SEEING = ChatModel("hawk", (), "main", False, 0.0, 4096, 100, "grammar", True, True)
PNG = "iVBORw0KGgo="
TOOL = {"type": "function", "function": {"name": "dim", "parameters": {"type": "object", "properties": {}}}}


def asking(**over: Any) -> dict[str, Any]:
    return {"model": "owl", "messages": [{"role": "user", "content": "Hello."}], **over}


def offer(harness: EdgeHarness, *abilities: Ability, context_tokens: int = 2048) -> None:
    """Has a worker announce the model with these abilities."""
    model = OfferedModel(
        name="owl", context_tokens=context_tokens, abilities=("chat", *abilities), sampling=tuple(SAMPLED)
    )
    harness.known.announce(
        WorkerInfo(id="w", service="chat", pool="main", backend="fake", models=(model,), slots=1, at=0.0)
    )


def read_lines(body: bytes) -> list[Any]:
    """The objects of a stream, none of whose lines is blank."""
    assert body.endswith(b"\n")
    assert body.isascii()
    return [json.loads(line) for line in body[:-1].split(b"\n")]


async def post(harness: EdgeHarness, path: str, body: Any) -> tuple[int, Any]:
    status, _, answer = await harness.post(path, body)
    return status, json.loads(answer)


SAMPLED = {
    "temperature": 0.4,
    "top_k": 12,
    "top_p": 0.8,
    "min_p": 0.1,
    "typical_p": 0.9,
    "repetition_range": 32,
    "repetition_penalty": 1.2,
    "presence_penalty": 0.5,
    "frequency_penalty": 0.25,
    "mirostat": 1,
    "mirostat_tau": 4.0,
    "mirostat_eta": 0.2,
    "seed": 7,
}
OPTIONS = {
    "temperature": 0.4,
    "top_k": 12,
    "top_p": 0.8,
    "min_p": 0.1,
    "typical_p": 0.9,
    "repeat_last_n": 32,
    "repeat_penalty": 1.2,
    "presence_penalty": 0.5,
    "frequency_penalty": 0.25,
    "mirostat": 1,
    "mirostat_tau": 4.0,
    "mirostat_eta": 0.2,
    "seed": 7,
}


async def test_stream_is_the_default_and_has_one_object_to_a_line(harness: EdgeHarness) -> None:
    durations = PhaseDurations(queue_s=9, load_s=0.001, prompt_s=0.02, generate_s=0.06)
    end = ChatFrame(seq=2, attempt=1, end=ChatEnd(reason="stop", usage=USAGE, durations=durations))
    harness.plays([*frames("Hoo", "\u2028.\r\n", end=None), end])
    status, headers, body = await harness.post(CHAT, asking())
    assert (status, headers["Content-Type"]) == (200, "application/x-ndjson")
    *pieces, last = read_lines(body)
    assert "".join(piece["message"]["content"] for piece in pieces) == "Hoo\u2028.\r\n"
    for piece in pieces:
        assert set(piece) == {"model", "created_at", "message", "done"}
        assert (piece["model"], piece["done"], piece["message"]["role"]) == ("owl", False, "assistant")
        datetime.fromisoformat(piece["created_at"])
    assert last.pop("total_duration") > 0
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z", last.pop("created_at"))
    assert last == {
        "model": "owl",
        "message": {"role": "assistant", "content": ""},
        "done": True,
        "done_reason": "stop",
        "load_duration": 1_000_000,
        "prompt_eval_count": 7,
        "prompt_eval_duration": 20_000_000,
        "eval_count": 2,
        "eval_duration": 60_000_000,
    }


async def test_durations_that_nobody_measured_are_left_out(harness: EdgeHarness) -> None:
    harness.plays(frames("Hoo.", end="length"))
    status, answer = await post(harness, GENERATE, {"model": "owl:latest", "prompt": "Hello.", "stream": False})
    assert status == 200
    assert (answer["model"], answer["response"], answer["done_reason"]) == ("owl:latest", "Hoo.", "length")
    assert {"total_duration", "prompt_eval_count", "eval_count"} <= set(answer)
    assert not {"load_duration", "prompt_eval_duration", "eval_duration"} & set(answer)


async def test_thinking_is_a_field_of_its_own(harness: EdgeHarness) -> None:
    sent = [
        ChatFrame(seq=0, attempt=1, thinking="Let me see.", tokens=1),
        ChatFrame(seq=1, attempt=1, text="Yes.", tokens=1),
        ChatFrame(seq=2, attempt=1, end=ChatEnd(reason="stop", usage=USAGE)),
    ]
    harness.plays(sent, pause_s=0.05)
    _, _, body = await harness.post(CHAT, asking(think=True))
    assert [piece["message"] for piece in read_lines(body)] == [
        {"role": "assistant", "content": "", "thinking": "Let me see."},
        {"role": "assistant", "content": "Yes."},
        {"role": "assistant", "content": ""},
    ]
    harness.plays(sent)
    _, answer = await post(harness, GENERATE, {"model": "owl", "prompt": "Well?", "stream": False})
    assert (answer["thinking"], answer["response"]) == ("Let me see.", "Yes.")


async def test_tool_calls_are_streamed_with_objects_for_arguments(harness: EdgeHarness) -> None:
    calls = tuple(ToolCall(id=f"call_{n}", name="dim", arguments=f'{{"level": {n}}}') for n in (1, 2))
    sent = [
        ChatFrame(seq=0, attempt=1, tool_calls=calls, tokens=4),
        ChatFrame(seq=1, attempt=1, end=ChatEnd(reason="tool_calls", usage=USAGE)),
    ]
    worker = harness.plays(sent)
    _, _, body = await harness.post(CHAT, asking(tools=[TOOL]))
    called, last = read_lines(body)
    assert called["message"]["tool_calls"] == [
        {"id": f"call_{n}", "function": {"index": n - 1, "name": "dim", "arguments": {"level": n}}} for n in (1, 2)
    ]
    assert (called["done"], last["done_reason"]) == (False, "stop")
    assert [tool.name for tool in (await worker).request.tools] == ["dim"]
    harness.plays(sent)
    _, answer = await post(harness, CHAT, asking(tools=[TOOL], stream=False))
    assert ollama.ChatResponse(**answer).message.tool_calls


async def test_log_probabilities_come_with_their_pieces(harness: EdgeHarness) -> None:
    offer(harness, "logprobs")
    one = TokenLogprob(token="é", logprob=-0.5, top=(TokenLogprob(token="e", logprob=-1.5),))
    sent = [
        ChatFrame(seq=0, attempt=1, text="é", tokens=1, logprobs=(one,)),
        ChatFrame(seq=1, attempt=1, end=ChatEnd(reason="stop", usage=USAGE)),
    ]
    found: dict[str, Any] = {"token": "é", "logprob": -0.5, "bytes": [195, 169]}
    found["top_logprobs"] = [{"token": "e", "logprob": -1.5, "bytes": [101]}]
    worker = harness.plays(sent)
    _, _, body = await harness.post(CHAT, asking(logprobs=True, top_logprobs=1))
    assert read_lines(body)[0]["logprobs"] == [found]
    assert (await worker).request.top_logprobs == 1
    harness.plays(sent)
    _, answer = await post(harness, CHAT, asking(logprobs=True, stream=False))
    assert answer["logprobs"] == [found]


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(
    ("path", "body"),
    [(CHAT, {"messages": []}), (CHAT, {"messages": None}), (GENERATE, {"prompt": ""}), (GENERATE, {})],
)
async def test_nothing_said_loads_and_unloads(harness: EdgeHarness, path: str, body: Any, *, stream: bool) -> None:
    said = {"message": {"role": "assistant", "content": ""}} if path == CHAT else {"response": ""}
    for kept, reason in ((None, "load"), ("5m", "load"), (0, "unload"), ("0s", "unload"), (-1, "load"), (60, "load")):
        status, answer = await post(harness, path, {"model": "owl", "stream": stream, "keep_alive": kept, **body})
        assert status == 200
        datetime.fromisoformat(answer.pop("created_at"))
        assert answer == {"model": "owl", **said, "done": True, "done_reason": reason}
    status, answer = await post(harness, path, {"model": "nobody", **body})
    assert (status, answer["code"]) == (404, "unknown_model")
    assert "'nobody' not found" in answer["error"]


async def test_model_without_a_worker_cannot_be_loaded(harness: EdgeHarness) -> None:
    harness.known.mark_loaded(0)
    status, answer = await post(harness, CHAT, {"model": "owl", "messages": []})
    assert (status, answer["code"]) == (503, "no_worker")
    assert (await post(harness, CHAT, {"model": "owl", "messages": [], "keep_alive": 0}))[0] == 200


async def test_error_in_the_middle_is_the_last_line(harness: EdgeHarness) -> None:
    failed = ChatEnd(reason="error", error=ErrorInfo(code=ErrorCode.ENGINE_FAILED, message="The engine failed."))
    harness.plays([*frames("Hoo", end=None), ChatFrame(seq=1, attempt=1, end=failed)], pause_s=0.1)
    status, _, body = await harness.post(CHAT, asking())
    assert status == 200
    assert read_lines(body)[-1] == {"error": "The engine failed.", "code": "engine_failed"}


async def test_error_before_the_first_line_has_its_status(harness: EdgeHarness) -> None:
    failed = ChatEnd(reason="error", error=ErrorInfo(code=ErrorCode.ENGINE_FAILED, message="The engine failed."))
    harness.plays([ChatFrame(seq=0, attempt=1, end=failed)])
    status, headers, body = await harness.post(CHAT, asking())
    assert (status, headers["Content-Type"]) == (500, "application/json")
    assert json.loads(body) == {"error": "The engine failed.", "code": "engine_failed"}


async def test_options_reach_the_engine(harness: EdgeHarness) -> None:
    offer(harness)
    options = {
        **OPTIONS,
        "num_predict": 20,
        "num_ctx": 1024,
        "stop": ["END", ""],
        "num_gpu": 1,
        "penalize_newline": True,
    }
    worker = harness.plays(frames("x"))
    assert (await post(harness, CHAT, asking(stream=False, options=options)))[0] == 200
    request = (await worker).request
    assert (request.max_output_tokens, request.context_tokens, request.overflow) == (20, 1024, "drop_front")
    assert request.sampling.stop == ("END",)
    assert {name: getattr(request.sampling, name) for name in SAMPLED} == SAMPLED


@pytest.mark.parametrize(
    ("options", "limit", "context_tokens"),
    [
        (None, 100, None),
        ({"num_predict": -1}, 100, None),
        ({"num_predict": -2, "num_ctx": 0}, 100, None),
        ({"num_predict": 5000, "num_ctx": 999_999}, 100, 4096),
        ({"num_predict": "30", "num_ctx": 1.0}, 30, 128),
        ({"num_predict": None, "num_ctx": None, "seed": -1, "stop": None, "temperature": None}, 100, None),
    ],
)
def test_lengths_are_within_the_model(options: Any, limit: int, context_tokens: int | None) -> None:
    body = parse(ChatBody, json.dumps(asking(options=options)).encode())
    request = text.chat_request(body, OWL, None)
    assert (request.max_output_tokens, request.context_tokens) == (limit, context_tokens)
    assert request.sampling.seed is None


def test_values_out_of_range_are_brought_into_it() -> None:
    options = {"temperature": 1e9, "top_p": -3, "repeat_penalty": 0, "mirostat": 9, "top_k": -5, "seed": 1e30}
    request = text.chat_request(parse(ChatBody, json.dumps(asking(options=options)).encode()), OWL, None)
    found = request.sampling
    assert (found.temperature, found.top_p, found.repetition_penalty) == (100, 0, 0.01)
    assert (found.mirostat, found.top_k, found.seed) == (2, -1, 2**53)


@pytest.mark.parametrize(
    ("given", "kind"),
    [
        (None, "text"),
        ("", "text"),
        ("json", "json_object"),
        ({"type": "object", "properties": {"a": {"type": "integer"}}}, "json_schema"),
    ],
)
def test_format_is_text_json_or_a_schema(given: Any, kind: str) -> None:
    for path in (CHAT, GENERATE):
        found = request_of(path, {"format": given}).output_format
        assert (found.kind, found.json_schema) == (kind, given if kind == "json_schema" else None)


def request_of(path: str, over: dict[str, Any], model: ChatModel = OWL, offered: OfferedModel | None = None) -> Any:
    """The neutral form of a body with some more fields."""
    if path == CHAT:
        return text.chat_request(parse(ChatBody, json.dumps(asking(**over)).encode()), model, offered)
    body = {"model": "owl", "prompt": "Hello.", **over}
    return text.generate_request(parse(GenerateBody, json.dumps(body).encode()), model, offered)


@pytest.mark.parametrize(
    ("think", "enabled", "effort"),
    [(None, None, None), (False, False, None), (True, True, None), ("low", True, "low"), ("high", True, "high")],
)
def test_think_is_a_switch_or_a_level(think: Any, enabled: bool | None, effort: str | None) -> None:
    able = OfferedModel(name="owl", abilities=("chat", "thinking"))
    for path in (CHAT, GENERATE):
        found = request_of(path, {"think": think}, offered=able).thinking
        assert (found.enabled, found.effort, found.budget_tokens) == (enabled, effort, None)


def test_what_a_model_cannot_do_is_refused() -> None:
    unable = OfferedModel(name="owl", abilities=("chat",))
    refused: list[tuple[str, dict[str, Any], str, str]] = [
        (CHAT, {"think": True}, "unsupported", "think"),
        (GENERATE, {"think": "high"}, "unsupported", "think"),
        (CHAT, {"logprobs": True}, "unsupported", "logprobs"),
        (GENERATE, {"suffix": "end"}, "unsupported", "suffix"),
        (GENERATE, {"template": "{{ .Prompt }}"}, "unsupported", "template"),
        (GENERATE, {"images": [PNG]}, "unsupported", "images"),
        (GENERATE, {"raw": True, "images": [PNG]}, "unsupported", "images"),
        (GENERATE, {"raw": True, "system": "Be brief."}, "invalid_request", "system"),
        (GENERATE, {"raw": True, "context": [1, 2]}, "invalid_request", "context"),
        (GENERATE, {"context": [1, 2, 3]}, "invalid_request", "context"),
        (GENERATE, {"context": [-1, 2**60]}, "invalid_request", "context"),
        (CHAT, {"messages": [{"role": "user", "images": [PNG]}]}, "unsupported", "messages[0].images"),
        (CHAT, {"messages": [{"content": "x"}]}, "invalid_request", "messages[0].role"),
        (CHAT, {"messages": [{"role": "user", "content": ["x"]}]}, "invalid_request", "messages[0].content"),
        (CHAT, {"think": "much"}, "invalid_request", "think"),
        (CHAT, {"format": "xml"}, "invalid_request", "format"),
        (CHAT, {"keep_alive": {}}, "invalid_request", "keep_alive"),
        (CHAT, {"keep_alive": 10**400}, "invalid_request", "keep_alive"),
        (CHAT, {"top_logprobs": 21}, "invalid_request", "top_logprobs"),
        (CHAT, {"options": {"temperature": "warm"}}, "invalid_request", "options.temperature"),
        (CHAT, {"tools": [{"function": {"name": "a b"}}]}, "invalid_request", "tools[0].function.name"),
        (
            CHAT,
            {"tools": [{"function": {"name": "a", "parameters": {"type": "string"}}}]},
            "invalid_request",
            "tools[0].function.parameters",
        ),
    ]
    for path, over, code, param in refused:
        with pytest.raises(CallboardError) as raised:
            request_of(path, over, offered=unable)
        assert (raised.value.info.code.value, raised.value.info.param) == (code, param), over
    # What is switched off asks for nothing.
    assert request_of(CHAT, {"think": False, "logprobs": False, "tools": []}, offered=unable).tools == ()


def test_messages_of_every_role_are_taken() -> None:
    turns: list[dict[str, Any]] = [
        {"role": "system"},
        {"role": "USER", "content": "Dim both.", "images": None},
        {
            "role": "assistant",
            "thinking": "Two calls.",
            "tool_calls": [
                {"function": {"name": "dim", "arguments": {"level": 1}}},
                {"id": "own", "function": {"name": "fade"}},
            ],
        },
        {"role": "tool", "content": "faded", "tool_name": "fade"},
        {"role": "tool", "content": "dimmed"},
        {"role": "tool", "content": "late", "tool_call_id": "x"},
    ]
    found = request_of(CHAT, {"messages": turns}).messages
    assert [message.role for message in found] == ["system", "user", "assistant", "tool", "tool", "tool"]
    assert found[0].content == ""
    assert found[2].thinking == "Two calls."
    assert [(call.id, call.name, call.arguments) for call in found[2].tool_calls] == [
        ("call_0", "dim", '{"level": 1}'),
        ("own", "fade", "{}"),
    ]
    assert [message.tool_call_id for message in found[3:]] == ["own", "call_0", "x"]


def test_images_are_passed_to_a_model_that_reads_them() -> None:
    for sent in (PNG, f"data:image/png;base64,{PNG}"):
        (image,) = request_of(CHAT, {"messages": [{"role": "user", "images": [sent]}]}, SEEING).messages[0].images
        assert (image.media_type, image.data) == ("image/png", PNG)
        assert request_of(GENERATE, {"images": [sent]}, SEEING).messages[-1].images == (image,)
    for wrong in ("%%%", "AAAA", ""):
        with pytest.raises(CallboardError, match="image"):
            request_of(GENERATE, {"images": [wrong]}, SEEING)


def test_prompt_is_a_conversation_unless_it_is_raw() -> None:
    request = request_of(GENERATE, {"system": "Be brief."})
    assert [(turn.role, turn.content) for turn in request.messages] == [("system", "Be brief."), ("user", "Hello.")]
    raw = request_of(GENERATE, {"raw": True, "options": {"num_ctx": 512}})
    assert (raw.mode, raw.prompt, raw.messages, raw.context_tokens) == ("completion", "Hello.", (), 512)
    assert request_of(GENERATE, {"truncate": False}).overflow == "refuse"


async def test_context_goes_on_with_the_conversation(harness: EdgeHarness) -> None:
    harness.plays(frames("Hoo", "."))
    body = {"model": "owl", "prompt": "Who?", "system": "Be an owl."}
    *_, last = read_lines((await harness.post(GENERATE, body))[2])
    assert all(0 <= number < 2**53 for number in last["context"])
    worker = harness.plays(frames("Me."))
    body = {"model": "owl", "stream": False}
    _, answer = await post(harness, GENERATE, {**body, "prompt": "Why?", "context": last["context"]})
    assert [(turn.role, turn.content) for turn in (await worker).request.messages] == [
        ("system", "Be an owl."),
        ("user", "Who?"),
        ("assistant", "Hoo."),
        ("user", "Why?"),
    ]
    worker = harness.plays(frames("x"))
    await post(harness, GENERATE, {**body, "prompt": "So?", "system": "Be a fox.", "context": answer["context"]})
    assert [turn.content for turn in (await worker).request.messages] == [
        "Be a fox.",
        "Who?",
        "Hoo.",
        "Why?",
        "Me.",
        "So?",
    ]
    harness.plays(frames("x"))
    _, raw = await post(harness, GENERATE, {**body, "prompt": "Who?", "raw": True})
    assert "context" not in raw


def test_context_of_a_long_conversation_keeps_its_end() -> None:
    turns = [ChatMessage(role="system", content="S")]
    turns += [ChatMessage(role="user", content=f"{n}" * 3000) for n in range(40)]
    found = context.unpacked(context.packed(turns))
    assert found[0] == turns[0]
    assert found[-1] == turns[-1]
    assert len(found) < 24


@given(st.lists(st.integers(-(2**70), 2**70), max_size=40))
@settings(max_examples=60, deadline=None)
def test_foreign_context_is_refused_and_never_fails(numbers: list[int]) -> None:
    if not numbers:
        assert context.unpacked(numbers) == ()
        return
    with pytest.raises(CallboardError, match="context"):
        context.unpacked(numbers)


@given(
    st.lists(
        st.tuples(st.sampled_from(["system", "user", "assistant"]), st.text(st.characters(codec="utf-8"))), max_size=8
    )
)
@settings(max_examples=40, deadline=None)
def test_context_is_what_was_said(said: list[tuple[Any, str]]) -> None:
    turns = tuple(ChatMessage(role=role, content=content) for role, content in said)
    assert context.unpacked(context.packed(turns)) == turns


def test_names_go_with_and_without_their_tag() -> None:
    plain = ChatModel("wren/tiny", (), "main", False, 0.0, 128, 10, "refuse", False, False)
    whole = ChatModel("fox:latest", (), "main", False, 0.0, 128, 10, "refuse", False, False)
    offered = Catalogue((OWL, plain, whole), "owl")
    for name in ("owl", "owl:latest", None, ""):
        assert names.chosen(offered, name) is OWL
    for name in ("wren/tiny", "wren/tiny:latest"):
        assert names.chosen(offered, name) is plain
    for name in ("fox", "fox:latest"):
        assert names.chosen(offered, name) is whole
    assert [names.tagged(name) for name in ("owl", "a:1b", "x:1/owl")] == ["owl:latest", "a:1b", "x:1/owl:latest"]
    for name in ("owl:8b", "nobody", "x" * 9000):
        with pytest.raises(CallboardError) as raised:
            names.chosen(offered, name)
        assert raised.value.info.code is ErrorCode.UNKNOWN_MODEL
        assert len(raised.value.info.message) < 300


async def test_character_is_a_model(harness: EdgeHarness) -> None:
    harness.characters.take("mira", Character(name="mira", id="1a", display_name="Mira", prompt="Be {name}."), 1)
    offer(harness, "thinking")
    worker = harness.plays(frames("Hm."))
    status, answer = await post(harness, CHAT, asking(model="character/mira:latest", stream=False, think=True))
    assert (status, answer["model"], answer["message"]["content"]) == (200, "character/mira:latest", "Hm.")
    request = (await worker).request
    assert (request.model, request.messages[0].content, request.overflow) == ("owl", "Be Mira.", "drop_front")
    _, shown = await post(harness, "/api/show", {"model": "character/mira"})
    assert shown["capabilities"] == ["completion", "thinking"]
    async with harness.session.get(harness.url + "/api/tags") as reply:
        assert "character/mira:latest" in [one["name"] for one in (await reply.json())["models"]]
    assert [pool for pool, _request in harness.inquiry.asked] == ["main"] * 3


async def test_models_are_listed_with_what_workers_say(harness: EdgeHarness) -> None:
    harness.inquiry.description = DescribeModelReply(
        architecture="llama", parameters=134_515_008, quantization="Q4_K_M", size_bytes=105_454_432
    )
    offer(harness)
    async with harness.session.get(harness.url + "/api/tags") as reply:
        answer = await reply.json()
    found = ollama.ListResponse(**answer).models
    assert [one["name"] for one in answer["models"]] == ["owl:latest", "wren/tiny:latest", "magpie:latest"]
    assert all(one["name"] == one["model"] and len(one["digest"]) == 64 for one in answer["models"])
    assert found[0].size == 105_454_432
    assert answer["models"][0]["details"] == {
        "parent_model": "",
        "format": "gguf",
        "family": "llama",
        "families": ["llama"],
        "parameter_size": "135M",
        "quantization_level": "Q4_K_M",
    }
    asked = len(harness.inquiry.asked)
    async with harness.session.head(harness.url + "/api/tags") as reply:
        assert (reply.status, await reply.read()) == (200, b"")
    assert len(harness.inquiry.asked) == asked


async def test_models_are_listed_where_no_worker_answers(harness: EdgeHarness) -> None:
    harness.inquiry.failure = CallboardError(ErrorCode.NO_WORKER, "Nobody.")
    offer(harness, "thinking", "tools", "images")
    async with harness.session.get(harness.url + "/api/tags") as reply:
        answer = await reply.json()
    assert {one["size"] for one in answer["models"]} == {0}
    status, shown = await post(harness, "/api/show", {"model": "owl"})
    assert status == 200
    assert shown["model_info"]["general.architecture"] == "unknown"
    assert shown["model_info"]["unknown.context_length"] == 2048
    assert shown["capabilities"] == ["completion", "tools", "vision", "thinking"]


async def test_running_models_are_those_with_a_worker(harness: EdgeHarness) -> None:
    async with harness.session.get(harness.url + "/api/ps") as reply:
        assert await reply.json() == {"models": []}
    offer(harness)
    async with harness.session.get(harness.url + "/api/ps") as reply:
        answer = await reply.json()
    found = ollama.ProcessResponse(**answer).models
    assert [(one.name, one.context_length) for one in found] == [("owl:latest", 2048)]
    assert found[0].expires_at


async def test_model_is_described(harness: EdgeHarness) -> None:
    harness.inquiry.description = DescribeModelReply(
        architecture="llama", parameters=7_600_000_000, chat_template="{{ x }}", trained_context_tokens=8192
    )
    offer(harness)
    for body in ({"model": "owl"}, {"name": "owl:latest", "verbose": True}):
        status, answer = await post(harness, "/api/show", body)
        assert status == 200
        shown = ollama.ShowResponse(**answer)
        assert shown.template == "{{ x }}"
        assert shown.details is not None
        assert shown.details.parameter_size == "7.6B"
        assert shown.modelinfo == {
            "general.architecture": "llama",
            "general.basename": "owl",
            "general.parameter_count": 7_600_000_000,
            "llama.context_length": 2048,
        }
    assert (await post(harness, "/api/show", {"model": "nobody"}))[0] == 404


def test_capabilities_of_a_model_without_workers_are_those_configured() -> None:
    def configured(model: ChatModel, *, writes: bool, embeds: bool) -> list[str]:
        return models.capabilities(models.configured(model, writes=writes, embeds=embeds))

    assert configured(OWL, writes=True, embeds=False) == ["completion", "tools"]
    assert configured(SEEING, writes=True, embeds=True) == ["completion", "tools", "vision", "embedding"]
    assert configured(OWL, writes=False, embeds=True) == ["embedding"]


async def test_texts_are_embedded(harness: EdgeHarness) -> None:
    worker = harness.embeds(vectors([0.5, 1], [0.25, -2]))
    body = {"model": "magpie:latest", "input": ["One.", "Two."], "dimensions": 2, "options": {"num_gpu": 1}}
    status, answer = await post(harness, "/api/embed", body)
    found = ollama.EmbedResponse(**answer)
    assert (status, found.embeddings, found.prompt_eval_count) == (200, [[0.5, 1], [0.25, -2]], 6)
    assert found.model == "magpie:latest"
    assert found.total_duration
    request = (await worker).request
    assert (request.model, request.inputs, request.dimensions, request.truncate) == (
        "magpie",
        ("One.", "Two."),
        2,
        True,
    )
    worker = harness.embeds(vectors([0.5, 1]))
    status, answer = await post(harness, "/api/embed", {"model": "magpie", "input": "One.", "truncate": False})
    assert answer["embeddings"] == [[0.5, 1]]
    assert (await worker).request.truncate is False
    harness.embeds(vectors([0.5, 1]))
    status, answer = await post(harness, "/api/embeddings", {"model": "magpie", "prompt": "One."})
    assert (status, answer) == (200, {"embedding": [0.5, 1]})


async def test_nothing_to_embed_loads_the_model(harness: EdgeHarness) -> None:
    for nothing in ("", [], None):
        status, answer = await post(harness, "/api/embed", {"model": "magpie", "input": nothing})
        assert (status, answer) == (200, {"model": "magpie", "embeddings": []})
    assert (await post(harness, "/api/embeddings", {"model": "magpie"}))[1] == {"embedding": []}
    for path, text_field in (("/api/embed", "input"), ("/api/embeddings", "prompt")):
        status, answer = await post(harness, path, {"model": "owl", text_field: "x"})
        assert (status, answer["code"]) == (404, "unknown_model")
    status, answer = await post(harness, "/api/embed", {"model": "magpie", "input": [[1, 2]]})
    assert (status, answer["code"], answer["param"]) == (400, "unsupported", "input")


async def test_site_without_embeddings_says_so() -> None:
    async with running({"chat": {"models": {"owl": {"pool": "main"}}}}) as harness:
        status, answer = await post(harness, "/api/embed", {"model": "owl", "input": "x"})
        assert (status, answer["code"]) == (400, "unsupported")


async def test_version_is_one_that_clients_can_compare(harness: EdgeHarness) -> None:
    async with harness.session.get(harness.url + "/api/version") as reply:
        assert re.fullmatch(r"\d+\.\d+\.\d+", (await reply.json())["version"])
    async with harness.session.head(harness.url + "/api/version") as reply:
        assert reply.status == 200


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/api/pull"),
        ("POST", "/api/push"),
        ("POST", "/api/create"),
        ("POST", "/api/copy"),
        ("DELETE", "/api/delete"),
        ("POST", "/api/blobs/sha256:00"),
    ],
)
async def test_changes_of_models_are_refused(harness: EdgeHarness, method: str, path: str) -> None:
    async with harness.session.request(method, harness.url + path, json={"model": "owl"}) as reply:
        assert reply.status == 501
        assert isinstance((await reply.json())["error"], str)
    async with harness.session.head(harness.url + "/api/blobs/sha256:00") as reply:
        assert reply.status == 404


async def test_unknown_path_is_plain_text_and_other_prefixes_are_not_ours(harness: EdgeHarness) -> None:
    for path in ("/api/nothing", "/api/chat/more", "/api"):
        async with harness.session.get(harness.url + path) as reply:
            assert (reply.status, reply.content_type) == (404, "text/plain")
    async with harness.session.get(harness.url + "/api/v1/nothing") as reply:
        assert "detail" in await reply.json()
    async with harness.session.get(harness.url + CHAT) as reply:
        assert (reply.status, reply.headers["Allow"]) == (405, "POST, OPTIONS")


async def test_key_is_a_bearer_token() -> None:
    async with running({"quota": {"require_key": True}}) as harness:
        harness.quota.require_key = True
        assert (await post(harness, CHAT, asking()))[0] == 401
        harness.plays(frames("x"))
        status, _, _ = await harness.post(CHAT, asking(), Authorization="Bearer cb_key")
        assert status == 200


async def test_silence_is_bridged_by_a_piece_that_adds_nothing(harness: EdgeHarness) -> None:
    harness.plays(frames("x"), pause_s=0.8)
    async with harness.session.post(harness.url + CHAT, json=asking()) as reply:
        async with asyncio.timeout(20):
            first = json.loads(await reply.content.readline())
        assert (first["message"], first["done"]) == ({"role": "assistant", "content": ""}, False)
        assert read_lines(await reply.read())[0]["message"]["content"] == "x"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_any_values_are_taken_or_refused(data: st.DataObject) -> None:
    """Whatever stands in the fields, the request is understood or refused with an error of the catalogue."""
    for path, model in ((CHAT, ChatBody), (GENERATE, GenerateBody)):
        fields = data.draw(st.dictionaries(st.sampled_from(sorted(model.model_fields)), JSON, max_size=6))
        raw = json.dumps({"prompt": "x", **fields}, allow_nan=True).encode("utf-8", "surrogatepass")
        found: str = "taken"
        try:
            if path == CHAT:
                text.chat_request(parse(ChatBody, raw), SEEING, None)
            else:
                text.generate_request(parse(GenerateBody, raw), SEEING, None)
        except CallboardError as error:
            found = error.info.code
        assert found in {"taken", ErrorCode.INVALID_REQUEST, ErrorCode.UNSUPPORTED}


async def test_schema_that_cannot_be_kept_is_an_error_of_format(harness: EdgeHarness) -> None:
    body = {"model": "owl", "messages": [{"role": "user", "content": "x"}], "format": {"not": {}}}
    status, _headers, content = await harness.post(CHAT, body)
    assert (status, json.loads(content)["param"]) == (400, "format")
