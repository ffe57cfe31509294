"""Raw prompts that may lose their front: what is held for them, what is sent on, and which worker they prefer."""

from typing import Any

import pytest

from callboard_contracts.chat import ChatMessage, ChatRequest
from callboard_contracts.config import Config
from callboard_contracts.errors import CallboardError, ErrorCode
from callboard_contracts.prompt_size import START_TOKENS, prompt_bytes, prompt_tokens_bound, usual_prompt_tokens
from callboard_contracts.tokens import MAX_TEXT_BYTES, MAX_TOKENS
from callboard_edge.backends.fake_model_inquiry import FakeModelInquiry
from callboard_edge.domain.catalogue import chat_catalogue
from callboard_edge.domain.model_inquiries import ModelQuestions
from callboard_edge.domain.prompt_bound import LONGEST_TOKEN_BYTES, check_context, within_bounds
from callboard_edge.domain.prompt_cache import cache_key
from tests.unit.edge.harness import CONFIG

pytestmark = pytest.mark.unit

WREN = chat_catalogue(Config.model_validate(CONFIG).chat).resolve("wren/tiny")
JOB_BYTES = 1_000_000
MOST = WREN.context_tokens * LONGEST_TOKEN_BYTES


def raw(prompt: str, **fields: Any) -> ChatRequest:
    return ChatRequest.model_validate(
        {"mode": "completion", "model": "owl", "prompt": prompt, "max_output_tokens": 28, **fields}
    )


def dropping(prompt: str, **fields: Any) -> ChatRequest:
    return raw(prompt, overflow="drop_front", **fields)


def test_a_prompt_of_four_megabytes_is_cut_to_what_can_fit_and_keeps_its_end() -> None:
    end = "The end. 👩‍👩‍👧‍👦"
    for character in ("x", "я", "🐈", "\x01", '"'):
        long = dropping(character * (4_000_000 // len(character.encode())) + end, memory="Mo is a miller.")
        kept = within_bounds(long, WREN, JOB_BYTES)
        assert kept.prompt.endswith(end)
        assert kept.memory == long.memory
        assert MOST - 8 <= len(kept.prompt.encode()) <= MOST
        assert "\ufffd" not in kept.prompt
        check_context(kept, WREN)
    with pytest.raises(CallboardError) as refused:
        check_context(raw("x" * 4_000_000), WREN)
    assert refused.value.info.code is ErrorCode.CONTEXT_LENGTH_EXCEEDED


@pytest.mark.parametrize("character", ["x", "я", "\x01"])
def test_a_prompt_fits_into_a_job_whatever_its_characters_take_there(character: str) -> None:
    long = dropping(character * 16_000 + "end", memory="Mo.\n", sampling={"stop": ("x" * 100,)})
    kept = within_bounds(long, WREN, 9000)
    assert 6000 < len(kept.compact()) <= 9000
    assert kept.prompt.endswith("end")
    assert kept.memory == "Mo.\n"
    huge = within_bounds(dropping("p" * 16_000 + "end", memory="m" * 16_000), WREN, 9000)
    assert len(huge.compact()) <= 9000
    assert huge.memory
    assert huge.prompt.endswith("end")


def test_what_may_not_be_cut_is_left_as_it_is() -> None:
    for request in (
        raw("x" * 4_000_000),
        dropping("Short."),
        ChatRequest(model="owl", messages=(ChatMessage(role="user", content="x"),), max_output_tokens=1),
    ):
        assert within_bounds(request, WREN, JOB_BYTES) is request


def test_a_dialogue_of_four_megabytes_keeps_its_system_and_its_latest_messages() -> None:
    system = ChatMessage(role="system", content="Be an owl.")
    turns = [ChatMessage(role="user", content=f"{n}" + "x" * 4000) for n in range(1000)]
    fields: dict[str, Any] = {"model": "owl", "messages": (system, *turns), "max_output_tokens": 28}
    kept = within_bounds(ChatRequest(**fields, overflow="drop_front"), WREN, JOB_BYTES)
    assert kept.messages == (system, *turns[-4:])
    check_context(kept, WREN)
    with pytest.raises(CallboardError):
        check_context(within_bounds(ChatRequest(**fields), WREN, JOB_BYTES), WREN)
    message = ChatMessage(role="user", content="x" * 99_999)
    last = ChatRequest(model="owl", messages=(message,), max_output_tokens=28, overflow="drop_front")
    assert within_bounds(last, WREN, JOB_BYTES).messages == last.messages


def test_what_is_held_knows_memory_and_what_is_dropped() -> None:
    both = raw("x" * 40, memory="м" * 10)
    assert prompt_bytes(both) == 60
    assert prompt_tokens_bound(both, 128) == 60 + START_TOKENS
    assert usual_prompt_tokens(both, 0.5, 128) == 30 + START_TOKENS
    for tokens in (prompt_tokens_bound(raw("x" * 999), 128), usual_prompt_tokens(raw("x" * 999), 1.0, 128)):
        assert tokens == 128
    for fields, held in (({}, 100), ({"context_tokens": 64}, 36), ({"max_output_tokens": 500}, 1)):
        long = dropping("x" * 9999, **fields)
        assert prompt_tokens_bound(long, 128) == usual_prompt_tokens(long, 1.0, 128) == held
    tagged = raw("{{[INPUT]}}Hi{{[OUTPUT]}}", turn_tags=True)
    assert prompt_tokens_bound(tagged, 128) == prompt_bytes(tagged) + START_TOKENS + 32


def test_prompts_that_share_their_memory_prefer_one_worker() -> None:
    memory = "Mo is a miller. " * 100
    assert cache_key(dropping("one", memory=memory)) == cache_key(dropping("two", memory=memory))
    assert cache_key(raw("one", memory=memory)) != cache_key(raw("two", memory=memory))
    assert cache_key(dropping("one")) != cache_key(dropping("two"))


async def test_questions_about_a_model_go_to_its_pool() -> None:
    inquiry = FakeModelInquiry()
    questions = ModelQuestions(inquiry)
    told = await questions.tokens(WREN, "Hi there", special=False)
    assert len(told.ids) == 2
    assert await questions.text(WREN, told.ids) == "Hi there"
    assert len((await questions.dialogue_tokens(WREN, [ChatMessage(role="user", content="Hi")])).ids) == 3
    assert await questions.description(WREN) == inquiry.description
    assert {pool for pool, _ in inquiry.asked} == {WREN.pool}
    assert {request.model for _, request in inquiry.asked} == {"wren/tiny"}
    for question in (
        questions.tokens(WREN, "я" * (MAX_TEXT_BYTES // 2 + 1)),
        questions.text(WREN, [1] * (MAX_TOKENS + 1)),
    ):
        with pytest.raises(CallboardError) as refused:
            await question
        assert refused.value.info.code is ErrorCode.BODY_TOO_LARGE
    inquiry.failure = CallboardError(ErrorCode.NO_WORKER, "Nobody.")
    with pytest.raises(CallboardError):
        await questions.tokens(WREN, "Hi")
