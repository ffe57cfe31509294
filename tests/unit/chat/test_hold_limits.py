"""A reply keeps to its hold, whatever the engine counts."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from callboard_chat.domain.hold_limits import output_allowed, within
from callboard_chat.domain.ports import Chunk
from callboard_chat.domain.reply import Reply
from callboard_contracts.chat import ChatMessage, ChatRequest
from callboard_contracts.errors import CallboardError, ErrorCode
from callboard_contracts.quota import Hold, HoldEntry, Rates, Work

pytestmark = pytest.mark.unit


def hold_of(units: int, prompt_units: int = 1000, completion_units: int = 1000) -> Hold:
    return Hold(
        request_id="r1",
        tenant="t1",
        kind="chat",
        model="owl",
        entries=(
            HoldEntry(tenant="t1", metric="requests", bucket="t202611210328", amount=1),
            HoldEntry(tenant="t1", metric="units", bucket="h2026112103", amount=units),
        ),
        rates=Rates(prompt_units=prompt_units, completion_units=completion_units),
        expires_at=0,
    )


def reply_on(hold: Hold | None, limit: int = 100) -> Reply:
    request = ChatRequest(model="owl", messages=(ChatMessage(role="user", content="Hi"),), max_output_tokens=limit)
    return Reply(request, 1, hold=hold)


def cost(work: Work, hold: Hold) -> int:
    return work.prompt_tokens * hold.rates.prompt_units + work.completion_tokens * hold.rates.completion_units


@pytest.mark.parametrize(
    ("hold", "prompt_tokens", "allowed"),
    [
        (None, 10**6, None),
        (hold_of(0).model_copy(update={"entries": ()}), 10**6, None),
        (hold_of(30_000), 10, 20),
        (hold_of(30_000), 30, 0),
        (hold_of(30_000), 31, -1),
        (hold_of(30_999), 10, 20),
        (hold_of(30_000, 500, 2000), 20, 10),
        (hold_of(30_000, 0), 10**6, 30),
        (hold_of(30_000, 1000, 0), 30, None),
        (hold_of(30_000, 1000, 0), 31, -1),
    ],
)
def test_output_is_what_the_hold_leaves_beside_the_prompt(
    hold: Hold | None, prompt_tokens: int, allowed: int | None
) -> None:
    assert output_allowed(hold, prompt_tokens) == allowed


@given(
    units=st.integers(0, 10**6),
    prompt_units=st.integers(0, 3000),
    completion_units=st.integers(0, 3000),
    prompt_tokens=st.integers(0, 10**4),
    completion_tokens=st.integers(0, 10**4),
)
def test_charge_is_the_work_or_as_much_of_it_as_is_held(
    units: int, prompt_units: int, completion_units: int, prompt_tokens: int, completion_tokens: int
) -> None:
    hold = hold_of(units, prompt_units, completion_units)
    work = Work(prompt_tokens=prompt_tokens, completion_tokens=completion_tokens)
    charged = within(hold, work)
    assert cost(charged, hold) <= units
    assert 0 <= charged.prompt_tokens <= prompt_tokens
    assert 0 <= charged.completion_tokens <= completion_tokens
    if cost(work, hold) <= units:
        assert charged == work


def test_work_without_a_hold_is_charged_as_it_is() -> None:
    work = Work(prompt_tokens=7, completion_tokens=9)
    assert within(None, work) == work


def test_output_is_cut_when_the_engine_counts_a_longer_prompt() -> None:
    reply = reply_on(hold_of(13_000))
    texts: list[str] = []
    for n in range(10):
        frame = reply.take(Chunk(text=f"w{n} ", tokens=1, prompt_tokens=10))
        texts.append(frame.text if frame else "")
    assert reply.finish == "length"
    assert "".join(texts) == "w0 w1 w2 "
    end = reply.end("length").end
    assert end is not None
    assert (end.usage.prompt_tokens, end.usage.completion_tokens) == (10, 3)


def test_prompt_that_is_not_held_is_an_error_that_costs_nothing() -> None:
    reply = reply_on(hold_of(9_000))
    with pytest.raises(CallboardError, match="counts 10 tokens") as error:
        reply.take(Chunk(text="w", tokens=1, prompt_tokens=10))
    assert error.value.info.code is ErrorCode.CONTEXT_LENGTH_EXCEEDED
    end = reply.end("error", error.value.info).end
    assert end is not None
    assert (end.usage.prompt_tokens, end.usage.completion_tokens) == (0, 0)


def test_reply_that_was_begun_before_the_engine_counted_ends_where_it_is() -> None:
    reply = reply_on(hold_of(9_000))
    assert reply.take(Chunk(text="w0 ", tokens=1)) is not None
    assert reply.take(Chunk(text="w1 ", tokens=1, prompt_tokens=10)) is None
    assert reply.finish == "length"
    assert reply.tokens == 1


def test_prompt_that_is_counted_only_at_the_end_leaves_the_reply_whole() -> None:
    reply = reply_on(hold_of(9_000))
    reply.take(Chunk(text="All of it.", tokens=3))
    reply.take(Chunk(finish="stop", prompt_tokens=10, completion_tokens=3))
    assert reply.finish == "stop"
    end = reply.end("stop").end
    assert end is not None
    assert (end.usage.prompt_tokens, end.usage.completion_tokens) == (10, 3)
