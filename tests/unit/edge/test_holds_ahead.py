"""Holds taken ahead: for callers who ask again, far from limits, used by what they fit, and never left behind."""

import asyncio
from collections.abc import AsyncGenerator, Callable

import pytest
import pytest_asyncio

from callboard_contracts.errors import ErrorCode, ErrorInfo
from callboard_contracts.quota import LimitState, ReserveReply, ReserveRequest, Work, WorkKind
from callboard_edge.backends.fake_quota_client import FakeQuotaClient
from callboard_edge.domain import holds_ahead
from callboard_edge.domain.caller import Caller
from callboard_edge.domain.holds_ahead import TAKE_AFTER_S, HoldsAhead, Result
from callboard_kit.background_tasks import BackgroundTasks

pytestmark = [pytest.mark.unit, pytest.mark.asyncio]

ADA = Caller("ada", "127.0.0.1")
BOB = Caller("bob", "127.0.0.1")
AMPLE = LimitState(limit="key.tokens_per_day", allowed=1_000_000, remaining=900_000, resets_in_s=60)


def wanted(
    request_id: str, caller: Caller = ADA, prompt_tokens: int = 1, kind: WorkKind = "chat", model: str = "owl"
) -> ReserveRequest:
    """What a request asks quota for."""
    return ReserveRequest(
        request_id=request_id,
        kind=kind,
        model=model,
        work=Work(prompt_tokens=prompt_tokens, completion_tokens=50),
        key_digest=caller.key_digest,
        address=caller.address,
        life_s=120,
    )


class Edge:
    """The requests of an edge, and quota behind it; `time` is the bus's."""

    def __init__(self) -> None:
        self.quota = FakeQuotaClient()
        self.quota.states = (AMPLE,)
        self.background = BackgroundTasks()
        self.results: list[Result] = []
        self.time = 1_000_020.0
        self.ahead = HoldsAhead(self.quota, self.background, lambda: self.time, self.results.append)

    async def ask(
        self,
        caller: Caller = ADA,
        *,
        prompt_tokens: int = 100,
        kind: WorkKind = "chat",
        model: str = "owl",
        ends: bool = True,
    ) -> tuple[str, ReserveReply, int]:
        """One request: its id, what it got, and how often quota was asked before it got it."""
        before = len(self.quota.asked)
        request_id = self.ahead.begin(caller)
        reply = await self.ahead.reserve(wanted(request_id, caller, prompt_tokens, kind, model))
        asked = len(self.quota.asked) - before
        if ends:
            self.ahead.end(request_id)
        await self.settled()
        return request_id, reply, asked

    async def settled(self) -> None:
        """Waits until what is taken ahead is asked for, and nothing runs in the background."""
        await asyncio.sleep(2 * TAKE_AFTER_S)
        while self.quota.asking:
            await asyncio.wait(self.quota.asking)
            await asyncio.sleep(0)
        await self.background.close(5)


@pytest_asyncio.fixture
async def edge() -> AsyncGenerator[Edge]:
    edge = Edge()
    yield edge
    await edge.settled()


async def test_a_caller_who_asks_again_does_not_wait_for_quota(edge: Edge) -> None:
    asked = [(await edge.ask())[2] for _ in range(4)]
    assert asked == [1, 1, 0, 0]
    assert edge.results == ["used", "used"]
    # The first two took their own, the others what was taken ahead, and one more lies ready.
    assert len(edge.quota.asked) == 5


async def test_holds_that_are_wanted_within_a_moment_are_asked_for_together(edge: Edge) -> None:
    for caller in (ADA, BOB):
        await edge.ask(caller)
    begun = [edge.ahead.begin(caller) for caller in (ADA, BOB)]
    for request_id, caller in zip(begun, (ADA, BOB), strict=True):
        await edge.ahead.reserve(wanted(request_id, caller))
    assert len(edge.quota.asked) == 4
    await edge.settled()
    assert [asked.key_digest for asked in edge.quota.asked[4:]] == ["ada", "bob"]
    # Quota answers in its own time, and no request waits for it.
    assert all(asked.wait_s == 0 for asked in edge.quota.asked[4:])


async def test_quota_that_does_not_answer_costs_no_hold_ahead_for_good(edge: Edge) -> None:
    reserve_later = edge.quota.reserve_later
    edge.quota.reserve_later = lambda request, on_end: on_end(None)
    assert [(await edge.ask())[2] for _ in range(20)] == [1] * 20
    edge.quota.reserve_later = reserve_later
    assert [(await edge.ask())[2] for _ in range(2)] == [1, 0]


async def test_hold_that_quota_may_have_granted_unheard_is_taken_back(edge: Edge) -> None:
    unheard: list[ReserveRequest] = []

    def lose(request: ReserveRequest, on_end: Callable[[ReserveReply | None], None]) -> None:
        unheard.append(request)
        on_end(None)

    edge.quota.reserve_later = lose
    await edge.ask()
    await edge.ask()
    (lost,) = unheard
    again = edge.quota.asked[-1]
    assert (again.request_id, again.repeat) == (lost.request_id, 1)
    assert edge.quota.released == [lost.request_id]


async def test_a_hold_ahead_belongs_to_the_request_that_uses_it(edge: Edge) -> None:
    for _ in range(3):
        request_id, reply, _ = await edge.ask()
        assert reply.hold is not None
        assert (reply.hold.request_id, reply.hold.model) == (request_id, "owl")


async def test_nothing_is_taken_for_a_single_request(edge: Edge) -> None:
    await edge.ask(ADA)
    await edge.ask(BOB)
    assert len(edge.quota.asked) == 2


async def test_nobody_uses_what_was_taken_for_another_caller(edge: Edge) -> None:
    await edge.ask(ADA)
    await edge.ask(ADA)
    request_id, _, asked = await edge.ask(BOB)
    assert asked == 1
    assert request_id == edge.quota.asked[-1].request_id
    assert edge.results == []


@pytest.mark.parametrize(
    "other",
    [{"model": "wren"}, {"kind": "embedding"}, {"prompt_tokens": 1000}],
    ids=["another model", "other work", "a longer prompt"],
)
async def test_a_request_that_does_not_fit_takes_its_own_and_the_other_is_released(
    edge: Edge, other: dict[str, object]
) -> None:
    await edge.ask()
    await edge.ask()
    request_id, reply, asked = await edge.ask(**other)  # pyright: ignore[reportArgumentType]
    assert asked == 1
    assert reply.hold is not None
    assert edge.results[:1] == ["released"]
    assert request_id in edge.quota.released


async def test_a_prompt_that_grows_as_conversations_do_still_fits(edge: Edge) -> None:
    asked = [(await edge.ask(prompt_tokens=tokens))[2] for tokens in (100, 110, 130, 150)]
    assert asked == [1, 1, 0, 0]


async def test_a_request_that_never_asks_releases_what_it_began_with(edge: Edge) -> None:
    await edge.ask()
    await edge.ask()
    request_id = edge.ahead.begin(ADA)
    edge.ahead.end(request_id)
    await edge.settled()
    assert edge.quota.released == [request_id]


@pytest.mark.parametrize(
    "state",
    [
        LimitState(limit="key.tokens_per_day", allowed=1_000_000, remaining=499_000, resets_in_s=60),
        LimitState(limit="key.tokens_per_day", allowed=12_000, remaining=9_000, resets_in_s=60),
        LimitState(limit="key.jobs_at_once", allowed=1_000, remaining=999, resets_in_s=60),
        LimitState(limit="key.requests_per_minute", allowed=60, remaining=59, resets_in_s=60),
    ],
    ids=["more than half used", "room for few", "jobs at once", "few requests a minute"],
)
async def test_nothing_is_taken_near_a_limit_or_where_jobs_are_counted(edge: Edge, state: LimitState) -> None:
    edge.quota.states = (AMPLE, state)
    for _ in range(4):
        await edge.ask()
    assert len(edge.quota.asked) == 4


async def test_a_caller_who_falls_silent_gets_everything_released(edge: Edge, monkeypatch: pytest.MonkeyPatch) -> None:
    await edge.ask()
    await edge.ask()
    edge.ahead.sweep()
    assert edge.quota.released == []
    monkeypatch.setattr(holds_ahead, "IDLE_S", -1.0)
    edge.ahead.sweep()
    await edge.settled()
    assert len(edge.quota.released) == 1
    # The next is a first request again.
    monkeypatch.undo()
    assert (await edge.ask())[2] == 1
    assert edge.results == ["released"]


async def test_what_is_ahead_stays_while_a_request_of_the_caller_is_open(
    edge: Edge, monkeypatch: pytest.MonkeyPatch
) -> None:
    await edge.ask()
    await edge.ask(ends=False)
    monkeypatch.setattr(holds_ahead, "IDLE_S", -1.0)
    edge.ahead.sweep()
    await edge.settled()
    assert edge.quota.released == []


async def test_what_is_too_old_is_released(edge: Edge, monkeypatch: pytest.MonkeyPatch) -> None:
    await edge.ask()
    await edge.ask(ends=False)
    monkeypatch.setattr(holds_ahead, "MAX_AGE_S", -1.0)
    edge.ahead.sweep()
    await edge.settled()
    assert len(edge.quota.released) == 1


async def test_a_hold_of_another_minute_is_not_used(edge: Edge) -> None:
    await edge.ask()
    await edge.ask()
    edge.time += 60
    assert (await edge.ask())[2] == 1
    assert edge.results[:1] == ["released"]


async def test_a_change_of_accounts_releases_everything_also_what_is_on_its_way(edge: Edge) -> None:
    await edge.ask()
    await edge.ask()
    edge.ahead.drop_all()
    await edge.settled()
    assert len(edge.quota.released) == 1
    edge.quota.delay_s = 0.01
    request_id = edge.ahead.begin(ADA)
    asking = asyncio.ensure_future(edge.ahead.reserve(wanted(request_id)))
    await asking
    edge.ahead.drop_all()
    await edge.settled()
    assert len(edge.quota.released) == 2


async def test_a_refusal_has_what_is_ahead_released_and_is_asked_again(edge: Edge) -> None:
    await edge.ask()
    await edge.ask()
    refusal = ErrorInfo(code=ErrorCode.QUOTA_EXCEEDED, message="reached", limit="key.tokens_per_day")
    refused: list[str] = []
    reserve = edge.quota.reserve

    async def full(request: ReserveRequest) -> ReserveReply:
        if not edge.quota.released:
            refused.append(request.request_id)
            return ReserveReply(error=refusal)
        return await reserve(request)

    edge.quota.reserve = full
    # One that began before the hold was ready asks for its own.
    reply = await edge.ahead.reserve(wanted("late"))
    assert refused == ["late"]
    assert reply.hold is not None
    assert len(edge.quota.released) == 1


async def test_no_more_lie_ready_than_allowed(edge: Edge, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(holds_ahead, "MAX_AHEAD", 2)
    for _ in range(3):
        await edge.ask()
    ids = [edge.ahead.begin(ADA) for _ in range(5)]
    known = [request_id for request_id in ids if request_id in edge.quota.held]
    assert len(known) <= 2
    for request_id in ids:
        edge.ahead.end(request_id)


async def test_more_callers_than_are_remembered_are_served_without(edge: Edge, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(holds_ahead, "MAX_CALLERS", 1)
    await edge.ask(ADA)
    for _ in range(3):
        reply = (await edge.ask(BOB))[1]
        assert reply.hold is not None
    assert len(edge.quota.asked) == 4


async def test_the_end_of_the_process_releases_everything(edge: Edge) -> None:
    running = asyncio.ensure_future(edge.ahead.run())
    await edge.ask()
    await edge.ask()
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    await edge.settled()
    assert len(edge.quota.released) == 1
    for _ in range(3):
        await edge.ask()
    assert len(edge.quota.asked) == 6


async def test_a_site_that_wants_none_has_none_taken(edge: Edge) -> None:
    edge.ahead = HoldsAhead(edge.quota, edge.background, lambda: edge.time, edge.results.append, enabled=False)
    assert [(await edge.ask())[2] for _ in range(4)] == [1, 1, 1, 1]
