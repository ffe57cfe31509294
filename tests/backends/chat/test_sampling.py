"""Each backend sends exactly those sampling fields that it declares, and the real engine heeds them."""

from collections.abc import Callable
from typing import Any

import pytest

from callboard_chat.backends import llamacpp_request, ollama, openai
from callboard_contracts.chat import ChatRequest, Sampling
from tests.backends.chat.suite import request

pytestmark = pytest.mark.backend

VALUES: dict[str, Any] = {
    "temperature": 0.5,
    "dynatemp_range": 0.3,
    "dynatemp_exponent": 1.5,
    "smoothing_factor": 0.2,
    "smoothing_curve": 1.5,
    "top_k": 3,
    "top_p": 0.9,
    "min_p": 0.1,
    "top_a": 0.2,
    "typical_p": 0.8,
    "tfs": 0.9,
    "top_n_sigma": 1.5,
    "epsilon_cutoff": 3.0,
    "eta_cutoff": 4.0,
    "xtc_threshold": 0.1,
    "xtc_probability": 0.5,
    "adaptive_target": 0.4,
    "adaptive_decay": 0.8,
    "mirostat": 2,
    "mirostat_tau": 4.0,
    "mirostat_eta": 0.2,
    "presence_penalty": 1.0,
    "frequency_penalty": 1.0,
    "repetition_penalty": 1.2,
    "repetition_range": 32,
    "repetition_slope": 0.7,
    "no_repeat_ngram_size": 3,
    "dry_multiplier": 0.8,
    "dry_base": 1.8,
    "dry_allowed_length": 3,
    "dry_range": 64,
    "dry_sequence_breakers": ("x",),
    "sampler_order": ("temperature", "top_k"),
    "seed": 4,
    "stop": ("END",),
    "logit_bias": {"5": -1.5},
    "banned_token_ids": (6, 7),
    "banned_texts": ("zounds",),
    "min_output_tokens": 2,
    "ban_end_token": True,
}

BUILDERS: dict[str, tuple[frozenset[str], Callable[[ChatRequest], Any]]] = {
    "llamacpp": (llamacpp_request.SAMPLING, lambda wanted: llamacpp_request.request_body(wanted, None, 1024)),
    "openai": (openai.SAMPLING, lambda wanted: openai._body(wanted, None)),  # pyright: ignore[reportPrivateUsage]
    "ollama": (ollama.SAMPLING, lambda wanted: ollama._options(wanted, None, 512)),  # pyright: ignore[reportPrivateUsage]
}


def with_sampling(**fields: Any) -> ChatRequest:
    return request(sampling=Sampling(**fields))


def test_every_field_is_tried() -> None:
    assert set(VALUES) == set(Sampling.model_fields)


@pytest.mark.parametrize("field", sorted(VALUES))
@pytest.mark.parametrize("backend", sorted(BUILDERS))
def test_field_is_sent_if_it_is_declared_and_only_then(backend: str, field: str) -> None:
    declared, build = BUILDERS[backend]
    is_sent = build(with_sampling(**{field: VALUES[field]})) != build(with_sampling())
    # llama.cpp would not say which stop sequence ended a reply, so the worker cuts it there.
    cut_by_worker = (backend, field) == ("llamacpp", "stop")
    assert is_sent == (field in declared and not cut_by_worker)


@pytest.mark.parametrize("backend", sorted(BUILDERS))
def test_request_without_sampling_sends_none(backend: str) -> None:
    _, build = BUILDERS[backend]
    body = build(with_sampling())
    assert {"temperature", "seed", "stop", "samplers", "ignore_eos", "logit_bias"} & set(body) == set()


def test_fields_have_the_engines_own_names_and_forms() -> None:
    llama = BUILDERS["llamacpp"][1](with_sampling(**VALUES))
    expected = {
        "repeat_penalty": 1.2,
        "repeat_last_n": 32,
        "dry_penalty_last_n": 64,
        "ignore_eos": True,
        "logit_bias": [[5, -1.5], [6, False], [7, False]],
    }
    assert {name: llama[name] for name in expected} == expected
    openai_body = BUILDERS["openai"][1](with_sampling(**VALUES))
    expected = {
        "min_tokens": 2,
        "ignore_eos": True,
        "bad_words": ("zounds",),
        "logit_bias": {"5": -1.5, "6": -100.0, "7": -100.0},
    }
    assert {name: openai_body[name] for name in expected} == expected
    options = BUILDERS["ollama"][1](with_sampling(**VALUES))
    assert (options["repeat_penalty"], options["repeat_last_n"]) == (1.2, 32)


def test_ranges_end_with_the_context_that_ollama_is_given() -> None:
    options = BUILDERS["ollama"][1](with_sampling(repetition_range=10**8, top_k=2**40))
    assert (options["repeat_last_n"], options["top_k"]) == (options["num_ctx"], 2**31 - 1)


@pytest.mark.parametrize(
    ("fields", "samplers"),
    [
        ({}, None),
        ({"adaptive_target": 0.4}, (*llamacpp_request.SAMPLERS, "adaptive_p")),
        (
            {"sampler_order": ("temperature", "top_a", "top_p", "repetition_penalty")},
            (
                *("dry", "top_n_sigma", "temperature", "top_p", "min_p", "penalties", "xtc"),
                *("top_k", "typ_p"),
            ),
        ),
    ],
)
def test_order_of_llama_cpps_samplers(fields: dict[str, Any], samplers: tuple[str, ...] | None) -> None:
    assert BUILDERS["llamacpp"][1](with_sampling(**fields)).get("samplers") == samplers


def test_range_over_the_whole_context_is_llama_cpps_number_for_it() -> None:
    body = BUILDERS["llamacpp"][1](with_sampling(repetition_range=-1, dry_range=-1, dry_sequence_breakers=()))
    assert (body["repeat_last_n"], body["dry_penalty_last_n"]) == (1024, 1024)
    assert "dry_sequence_breakers" not in body
