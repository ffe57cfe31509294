"""What the embedded llama.cpp is asked, and how much of its memory and time a request may claim by it."""

from typing import Any

import pytest

from callboard_chat.backends.llamacpp_request import request_body
from callboard_contracts.chat import ChatMessage, ChatRequest, Sampling, Thinking

pytestmark = pytest.mark.unit

CONTEXT_TOKENS = 2048


def asked(**sampling: Any) -> dict[str, Any]:
    request = ChatRequest(
        model="owl", mode="completion", prompt="An owl", max_output_tokens=8, sampling=Sampling(**sampling)
    )
    return request_body(request, None, CONTEXT_TOKENS)


@pytest.mark.parametrize("given", [-1, CONTEXT_TOKENS + 1, 10**8, 2**31, 10**30])
def test_no_range_is_longer_than_the_context_for_which_the_engine_sets_memory_aside(given: int) -> None:
    body = asked(repetition_range=given, dry_range=given, dry_allowed_length=max(2, given), top_k=given)
    assert body["repeat_last_n"] == body["dry_penalty_last_n"] == CONTEXT_TOKENS
    assert body["dry_allowed_length"] <= CONTEXT_TOKENS
    assert body["top_k"] == min(given, 2**31 - 1)


def test_ranges_within_the_context_stay_as_they_are() -> None:
    body = asked(repetition_range=0, dry_range=64, dry_allowed_length=3, top_k=40)
    assert (body["repeat_last_n"], body["dry_penalty_last_n"], body["dry_allowed_length"]) == (0, 64, 3)
    assert body["top_k"] == 40


def test_breakers_that_would_keep_the_engine_busy_for_seconds_are_left_out() -> None:
    usual = ("\n", ":", '"', "*", "<|im_start|>", "<|im_end|>")
    assert asked(dry_sequence_breakers=usual)["dry_sequence_breakers"] == [*usual]
    long = tuple(f"E{number:03}" for number in range(125))
    assert asked(dry_sequence_breakers=(*long, "\n", "\n"))["dry_sequence_breakers"] == [*long[:4], "\n"]
    assert asked(dry_sequence_breakers=("eeee", "e", "ж.", "Ж."))["dry_sequence_breakers"] == ["e", "Ж."]
    assert len(asked(dry_sequence_breakers=tuple("abcdefghijklmnopqrstuvwxyz"))["dry_sequence_breakers"]) == 16
    assert "dry_sequence_breakers" not in asked(dry_sequence_breakers=("x" * 17,))


def test_thoughts_may_be_as_long_as_the_reply() -> None:
    for given, sent in ((10**12, 8), (5, 5)):
        request = ChatRequest(
            model="owl",
            messages=(ChatMessage(role="user", content="Hello."),),
            max_output_tokens=8,
            thinking=Thinking(enabled=True, budget_tokens=given),
        )
        assert request_body(request, None, CONTEXT_TOKENS)["thinking_budget_tokens"] == sent
