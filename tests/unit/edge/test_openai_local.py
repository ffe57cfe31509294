"""What SillyTavern, KoboldAI Lite and the Horde's workers put beside OpenAI's fields."""

import asyncio
import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from callboard_contracts.chat import ChatEnd, ChatFrame, ChatRequest, OutputFormat
from callboard_contracts.errors import CallboardError
from callboard_contracts.pools import ChatSection
from callboard_contracts.workers import OfferedModel
from callboard_edge.domain.catalogue import chat_catalogue
from callboard_edge.http.bodies import parse
from callboard_edge.protocols.openai.chat import chat_request
from callboard_edge.protocols.openai.completions import shared_request
from callboard_edge.protocols.openai.local import MARKS, LocalChatBody, LocalCompletionBody
from tests.unit.edge.harness import EdgeHarness, asking, frames, read_events, said

pytestmark = pytest.mark.unit

PATH = "/v1/completions"
CHAT = "/v1/chat/completions"
STOPS = ["\nAda:", "\nMo:", "\nX:", "\nY:", "\nZ:", "<|im_end|>"]
SILLYTAVERN: dict[str, Any] = {
    "prompt": "Ada: Hello.\nMo:", "model": "owl", "max_new_tokens": 24, "max_tokens": 24, "temperature": 0.7,
    "top_p": 0.9, "typical_p": 1, "typical": 1, "min_p": 0.05, "repetition_penalty": 1.1, "frequency_penalty": 0,
    "presence_penalty": 0, "top_k": 0, "skew": 0, "min_tokens": 3, "add_bos_token": True, "smoothing_factor": 0,
    "smoothing_curve": 1, "dry_allowed_length": 2, "dry_multiplier": 0, "dry_base": 1.75,
    "dry_sequence_breakers": ["\n", ":", '"', "*"], "dry_penalty_last_n": 0, "max_tokens_second": 0,
    "stopping_strings": STOPS, "stop": STOPS, "truncation_length": 2048, "ban_eos_token": False,
    "skip_special_tokens": True, "include_reasoning": True, "top_a": 0, "tfs": 1, "mirostat_mode": 0,
    "mirostat_tau": 5, "mirostat_eta": 0.1, "custom_token_bans": "", "banned_strings": ["shiver"],
    "api_type": "koboldcpp", "api_server": "http://127.0.0.1:1", "sampler_order": [6, 0, 1, 3, 4, 2, 5],
    "xtc_threshold": 0.1, "xtc_probability": 0, "nsigma": 0, "top_n_sigma": 0, "min_keep": 0, "adaptive_target": -0.01,
    "adaptive_decay": 0.9, "rep_pen": 1.1, "rep_pen_range": 0, "repetition_penalty_range": 0, "guidance_scale": 1,
    "negative_prompt": "", "repeat_penalty": 1.1, "repeat_last_n": 0, "n_predict": 24, "num_predict": 24,
    "num_ctx": 2048, "mirostat": 0, "ignore_eos": False, "rep_pen_slope": 1, "trim_stop": True, "grammar": None,
}  # fmt: skip
"""What SillyTavern 1.19 sends for a text completion from KoboldCpp."""
HORDE_WORKER: dict[str, Any] = {
    "model": "owl", "prompt": "Once", "max_tokens": 80, "temperature": 0.8, "top_p": 0.9, "top_k": -1, "top_a": 0,
    "min_p": 0, "typical_p": 1, "tfs": 1, "eta_cutoff": 0, "epsilon_cutoff": 0, "repetition_penalty": 1.1,
    "dynatemp_exponent": 1, "dynatemp_min": 0.5, "dynatemp_max": 1.5, "mirostat_mode": 0, "mirostat_tau": 0,
    "mirostat_eta": 0, "include_stop_str_in_output": True, "custom_token_bans": [7, 8], "stop": ["\n"],
    "use_default_badwordsids": True, "truncate_prompt_tokens": 1024, "seed": -1,
}  # fmt: skip

CATALOGUE = chat_catalogue(
    ChatSection.model_validate({"pools": {"main": {"backend": "fake"}}, "models": {"owl": {"pool": "main"}}})
)
OWL = CATALOGUE.resolve("owl")
OFFERED = OfferedModel(name="owl", abilities=("logprobs",))


def continued(**fields: Any) -> ChatRequest:
    """The neutral request for a continuation, for a model with a context of 4096 and replies of 1024 at most."""
    body = parse(LocalCompletionBody, json.dumps({"prompt": "Once", **fields}).encode())
    return shared_request(body, OWL, OFFERED)


async def test_body_of_sillytavern_is_taken(harness: EdgeHarness) -> None:
    for stream in (False, True):
        worker = harness.plays(frames(" Hi."))
        status, _, answer = await harness.post(PATH, {**SILLYTAVERN, "stream": stream})
        request = (await worker).request
        assert status == 200, answer
        assert said(read_events(answer)) == " Hi." if stream else json.loads(answer)["choices"][0]["text"] == " Hi."
        assert (request.prompt, request.max_output_tokens, request.context_tokens) == ("Ada: Hello.\nMo:", 24, 2048)
        assert (request.overflow, request.turn_tags) == ("drop_front", False)
        sampling = request.sampling
        assert (sampling.stop, sampling.banned_texts) == (tuple(STOPS), ("shiver",))
        assert (sampling.repetition_penalty, sampling.min_output_tokens, sampling.seed) == (1.1, 3, None)


async def test_body_of_the_hordes_worker_is_taken(harness: EdgeHarness) -> None:
    end = ChatEnd(reason="stop", stop_sequence="\n")
    worker = harness.plays([*frames(" upon", end=None), ChatFrame(seq=1, attempt=1, end=end)])
    status, _, answer = await harness.post(PATH, HORDE_WORKER)
    request = (await worker).request
    assert (status, json.loads(answer)["choices"][0]["text"]) == (200, " upon\n")
    assert (request.context_tokens, request.max_output_tokens) == (1024, 80)
    sampling = request.sampling
    assert (sampling.temperature, sampling.dynatemp_range, sampling.seed, sampling.top_k) == (1.0, 0.5, None, -1)
    assert (sampling.banned_token_ids, sampling.ban_end_token) == ((7, 8), True)


async def test_stop_sequence_is_kept_in_a_stream_where_it_is_wanted(harness: EdgeHarness) -> None:
    end = ChatEnd(reason="stop", stop_sequence="###")
    for wanted, text in ((False, "a###"), (True, "a"), (None, "a")):
        harness.plays([*frames("a", end=None), ChatFrame(seq=1, attempt=1, end=end)])
        body = {"model": "owl", "prompt": "Once", "genkey": "x", "stream": True, "trim_stop": wanted}
        assert said(read_events((await harness.post(PATH, body))[2])) == text


@pytest.mark.parametrize("path", [PATH, CHAT])
async def test_any_mark_of_a_local_client_makes_ranges_lenient(path: str, harness: EdgeHarness) -> None:
    wild = {"temperature": 3.5, "presence_penalty": 9, "stop": [str(n) for n in range(300)], "seed": -1, "n": 0}
    plain = {"model": "owl", "prompt": "Once"} if path == PATH else asking()
    assert (await harness.post(path, {**plain, **wild}))[0] == 400
    for mark in ({"max_length": 50}, {"repeat_penalty": 1.1}, {"num_ctx": 2048}, {"stopping_strings": ["a"]}):
        worker = harness.plays(frames("x"))
        status, _, answer = await harness.post(path, {**plain, **wild, **mark})
        request = (await worker).request
        assert status == 200, answer
        assert (request.sampling.temperature, request.sampling.presence_penalty) == (3.5, 2)
        assert (len(request.sampling.stop), request.sampling.seed) == (256, None)
        assert request.max_output_tokens == (50 if "max_length" in mark else 100)
    assert (await harness.post(path, {**plain, **wild, "max_length": None}))[0] == 400
    assert (await harness.post(path, {**plain, "max_length": "many"}))[0] == 400


async def test_word_of_a_local_client_within_a_text_is_no_mark(harness: EdgeHarness) -> None:
    body = asking(messages=[{"role": "user", "content": 'Put "max_length": 3 there.'}], temperature=3.5)
    body["metadata"] = {"max_length": 3}
    assert (await harness.post(CHAT, body))[0] == 400


async def test_local_client_that_names_no_model_gets_one(harness: EdgeHarness) -> None:
    for model in (None, ""):
        harness.plays(frames("x"))
        assert (await harness.post(PATH, {"prompt": "Once", "model": model, "max_length": 5}))[0] == 200
        assert (await harness.post(PATH, {"prompt": "Once", "model": model, "max_tokens": 5}))[0] == 400


@pytest.mark.parametrize("path", [PATH, CHAT])
async def test_reply_is_stopped_by_its_key(path: str, harness: EdgeHarness) -> None:
    plain = {"model": "owl", "prompt": "Once"} if path == PATH else asking()
    for key in ({"genkey": "KCPP1"}, {}):
        async with asyncio.TaskGroup() as group:
            whole = group.create_task(harness.post(path, {**plain, "n": 2, "rep_pen": 1.1, **key}))
            for _ in range(2):
                await harness.worker(frames("so far", end=None))
            async with asyncio.timeout(20):
                while True:
                    _, _, answer = await harness.post("/api/extra/abort", key)
                    if json.loads(answer)["success"] == "true":
                        break
        status, _, answer = whole.result()
        assert status == 200, answer
        assert {choice["finish_reason"] for choice in json.loads(answer)["choices"]} == {"length"}
        await harness.all_closed()


def test_length_has_many_names() -> None:
    for name in ("max_tokens", "max_completion_tokens", "max_length", "max_new_tokens", "n_predict", "num_predict"):
        assert continued(**{name: 33}).max_output_tokens == 33
    for name in ("max_context_length", "truncation_length", "num_ctx", "truncate_prompt_tokens"):
        assert continued(**{name: 1000}).context_tokens == 1000
    assert continued(n_predict=-1).max_output_tokens == 1024
    assert continued(num_ctx=200, max_tokens=900).max_output_tokens == 150


def test_form_has_many_names() -> None:
    schema = {"type": "object"}
    for fields in ({"json_schema": schema}, {"guided_json": schema}, {"guided_json": json.dumps(schema)}):
        assert continued(**fields).output_format.json_schema == schema
    for name in ("grammar", "grammar_string", "guided_grammar"):
        assert continued(**{name: 'root ::= "a"'}).output_format == OutputFormat(kind="grammar", grammar='root ::= "a"')
    assert continued(guided_choice=["a b", 'c"']).output_format.grammar == 'root ::= "a b" | "c\\""'
    assert continued(response_format={"type": "json_object"}).output_format.kind == "json_object"
    assert continued(grammar="", json_schema=None).output_format.kind == "text"


def test_biases_and_bans_have_many_forms() -> None:
    assert continued(logit_bias=[[5, 1.5], [6, False]]).sampling.logit_bias == {"5": 1.5, "6": -100}
    assert continued(custom_token_bans=[5, 6]).sampling.banned_token_ids == (5, 6)
    assert continued(ignore_eos=True).sampling.ban_end_token
    assert continued(dynatemp_low=1, dynatemp_high=2, dynatemp_range=0.1, temperature=9).sampling.temperature == 9


def test_log_probabilities_have_many_names() -> None:
    for fields, wanted in (
        ({"logprobs": 3}, 3), ({"logprobs": True}, 10), ({"logprobs": True, "top_logprobs": 2}, 2),
        ({"n_probs": 4}, 4), ({"n_probs": 0}, None), ({"logprobs": False}, None), ({"logprobs": 99}, 20),
    ):  # fmt: skip
        assert continued(**fields).top_logprobs == wanted
    body = parse(LocalCompletionBody, b'{"prompt": "Once", "logprobs": 3}')
    assert shared_request(body, OWL, OfferedModel(name="owl")).top_logprobs is None


def test_marks_are_nothing_that_other_clients_send() -> None:
    assert {"max_new_tokens", "truncation_length", "stopping_strings", "rep_pen", "n_predict", "genkey"} < MARKS
    assert not MARKS & {"temperature", "top_k", "min_p", "repetition_penalty", "seed", "stop", "logit_bias", "user"}


@pytest.mark.parametrize("name", ["stop", "stopping_strings", "stop_sequence", "banned_strings"])
def test_text_of_a_deep_list_is_a_text(name: str) -> None:
    body = parse(LocalCompletionBody, json.dumps({"prompt": "Once", name: "[" * 100_000}).encode())
    assert getattr(body, name) == ["[" * 100_000]


VALUES = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**80), 2**80), st.floats(allow_nan=False), st.text(max_size=5),
    st.lists(st.integers(), max_size=9), st.lists(st.text(max_size=3), max_size=3),
    st.sampled_from(["1", "-1", "1e999", "nan", "[" * 5000, '{"type": "object"}', [[5, False]], {"5": 1}]),
)  # fmt: skip


@settings(max_examples=150, deadline=None, suppress_health_check=(HealthCheck.too_slow,))
@given(
    st.dictionaries(
        st.sampled_from(sorted({*LocalCompletionBody.model_fields, *LocalChatBody.model_fields} - {"messages"})),
        VALUES,
        max_size=12,
    )
)
def test_any_body_is_a_request_or_refused(fields: dict[str, Any]) -> None:
    raw = json.dumps({"prompt": "Once", "messages": [{"role": "user", "content": "Hi"}], **fields}).encode()
    requests: list[ChatRequest] = []
    with suppress(CallboardError):
        requests.append(shared_request(parse(LocalCompletionBody, raw), OWL, OFFERED))
    with suppress(CallboardError):
        requests.append(chat_request(parse(LocalChatBody, raw), OWL, OFFERED))
    for request in requests:
        assert 1 <= request.max_output_tokens <= 1024
        assert ChatRequest.model_validate_json(request.compact()) == request
