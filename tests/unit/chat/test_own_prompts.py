"""A caller learns of cached tokens only as far as the caller's own earlier prompts reach."""

from typing import Any

import pytest

from callboard_chat.domain.own_prompts import MAX_CALLERS, MAX_PROMPTS_OF_ONE, OwnPrompts, prompt_text
from callboard_contracts.chat import ChatMessage, ChatRequest, Tool

pytestmark = pytest.mark.unit


def chat(*contents: str, **fields: Any) -> bytes:
    messages = tuple(
        ChatMessage(role="assistant" if n % 2 else "user", content=content) for n, content in enumerate(contents)
    )
    body = {"model": "owl", "messages": messages, "max_output_tokens": 9, **fields}
    return prompt_text(ChatRequest.model_validate(body))


def raw(prompt: str, **fields: Any) -> bytes:
    request = ChatRequest(model="owl", mode="completion", prompt=prompt, max_output_tokens=9)
    return prompt_text(request.model_copy(update=fields))


def test_a_conversation_that_goes_on_shares_its_earlier_prompts() -> None:
    prompts = OwnPrompts()
    assert prompts.shared_tokens("a", chat("Hi.")) == 0
    prompts.add("a", chat("Hi."), 30)
    prompts.add("a", chat("Hi.", "Hello.", "How?"), 50)
    assert prompts.shared_tokens("a", chat("Hi.")) == 30
    assert prompts.shared_tokens("a", chat("Hi.", "Hello!", "How?")) == 30
    assert prompts.shared_tokens("a", chat("Hi.", "Hello.", "How?", "So.", "Why?")) == 50


def test_nobody_else_shares_them() -> None:
    prompts = OwnPrompts()
    prompts.add("a", chat("The secret is owl."), 30)
    assert prompts.shared_tokens("b", chat("The secret is owl.")) == 0


def test_a_guess_at_the_beginning_of_a_message_shares_nothing_of_it() -> None:
    prompts = OwnPrompts()
    prompts.add("a", chat("The secret is"), 30)
    assert prompts.shared_tokens("a", chat("The secret is owl.")) == 0


def test_raw_prompts_share_what_they_begin_with() -> None:
    prompts = OwnPrompts()
    prompts.add("a", raw("Once upon"), 3)
    assert prompts.shared_tokens("a", raw("Once upon a time")) == 3
    assert prompts.shared_tokens("a", raw("Once more")) == 0
    assert prompts.shared_tokens("a", chat("Once upon a time")) == 0


def test_memory_is_a_part_of_its_own() -> None:
    prompts = OwnPrompts()
    prompts.add("a", raw("Once", memory="Mo. "), 3)
    assert prompts.shared_tokens("a", raw("Once upon", memory="Mo. ")) == 3
    assert prompts.shared_tokens("a", raw("Mo. Once upon")) == 0


@pytest.mark.parametrize("fields", [{"overflow": "drop_front"}, {"turn_tags": True}])
def test_a_prompt_that_may_be_read_as_another_shares_only_itself(fields: dict[str, Any]) -> None:
    prompts = OwnPrompts()
    prompts.add("a", raw("A secret", **fields), 30)
    assert prompts.shared_tokens("a", raw("A secret", **fields)) == 30
    assert prompts.shared_tokens("a", raw("A secret and more", **fields)) == 0
    assert prompts.shared_tokens("a", raw("A secret", context_tokens=5, **fields)) == 0


def test_what_stands_before_the_messages_counts() -> None:
    prompts = OwnPrompts()
    prompts.add("a", chat("Hi."), 30)
    assert prompts.shared_tokens("a", chat("Hi.", tools=(Tool(name="look"),))) == 0
    assert prompts.shared_tokens("a", chat("Hi.", model="wren")) == 0


def test_old_prompts_and_callers_are_forgotten() -> None:
    prompts = OwnPrompts()
    for n in range(MAX_PROMPTS_OF_ONE + 1):
        prompts.add("a", chat(f"{n}"), 30)
    assert prompts.shared_tokens("a", chat("0")) == 0
    assert prompts.shared_tokens("a", chat("1")) == 30
    for n in range(MAX_CALLERS):
        prompts.add(f"caller {n}", chat("Hi."), 30)
    assert prompts.shared_tokens("a", chat("1")) == 0
