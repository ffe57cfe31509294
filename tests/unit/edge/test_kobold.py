"""What clients of KoboldCpp, KoboldAI Lite, SillyTavern and text-generation-webui ask, over an edge without a bus."""

import asyncio
import json
import re
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from callboard_contracts.chat import (
    ChatEnd,
    ChatFrame,
    ChatRequest,
    OutputFormat,
    Sampling,
    Thinking,
    TokenLogprob,
    TokenUsage,
)
from callboard_contracts.errors import CallboardError, ErrorCode
from callboard_contracts.pools import ChatSection
from callboard_contracts.workers import Ability, OfferedModel, WorkerInfo
from callboard_edge.domain.catalogue import chat_catalogue
from callboard_edge.http.bodies import parse
from callboard_edge.http.local_sampling import SOURCES, local_sampling
from callboard_edge.protocols.kobold.bodies import GenerateBody, SamplingBody
from callboard_edge.protocols.kobold.generation import generate_request
from callboard_edge.protocols.kobold.protocol import Kobold
from callboard_edge.protocols.kobold.tidy import tidied
from tests.hostile.bodies import examples, raw_bodies
from tests.hostile.targets import all_targets
from tests.unit.edge.harness import EdgeHarness, frames, running, vectors

pytestmark = pytest.mark.unit

GENERATE = "/api/v1/generate"
STREAM = "/api/extra/generate/stream"
LITE_180: dict[str, Any] = {
    "n": 1, "max_context_length": 4096, "max_length": 200, "rep_pen": 1.07, "temperature": 0.7, "top_p": 0.92,
    "top_k": 100, "top_a": 0, "typical": 1, "tfs": 1, "rep_pen_range": 360, "rep_pen_slope": 0.7,
    "sampler_order": [6, 0, 1, 3, 4, 2, 5], "memory": "", "trim_stop": True, "genkey": "KCPP4821", "min_p": 0,
    "dynatemp_range": 0, "dynatemp_exponent": 1, "smoothing_factor": 0, "banned_tokens": [], "render_special": False,
    "presence_penalty": 0, "logit_bias": {}, "prompt": "\n### Instruction:\nName a bird.\n### Response:\n",
    "quiet": True, "stop_sequence": ["### Instruction:", "### Response:"], "use_default_badwordsids": False,
    "bypass_eos": False,
}  # fmt: skip
"""What KoboldAI Lite v180 sends with its stock settings."""
LITE_339: dict[str, Any] = {
    **{name: value for name, value in LITE_180.items() if name != "quiet"},
    "max_context_length": 12288, "max_length": 1536, "temperature": 0.75, "rep_pen": 1.05, "smoothing_curve": 1,
    "nsigma": 0, "adaptive_target": -1, "adaptive_decay": 0.9, "logprobs": False, "replace_instruct_placeholders": True,
    "prompt": "{{[INPUT]}}Name a bird.{{[OUTPUT]}}", "stop_sequence": ["{{[INPUT]}}", "{{[OUTPUT]}}"],
}  # fmt: skip


CATALOGUE = chat_catalogue(
    ChatSection.model_validate({"pools": {"main": {"backend": "fake"}}, "models": {"owl": {"pool": "main"}}})
)


def asked(**fields: Any) -> GenerateBody:
    return parse(GenerateBody, json.dumps({"prompt": "Once", **fields}).encode())


def neutral(*abilities: Ability, **fields: Any) -> ChatRequest:
    """The neutral request of a body, for a model with a context of 4096 and replies of 1024 at most."""
    return generate_request(asked(**fields), CATALOGUE.resolve("owl"), OfferedModel(name="owl", abilities=abilities))


def sampled(**fields: Any) -> Sampling:
    return local_sampling(parse(SamplingBody, json.dumps(fields).encode()))


def lite_events(body: bytes) -> list[Any]:
    """Events as KoboldAI Lite reads them: `event:`, and on the next line `data:`, with LF and one blank each."""
    assert b"\r" not in body
    assert body.endswith(b"\n\n")
    found: list[Any] = []
    for block in body.decode().removesuffix("\n\n").split("\n\n"):
        if not block.startswith(":"):
            event, data = block.split("\n")
            assert (event, data[:6]) == ("event: message", "data: ")
            found.append(json.loads(data[6:]))
    return found


async def got(harness: EdgeHarness, path: str, **headers: str) -> tuple[int, Any]:
    async with harness.session.get(harness.url + path, headers=headers) as reply:
        return reply.status, json.loads(await reply.read())


async def test_probes_of_lite_in_their_order(harness: EdgeHarness) -> None:
    assert await got(harness, "/api/v1/model") == (200, {"result": "koboldcpp/owl"})
    assert await got(harness, "/api/v1/info/version") == (200, {"result": "1.2.5"})
    assert await got(harness, "/api/v1/config/max_context_length") == (200, {"value": 4096})
    status, version = await got(harness, "/api/extra/version")
    assert (status, version["result"], version["protected"]) == (200, "KoboldCpp", False)
    assert [int(part) for part in version["version"].split(".")] >= [1, 88]
    assert {name for name, value in version.items() if value is True} == {"llm", "tts", "savedata", "transcribe"}
    assert (version["admin"], version["jinja"]) == (0, False)
    assert await got(harness, "/api/extra/true_max_context_length") == (200, {"value": 4096})
    assert await got(harness, "/api/extra/preloadstory") == (200, {})
    assert await got(harness, "/sdapi/v1/sd-models") == (200, [])
    status, perf = await got(harness, "/api/extra/perf")
    assert (status, perf["idle"], perf["queue"], perf["total_gens"]) == (200, 1, 0, 0)


async def test_probes_of_others(harness: EdgeHarness) -> None:
    assert await got(harness, "/api/latest/model/") == (200, {"result": "koboldcpp/owl"})
    assert await got(harness, "/api/v1/config/max_length") == (200, {"value": 100})
    assert await got(harness, "/api/v1/config/soft_prompt") == (200, {"value": ""})
    assert await got(harness, "/api/v1/config/soft_prompts_list") == (200, {"values": []})
    assert (await got(harness, "/version"))[0] == 200
    assert await got(harness, "/ping") == (200, {"status": "healthy"})
    assert (await got(harness, "/slots"))[0] == 501
    async with harness.session.put(harness.url + "/api/latest/config/soft_prompt", json={"value": None}) as reply:
        assert reply.status == 200
    assert json.loads((await harness.post("/api/extra/websearch", {"q": "owls"}))[2]) == []
    status, _headers, body = await harness.post("/api/extra/multiplayer/status", {"sender": "a"})
    assert (status, list(json.loads(body))) == (200, ["error"])
    status, _headers, body = await harness.post("/api/extra/transcribe", {"audio_data": "?"})
    assert (status, json.loads(body)["detail"]["type"]) == (400, "bad_input")


async def test_model_description_has_its_template(harness: EdgeHarness) -> None:
    harness.inquiry.description = harness.inquiry.description.model_copy(update={"chat_template": "{{ x }}"})
    status, props = await got(harness, "/props")
    assert (status, props["chat_template"], props["n_ctx"]) == (200, "{{ x }}", 4096)
    harness.inquiry.failure = CallboardError(ErrorCode.NO_WORKER, "Nobody.")
    assert (await got(harness, "/props"))[1]["chat_template"] == ""


async def test_password_hides_the_model_and_no_probe_needs_it() -> None:
    async with running({"quota": {"require_key": True}}) as harness:
        harness.quota.require_key = True
        assert await got(harness, "/api/v1/model") == (200, {"result": "koboldcpp/protected-model"})
        assert (await got(harness, "/api/extra/version"))[1]["protected"] is True
        status, headers, body = await harness.post(GENERATE, LITE_180)
        detail = json.loads(body)["detail"]
        assert (status, detail["type"], detail["msg"] != "") == (401, "unauthorized", True)
        assert headers["Access-Control-Allow-Origin"] == "*"


async def test_pages_below_a_prefix_are_served_and_others_fail_without_json() -> None:
    async with running({"kobold": {"path_prefix": "/lite"}}) as harness:
        assert await got(harness, "/lite/api/v1/model") == (200, {"result": "koboldcpp/owl"})
        worker = harness.plays(frames("Owl."))
        assert (await harness.post(f"/lite{STREAM}", LITE_180))[0] == 200
        await worker
        async with harness.session.get(harness.url + "/other/api/v1/model") as reply:
            assert reply.status == 404
            with pytest.raises(ValueError, match="Expecting value"):
                json.loads(await reply.read())
        async with harness.session.options(harness.url + STREAM, headers={"Origin": "https://a"}) as reply:
            assert (reply.status, await reply.read()) == (200, b"")
            assert reply.headers["Access-Control-Allow-Origin"] == "*"
        async with harness.session.head(harness.url + "/api/v1/model") as reply:
            assert (reply.status, reply.headers["Cache-Control"]) == (200, "no-store")


@pytest.mark.parametrize("body", [LITE_180, LITE_339], ids=["v180", "v339"])
async def test_stream_as_lite_reads_it(body: dict[str, Any], harness: EdgeHarness) -> None:
    worker = harness.plays(frames(" Fro", "gs\n\n", "event: message", end="stop"))
    status, headers, streamed = await harness.post(STREAM, body)
    assert (status, headers["Content-Type"]) == (200, "text/event-stream")
    events = lite_events(streamed)
    assert "".join(event["token"] for event in events) == " Frogs\n\nevent: message"
    assert [event["finish_reason"] for event in events][-1] == "stop"
    assert {event["finish_reason"] for event in events[:-1]} == {None}
    request = (await worker).request
    assert (request.mode, request.prompt, request.overflow) == ("completion", body["prompt"], "drop_front")
    assert (request.turn_tags, request.context_tokens, request.max_output_tokens) == (body is LITE_339, 4096, 100)
    assert request.sampling.stop == tuple(body["stop_sequence"])
    assert request.sampling.temperature == body["temperature"]
    assert request.sampling.repetition_penalty == body["rep_pen"]


async def test_silence_is_filled_between_events_only(harness: EdgeHarness, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("callboard_edge.http.text_responder.KEEP_ALIVE_S", 0.05)
    harness.plays(frames("Owl", ".", end="length"), pause_s=0.3)
    _status, _headers, streamed = await harness.post(STREAM, LITE_180)
    assert b": keep-alive\n\n" in streamed
    assert [event["finish_reason"] for event in lite_events(streamed)] == [None, None, "length"]


async def test_error_in_the_middle_of_a_stream_is_its_last_event(harness: EdgeHarness) -> None:
    harness.plays([*frames("Owl", end=None), ChatFrame(seq=1, attempt=1, end=ChatEnd(reason="error"))])
    _status, _headers, streamed = await harness.post(STREAM, LITE_180)
    *_, last = lite_events(streamed)
    assert (last["token"], last["finish_reason"], last["error"]["code"]) == ("", "error", "engine_failed")
    assert last["error"]["message"]


@pytest.mark.parametrize(("trims", "text"), [(None, "Owl"), (True, "Owl"), (False, "Owl###")])
async def test_stop_sequence_is_part_of_the_text_only_where_it_is_wanted(
    trims: bool | None, text: str, harness: EdgeHarness
) -> None:
    end = ChatEnd(reason="stop", stop_sequence="###", usage=TokenUsage(prompt_tokens=7, completion_tokens=2))
    body = {"prompt": "A bird:", "stop_sequence": ["###"], "trim_stop": trims}
    sent = [ChatFrame(seq=0, attempt=1, text="Owl", tokens=1), ChatFrame(seq=1, attempt=1, end=end)]
    harness.plays(sent)
    whole = json.loads((await harness.post(GENERATE, body))[2])["results"][0]
    assert whole == {
        "text": text, "finish_reason": "stop", "tool_calls": [], "logprobs": None, "prompt_tokens": 7,
        "completion_tokens": 2,
    }  # fmt: skip
    harness.plays(sent)
    events = lite_events((await harness.post(STREAM, body))[2])
    assert "".join(event["token"] for event in events) == text


async def test_reply_is_checked_and_stopped_by_its_key(harness: EdgeHarness) -> None:
    worker = harness.plays(frames("One ", "two ", end=None))
    asking = asyncio.ensure_future(harness.post(GENERATE, LITE_180))
    job = await worker
    key = {"genkey": "KCPP4821"}
    async with asyncio.timeout(20):
        while json.loads((await harness.post("/api/extra/generate/check", key))[2]) != {
            "results": [{"text": "One two "}]
        }:
            await asyncio.sleep(0.01)
    other = await harness.post("/api/extra/generate/check", {"genkey": "KCPP0000"})
    assert json.loads(other[2]) == {"results": [{"text": ""}]}
    # SillyTavern sends neither a key nor a body, and stops nothing that has a key.
    async with harness.session.post(harness.url + "/api/extra/abort") as reply:
        assert await reply.json() == {"success": "false", "done": "false"}
    stopped = await harness.post("/api/extra/abort", key)
    assert json.loads(stopped[2]) == {"success": "true", "done": "true"}
    status, _headers, body = await asking
    result = json.loads(body)["results"][0]
    assert (status, result["text"], result["finish_reason"]) == (200, "One two ", "length")
    await harness.all_closed()
    assert job.request_id in harness.jobs.cancelled
    assert json.loads((await harness.post("/api/extra/generate/check", key))[2]) == {"results": [{"text": ""}]}


async def test_reply_without_a_key_is_found_where_it_is_the_only_one(harness: EdgeHarness) -> None:
    harness.plays(frames("One ", end=None))
    asking = asyncio.ensure_future(harness.post(STREAM, {"prompt": "Count."}))
    async with asyncio.timeout(20):
        while (await got(harness, "/api/extra/generate/check"))[1] != {"results": [{"text": "One "}]}:
            await asyncio.sleep(0.01)
    assert (await harness.post("/api/v1/stop-stream", {}))[0] == 200
    events = lite_events((await asking)[2])
    assert [event["finish_reason"] for event in events] == [None, "length"]


async def test_stop_that_overtakes_its_request_ends_it_at_once(harness: EdgeHarness) -> None:
    stopped = await harness.post("/api/extra/abort", {"genkey": "KCPP4821"})
    assert json.loads(stopped[2]) == {"success": "false", "done": "false"}
    status, _headers, body = await harness.post(GENERATE, LITE_180)
    assert (status, json.loads(body)["results"][0]["text"]) == (200, "")
    await harness.all_closed()
    assert (await harness.jobs.next_chat()).request_id in harness.jobs.removed
    harness.plays(frames("Owl."))
    assert json.loads((await harness.post(GENERATE, LITE_180))[2])["results"][0]["text"] == "Owl."


async def test_log_probabilities_come_with_the_reply_and_afterwards(harness: EdgeHarness) -> None:
    offered = OfferedModel(name="owl", abilities=("completion", "logprobs"), sampling=())
    harness.known.announce(
        WorkerInfo(id="w", service="chat", pool="main", backend="fake", models=(offered,), slots=1, at=0.0)
    )
    top = (TokenLogprob(token="Owl", token_id=5, logprob=-0.1), TokenLogprob(token="Elk", token_id=6, logprob=-2.0))
    logprobs = (TokenLogprob(token="Owl", token_id=5, logprob=-0.1, top=top),)
    sent = [ChatFrame(seq=0, attempt=1, text="Owl", tokens=1, logprobs=logprobs), *frames(end="stop", first=1)]
    worker = harness.plays(sent)
    body = {"prompt": "A bird:", "logprobs": True, "genkey": "KCPP1"}
    whole = json.loads((await harness.post(GENERATE, body))[2])["results"][0]["logprobs"]
    assert (await worker).request.top_logprobs == 10
    assert whole["content"][0]["top_logprobs"][1] == {
        "token": "Elk", "token_id": 6, "logprob": -2.0, "bytes": [69, 108, 107],
    }  # fmt: skip
    assert (whole["tokens"], whole["token_ids"], whole["token_logprobs"]) == (["Owl"], [5], [-0.1])
    assert (whole["top_logprobs"], whole["text_offset"]) == ([{"Owl": -0.1, "Elk": -2.0}], [0])
    last = json.loads((await harness.post("/api/extra/last_logprobs", {"genkey": "KCPP1"}))[2])
    assert last == {"logprobs": whole}
    assert await got(harness, "/api/extra/last_logprobs?genkey=KCPP2") == (200, {"logprobs": None})


async def test_full_queue_is_busy_in_the_words_that_lite_knows() -> None:
    async with running(most_queued=0) as harness:
        status, _headers, body = await harness.post(GENERATE, LITE_180)
        assert (status, json.loads(body)["detail"]["type"]) == (503, "service_unavailable")


async def test_tokens_of_a_text_and_back(harness: EdgeHarness) -> None:
    status, _headers, body = await harness.post("/api/extra/tokencount", {"prompt": "One two", "special": False})
    counted = json.loads(body)
    assert (status, counted["value"], counted["prompt"]) == (200, 2, "One two")
    whole = json.loads((await harness.post("/api/extra/tokenize", {"prompt": "One two"}))[2])
    assert whole["value"] == len(whole["ids"]) == 3
    back = await harness.post("/api/extra/detokenize", {"ids": counted["ids"]})
    assert json.loads(back[2]) == {"result": "One two", "success": True}
    textgen = await harness.post("/api/v1/token-count", {"prompt": "One two"})
    assert json.loads(textgen[2]) == {"results": [{"tokens": 3}]}
    messages = [{"role": "user", "content": "Hello there"}]
    dialogue = json.loads((await harness.post("/api/extra/tokencount", {"messages": messages}))[2])
    assert dialogue["prompt"] == "user: Hello there\n"
    harness.inquiry.failure = CallboardError(ErrorCode.UNSUPPORTED, "This engine tells no tokens.")
    assert (await harness.post("/api/extra/tokencount", {"prompt": "One"}))[0] == 400


async def test_schema_becomes_a_grammar_that_is_held_to(harness: EdgeHarness) -> None:
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
    for body in (schema, {"schema": schema}):
        made = json.loads((await harness.post("/api/extra/json_to_grammar", body))[2])
        assert made["success"] is True
        worker = harness.plays(frames('{"a":1}'))
        assert (await harness.post(GENERATE, {"prompt": "x", "grammar": made["result"]}))[0] == 200
        wanted = (await worker).request.output_format
        assert wanted.kind == "json_schema"
        assert wanted.json_schema is not None
        assert wanted.json_schema["properties"]["a"]["type"] == "integer"


async def test_sillytavern_over_kobold_connects_generates_and_leaves(harness: EdgeHarness) -> None:
    for path in ("/api/v1/info/version", "/api/extra/version", "/api/v1/model"):
        assert (await got(harness, path))[1]["result"]
    body = {
        "prompt": "Mira: Hello.\nYou:", "use_story": False, "use_memory": False, "use_authors_note": False,
        "use_world_info": False, "max_context_length": 2048, "max_length": 80, "rep_pen": 1.1, "rep_pen_range": 600,
        "rep_pen_slope": 0, "temperature": 0.44, "tfs": 1, "top_a": 0, "top_k": 0, "top_p": 1, "min_p": 0, "typical": 1,
        "sampler_order": [6, 0, 1, 3, 4, 2, 5], "singleline": False, "use_default_badwordsids": False, "mirostat": 0,
        "mirostat_eta": 0.1, "mirostat_tau": 5, "grammar": "", "sampler_seed": None, "stop_sequence": ["\nMira:"],
    }  # fmt: skip
    worker = harness.plays(frames(" Good", " day."))
    assert json.loads((await harness.post(GENERATE, body))[2])["results"][0]["text"] == " Good day."
    request = (await worker).request
    assert (request.max_output_tokens, request.context_tokens, request.sampling.stop) == (80, 2048, ("\nMira:",))
    status, perf = await got(harness, "/api/extra/perf")
    assert (status, perf["total_gens"], perf["last_token_count"], perf["last_input_count"]) == (200, 1, 2, 7)
    assert (perf["stop_reason"], perf["idle"]) == (1, 1)
    # Its "stop" ends the request for a stream; the order that it sends beside that finds nothing.
    worker = harness.plays(frames("One ", end=None))
    async with harness.session.post(harness.url + STREAM, json=body) as reply:
        await reply.content.readany()
    await worker
    async with harness.session.post(harness.url + "/api/extra/abort") as reply:
        assert reply.status == 200
    await harness.all_closed()
    assert len(harness.jobs.cancelled) == 1


async def test_evennia_gets_one_speakers_words_and_a_connection_of_its_own(harness: EdgeHarness) -> None:
    prompt = "You are roleplaying that your name is Mo, a miller.\nAda: Is the flour ready?"
    worker = harness.plays(frames(" Mo: By noon, {wind} ", "willing.\nAda: Good."))
    status, headers, body = await harness.post(GENERATE, {"max_new_tokens": 250, "temperature": 0.7, "prompt": prompt})
    assert (status, headers["Connection"]) == (200, "close")
    assert json.loads(body)["results"][0]["text"] == "By noon, (wind) willing."
    assert (await worker).request.max_output_tokens == 100


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        ("By noon.", "By noon."),
        ("\n\n By noon.\n", "By noon."),
        ("Mo: By noon.\nAda: Thanks!\nMo: Bye.", "By noon."),
        ("Mo: By noon.\nMo: Or later.", "By noon."),
        ("Ada: And the bread?\nMo: Baked.", "Baked."),
        ("Ada: And the bread?", ""),
        ("I have:\nFlour: two sacks\nAda: Good", "I have:\nFlour: two sacks"),
        ("Bo: By noon.\nBo: Or later.\nBo", "By noon."),
        ("", ""),
        ("{a} $b(c)", "(a) $b(c)"),
    ],
)
def test_reply_is_what_the_one_asked_says(reply: str, said: str) -> None:
    assert tidied(reply, "You play Mo, a miller.\nAda: Is the flour ready?") == said


def test_character_is_known_by_its_name() -> None:
    assert tidied("Mo: Yes.\nAda: No.", "Ada: Is it ready?", "Mo") == "Yes."
    assert tidied("Mo: Yes.", "Ada: Is it ready?") == "Mo: Yes."


def test_placeholders_are_looked_for() -> None:
    assert not neutral(prompt="Ada: Hi").turn_tags
    assert neutral(prompt="{{[INPUT]}}Hi").turn_tags
    assert neutral(memory="{{[SYSTEM]}}Be brief.").turn_tags
    assert neutral(stop_sequence=["{{[INPUT]}}"]).turn_tags
    assert not neutral(prompt="{{[INPUT]}}Hi", replace_instruct_placeholders=False).turn_tags


async def test_dialogue_of_textgen_grows_by_the_reply(harness: EdgeHarness) -> None:
    history = {"internal": [["<|BEGIN-VISIBLE-CHAT|>", "Hi."]], "visible": [["", "Hi."]]}
    body = {"user_input": "Name a bird.", "history": history, "max_new_tokens": 50, "context": "You are Mo."}
    worker = harness.plays(frames("Owl."))
    answer = json.loads((await harness.post("/api/v1/chat", body))[2])["results"][0]["history"]
    assert answer == {
        "internal": [["<|BEGIN-VISIBLE-CHAT|>", "Hi."], ["Name a bird.", "Owl."]],
        "visible": [["", "Hi."], ["Name a bird.", "Owl."]],
    }
    turns = [(message.role, message.content) for message in (await worker).request.messages]
    assert turns == [("system", "You are Mo."), ("assistant", "Hi."), ("user", "Name a bird.")]
    worker = harness.plays(frames("Wren."))
    again = json.loads((await harness.post("/api/v1/chat", {"history": answer, "regenerate": True}))[2])
    assert again["results"][0]["history"]["visible"][-1] == ["Name a bird.", "Wren."]
    worker = harness.plays(frames(" Bye."))
    longer = json.loads((await harness.post("/api/v1/chat", {"history": answer, "_continue": True}))[2])
    assert longer["results"][0]["history"]["internal"][-1] == ["Name a bird.", "Owl. Bye."]
    assert (await worker).request.messages[-1].content == "Owl."


async def test_models_of_textgen(harness: EdgeHarness) -> None:
    info = json.loads((await harness.post("/api/v1/model", {"action": "info"}))[2])["result"]
    assert (info["model_name"], info["shared.settings"]["truncation_length"]) == ("owl", 4096)
    assert json.loads((await harness.post("/api/v1/model", {"action": "list"}))[2]) == {"result": ["owl", "wren/tiny"]}
    assert (await harness.post("/api/v1/model", {"action": "load", "model_name": "x"}))[0] == 400


async def test_model_may_be_named_as_clients_see_it(harness: EdgeHarness) -> None:
    for name in ("wren/tiny", "koboldcpp/wren/tiny"):
        worker = harness.plays(frames("x"))
        assert (await harness.post(GENERATE, {"prompt": "Hi", "model": name}))[0] == 200
        assert (await worker).request.model == "wren/tiny"
    status, _headers, body = await harness.post(GENERATE, {"prompt": "Hi", "model": "nobody"})
    assert (status, json.loads(body)["detail"]["code"]) == (404, "unknown_model")


def test_lengths() -> None:
    assert neutral().max_output_tokens == 1024
    assert neutral(max_length=0).max_output_tokens == 1024
    assert neutral(max_length="80").max_output_tokens == 80
    assert neutral(max_length=99_999, max_context_length=512).max_output_tokens == 384
    assert neutral(max_context_length=10**9).context_tokens == 4096
    assert neutral(max_context_length=-1).context_tokens is None
    textgen = neutral(truncation_length=2048)
    assert (textgen.max_output_tokens, textgen.context_tokens) == (200, 2048)
    assert neutral(max_new_tokens=250).max_output_tokens == 250


def test_grammar_is_gbnf_or_a_schema() -> None:
    assert neutral(grammar='root ::= "a"').output_format == OutputFormat(kind="grammar", grammar='root ::= "a"')
    assert neutral(grammar=' {"type": "object"}').output_format.json_schema == {"type": "object"}
    assert neutral(grammar="{oops").output_format.kind == "grammar"
    assert neutral(grammar=" ").output_format.kind == "text"


def test_thinking_is_asked_of_models_that_think() -> None:
    assert neutral(reasoning_effort="low").thinking == Thinking()
    assert neutral("thinking", reasoning_effort="none").thinking == Thinking(enabled=False)
    assert neutral("thinking", reasoning_effort="low", max_length=200).thinking.budget_tokens == 50
    assert neutral("thinking", reasoning_effort="high").thinking.effort == "high"
    assert neutral("thinking", thinking_budget_tokens=64).thinking.budget_tokens == 64
    assert neutral("thinking", thinking_budget_tokens=-1).thinking == Thinking()


def test_sampling_is_renamed_and_brought_into_range() -> None:
    assert sampled(typical=0.5, nsigma=1, dry_penalty_last_n=9, min_length=3) == Sampling(
        typical_p=0.5, top_n_sigma=1, dry_range=9, min_output_tokens=3
    )
    assert sampled(rep_pen=1.05, repetition_penalty=1.2, repeat_penalty=1).repetition_penalty == 1.2
    assert sampled(rep_pen=0).repetition_penalty == 0.01
    assert sampled(temperature=-3, top_p=7, top_k=-9, mirostat=7, presence_penalty=9) == Sampling(
        temperature=0, top_p=1, top_k=-1, mirostat=2, presence_penalty=2
    )
    assert sampled(do_sample=False, temperature=0.7).temperature == 0
    assert (sampled(sampler_seed=-1).seed, sampled(seed=7).seed, sampled(sampler_seed=2**80).seed) == (None, 7, 2**53)
    assert sampled(dry_sequence_breakers='["a", "b"]').dry_sequence_breakers == ("a", "b")
    assert sampled(sampler_order=[6, 0, 1, 3, 4, 2, 5]).sampler_order == (
        "repetition_penalty", "top_k", "top_a", "tfs", "typical_p", "top_p", "temperature",
    )  # fmt: skip
    assert sampled(sampler_order=[6, 0, 1]).sampler_order is None
    assert sampled(custom_token_bans="5, x, 6").banned_token_ids == (5, 6)
    assert sampled(banned_tokens=["a", ""], banned_strings=["b"]).banned_texts == ("a", "b")
    assert sampled(logit_bias={"5": 900, "6": None}).logit_bias == {"5": 100}
    assert sampled(use_default_badwordsids=True).ban_end_token
    assert sampled(stop_sequence="###", stopping_strings=["a"]).stop == ("###", "a")
    assert len(sampled(stop_sequence=[str(n) for n in range(300)]).stop) == 256
    assert sampled(temperature="", top_p=None) == Sampling()


def test_every_source_of_a_setting_is_a_field() -> None:
    assert set(SOURCES) < set(Sampling.model_fields)
    assert {name for names in SOURCES.values() for name in names} < set(SamplingBody.model_fields)


NUMBERS = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**80), 2**80), st.floats(allow_nan=False), st.text(max_size=5),
    st.sampled_from(["1", "-1", "1e999", "nan", "inf", " 7 "]), st.lists(st.integers(), max_size=9),
)  # fmt: skip


@settings(max_examples=150, deadline=None, suppress_health_check=(HealthCheck.too_slow,))
@given(st.dictionaries(st.sampled_from(sorted(GenerateBody.model_fields)), NUMBERS, max_size=12))
def test_any_body_is_a_request_or_refused(fields: dict[str, Any]) -> None:
    request: ChatRequest | None = None
    with suppress(CallboardError):
        body = parse(GenerateBody, json.dumps({"prompt": "Once", **fields}).encode())
        request = generate_request(
            body, CATALOGUE.resolve("owl"), OfferedModel(name="owl", abilities=("logprobs", "thinking"))
        )
    if request is not None:
        assert 1 <= request.max_output_tokens <= 1024
        assert ChatRequest.model_validate_json(request.compact()) == request


async def test_request_as_evennias_client_writes_it(harness: EdgeHarness) -> None:
    content = json.dumps({"max_new_tokens": 250, "temperature": 0.7, "prompt": "You play Mo.\nÁda: Is it ☕?"})
    head = f"Content-Length: {len(content)}\r\nContent-Type: application/json\r\nHost: 127.0.0.1:{harness.port}"
    worker = harness.plays(frames("Mo: Yes."))
    reader, writer = await asyncio.open_connection("127.0.0.1", harness.port)
    writer.write(f"POST /api/v1/generate HTTP/1.1\r\n{head}\r\n\r\n{content}".encode())
    async with asyncio.timeout(20):
        answer = await reader.read()
    writer.close()
    headers, _, body = answer.partition(b"\r\n\r\n")
    assert headers.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"\r\nConnection: close" in headers
    assert json.loads(body)["results"][0]["text"] == "Yes."
    assert (await worker).request.prompt == "You play Mo.\nÁda: Is it ☕?"


SPOKEN = re.compile("tts|transcribe|/audio/")
"""Paths whose jobs are another worker's."""
FUZZED = [one for one in all_targets((Kobold(),)) if one.method == "POST" and not SPOKEN.search(one.path)]


@pytest.mark.timeout(180)
async def test_no_handler_fails_or_hangs_and_no_refused_request_is_charged(harness: EdgeHarness) -> None:
    async def work() -> None:
        while True:
            if harness.jobs.queued:
                await harness.worker(frames("Owl."))
            await asyncio.sleep(0.001)

    worker = asyncio.ensure_future(work())
    for target in FUZZED:
        bodies = await asyncio.to_thread(examples, raw_bodies(target), 6, 7)
        for body in bodies:
            held = len(harness.quota.asked)
            async with (
                asyncio.timeout(20),
                harness.session.post(harness.url + target.path, data=body[:90_000]) as reply,
            ):
                content = await reply.read()
            assert reply.status < 500, (target.path, body[:500], content)
            if reply.status >= 400:
                assert json.loads(content)["detail"]["msg"]
                assert len(harness.quota.asked) == held, (target.path, body[:500])
    assert not worker.done()
    worker.cancel()
    await asyncio.gather(worker, return_exceptions=True)


def test_page_of_fields_has_every_field() -> None:
    page = (Path(__file__).parents[3] / "docs" / "reference" / "kobold-fields.md").read_text(encoding="utf-8")
    assert [name for name in GenerateBody.model_fields if f"`{name}`" not in page] == []


async def test_embeddings_are_offered_where_a_worker_makes_them(harness: EdgeHarness) -> None:
    assert (await got(harness, "/api/extra/version"))[1]["embeddings"] is False
    offered = OfferedModel(name="magpie", abilities=("embedding",))
    harness.known.announce(
        WorkerInfo(id="w", service="chat", pool="main", backend="x", models=(offered,), slots=1, at=0)
    )
    assert (await got(harness, "/api/extra/version"))[1]["embeddings"] is True
    worker = harness.embeds(vectors((0.5, 0.25)))
    status, _, body = await harness.post("/api/extra/embeddings", {"input": "An owl.", "dimensions": 0})
    request = (await worker).request
    assert (status, json.loads(body)["data"][0]["embedding"]) == (200, [0.5, 0.25])
    assert (request.model, request.truncate, request.dimensions) == ("magpie", True, None)


async def test_site_without_a_model_for_embeddings_says_so() -> None:
    async with running({"quota": {"tiers": {"anonymous": {}, "standard": {"models": ["owl"]}}}}) as harness:
        status, _, body = await harness.post("/api/extra/embeddings", {"input": "An owl."})
    assert (status, json.loads(body)["detail"]["code"]) == (400, "unsupported")


async def test_schema_that_cannot_be_kept_is_an_error_of_the_grammar(harness: EdgeHarness) -> None:
    status, _, body = await harness.post("/api/v1/generate", {"prompt": "An owl", "grammar": '{"not": {}}'})
    assert (status, json.loads(body)["detail"]["param"]) == (400, "grammar")
