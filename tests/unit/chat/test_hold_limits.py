"""A reply keeps to its hold, whatever the engine counts."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from callboard_chat.domain.hold_limits import UNBOUNDED, TextAllowance, output_allowed, within
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
def test_output_is_what_the_hold_leaves_beside_the_prompt(hold: Hold, prompt_tokens: int, allowed: int | None) -> None:
    assert output_allowed(hold.units, hold.rates, prompt_tokens) == allowed


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
    charged = within([hold], work)
    assert cost(charged, hold) <= units
    assert 0 <= charged.prompt_tokens <= prompt_tokens
    assert 0 <= charged.completion_tokens <= completion_tokens
    if cost(work, hold) <= units:
        assert charged == work


def test_work_without_a_hold_is_charged_as_it_is() -> None:
    work = Work(prompt_tokens=7, completion_tokens=9)
    assert within([], work) == work


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


class Limit:
    """Grants what is left of a limit, and counts how often it is asked."""

    def __init__(self, left_units: int) -> None:
        self.left_units = left_units
        self.granted_units = 0
        self.asked = 0

    def cover(self, allowance: TextAllowance, tokens: int, most: int, like: Hold) -> bool:
        """Has so many tokens held as the worker does; says whether they are."""
        while units := allowance.wanted_units(tokens, most):
            self.asked += 1
            priced = cost(allowance.work(units), like)
            if priced <= self.left_units:
                self.left_units -= priced
                self.granted_units += priced
                allowance.add(hold_of(priced, like.rates.prompt_units, like.rates.completion_units))
            elif units > allowance.lacking_units(tokens):
                allowance.refuse(units)
            else:
                return False
        return True


@given(
    first_units=st.integers(0, 300_000),
    left_units=st.integers(0, 3_000_000),
    prompt_units=st.integers(1, 3000),
    completion_units=st.integers(1, 3000),
    reckoned=st.integers(0, 500),
    counted=st.integers(0, 1500),
    wanted=st.integers(1, 2000),
    more=st.integers(0, 2000),
)
def test_reply_is_never_longer_than_what_is_held_and_a_limit_is_used_to_its_last_token(
    first_units: int,
    left_units: int,
    prompt_units: int,
    completion_units: int,
    reckoned: int,
    counted: int,
    wanted: int,
    more: int,
) -> None:
    like = hold_of(first_units, prompt_units, completion_units)
    allowance, limit = TextAllowance([like], reckoned), Limit(left_units)
    allowance.count_prompt(counted)
    written = 0
    while written < wanted:
        if written + 1 > allowance.tokens and not limit.cover(allowance, written + 1, wanted + more, like):
            break
        written += 1
        assert counted * prompt_units + written * completion_units <= first_units + limit.granted_units
    if written < wanted:
        lacking = counted * prompt_units + (written + 1) * completion_units - first_units - limit.granted_units
        assert 0 <= limit.left_units < cost(allowance.work(lacking), like)
    assert limit.asked <= 60


def test_reply_shorter_than_its_slice_asks_for_nothing() -> None:
    allowance = TextAllowance([hold_of(356_000)], 100)
    assert allowance.tokens == 256
    allowance.count_prompt(80)
    assert allowance.tokens == 276
    assert allowance.wanted_units(276, 1000) == 0
    assert allowance.work(allowance.wanted_units(277, 1000)) == Work(completion_tokens=277)
    assert allowance.work(allowance.wanted_units(277, 300)) == Work(completion_tokens=24)


def test_free_output_is_bounded_by_the_prompt_alone() -> None:
    allowance = TextAllowance([hold_of(10_000, 1000, 0)], 10)
    assert allowance.tokens == UNBOUNDED
    allowance.count_prompt(12)
    assert allowance.tokens < 0
    assert allowance.work(allowance.wanted_units(1, 100)) == Work(prompt_tokens=2)
