"""The short wait for an open hold to end."""

import pytest

from callboard_quota.backends.memory import MemoryLedger
from callboard_quota.domain import concurrency
from callboard_quota.domain.concurrency import ConcurrencyWait, WaitResult
from callboard_quota.domain.decision import Granted, HoldRequest, Refused
from callboard_quota.domain.ledger import Ledger
from callboard_quota.domain.limit_kinds import JOBS_AT_ONCE, TOKENS_PER_DAY
from callboard_quota.domain.limits import Limit
from tests.unit.quota.interleaving import NOON, ManualClock, Stepper, hold_request, no_pause, run, yield_once

pytestmark = pytest.mark.unit

ONE = Limit("key", "k_a", JOBS_AT_ONCE, 1)
DAY = Limit("key", "k_a", TOKENS_PER_DAY, 1_000)


class Harness:
    """A ledger behind a concurrency wait."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.store = MemoryLedger(self.clock, yield_once)
        self.ledger = Ledger(self.store, self.clock)
        self.results: list[WaitResult] = []
        self.paused_s = 0.0
        self.concurrency_wait = ConcurrencyWait(self.ledger, self._pause, self.results.append)

    async def _pause(self, seconds: float) -> None:
        self.paused_s += seconds
        self.clock.at += seconds
        await no_pause(seconds)

    async def reserve(self, request: HoldRequest) -> Granted | Refused:
        """Reserves as the service does."""
        outcome = await self.ledger.reserve(request)
        return outcome if isinstance(outcome, Granted) else await self.concurrency_wait.wait(request, outcome)


def test_next_request_waits_for_the_settlement_of_the_last() -> None:
    harness = Harness()
    last = run(harness.reserve(hold_request("first", ONE, units=1)))
    for n in range(50):
        assert isinstance(last, Granted)
        paused_s = harness.paused_s
        reserving = Stepper("reserve", harness.reserve(hold_request(f"r{n}", ONE, units=1)))
        while harness.paused_s == paused_s:
            reserving.step()
        run(harness.ledger.settle(last.hold, 1))
        last = reserving.run()
    assert isinstance(last, Granted)
    assert harness.results == ["admitted"] * 50


def test_refusal_stands_when_no_hold_ends() -> None:
    harness = Harness()
    assert isinstance(run(harness.reserve(hold_request("a", ONE, units=1))), Granted)
    assert isinstance(run(harness.reserve(hold_request("b", ONE, units=1))), Refused)
    assert harness.results == ["refused"]
    assert harness.paused_s == pytest.approx(sum(concurrency.RETRY_AFTER_S))
    assert sum(counter.metric == "jobs" and value for counter, value in harness.store.values.items()) == 1


def test_refusal_by_another_limit_does_not_wait() -> None:
    harness = Harness()
    assert isinstance(run(harness.reserve(hold_request("a", DAY, units=1_000))), Granted)
    assert isinstance(run(harness.reserve(hold_request("b", DAY, ONE, units=1))), Refused)
    assert harness.results == []


def test_other_limit_that_refuses_meanwhile_is_told() -> None:
    harness = Harness()
    first = run(harness.reserve(hold_request("a", ONE, units=1)))
    assert isinstance(first, Granted)
    reserving = Stepper("reserve", harness.reserve(hold_request("b", ONE, DAY, units=600)))
    for _ in range(8):
        reserving.step()
    run(harness.ledger.reserve(hold_request("c", DAY, units=900)))
    run(harness.ledger.settle(first.hold, 1))
    outcome = reserving.run()
    assert isinstance(outcome, Refused)
    assert outcome.limit_usage.limit == DAY


def test_no_more_wait_for_a_limit_than_its_maximum() -> None:
    harness = Harness()
    run(harness.reserve(hold_request("a", ONE, units=1)))
    steppers = [Stepper(f"b{n}", harness.reserve(hold_request(f"b{n}", ONE, units=1))) for n in range(5)]
    while not all(stepper.done for stepper in steppers):
        for stepper in steppers:
            if not stepper.done:
                stepper.step()
    assert all(isinstance(stepper.result, Refused) for stepper in steppers)
    assert sorted(harness.results) == ["full"] * 4 + ["refused"]


def test_wait_is_bounded_over_all_callers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(concurrency, "MAX_WAITING", 2)
    harness = Harness()
    limits = [Limit("key", f"k_{n}", JOBS_AT_ONCE, 1) for n in range(4)]
    for n, limit in enumerate(limits):
        run(harness.reserve(hold_request(f"a{n}", limit, units=1, tenant=limit.tenant)))
    steppers = [
        Stepper(f"b{n}", harness.reserve(hold_request(f"b{n}", limit, units=1, tenant=limit.tenant)))
        for n, limit in enumerate(limits)
    ]
    while not all(stepper.done for stepper in steppers):
        for stepper in steppers:
            if not stepper.done:
                stepper.step()
    assert sorted(harness.results) == ["full", "full", "refused", "refused"]


def test_wait_that_is_cancelled_frees_its_place() -> None:
    harness = Harness()
    first = run(harness.reserve(hold_request("a", ONE, units=1)))
    assert isinstance(first, Granted)
    waiting = Stepper("b", harness.reserve(hold_request("b", ONE, units=1)))
    while not harness.paused_s:
        waiting.step()
    waiting.kill()
    assert isinstance(run(harness.reserve(hold_request("c", ONE, units=1, at=NOON))), Refused)
    assert harness.results == ["refused"]


def test_store_that_does_not_answer_leaves_the_refusal() -> None:
    harness = Harness()
    run(harness.reserve(hold_request("a", ONE, units=1)))
    waiting = Stepper("b", harness.reserve(hold_request("b", ONE, units=1)))
    while not harness.paused_s:
        waiting.step()
    harness.store.failing = True
    assert isinstance(waiting.run(), Refused)
