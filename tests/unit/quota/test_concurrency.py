"""The short wait for a place that an earlier job is about to free."""

import pytest

from callboard_quota.backends.memory import MemoryLedger
from callboard_quota.domain import concurrency
from callboard_quota.domain.concurrency import ConcurrencyWait, Waited
from callboard_quota.domain.decision import Granted, HoldRequest, Refused
from callboard_quota.domain.ledger import Ledger
from callboard_quota.domain.limits import Limit
from tests.unit.quota.interleaving import NOON, ManualClock, Stepper, ask, no_pause, run, yield_once

pytestmark = pytest.mark.unit

ONE = Limit("key", "k_a", "jobs_at_once", 1)
DAY = Limit("key", "k_a", "tokens_per_day", 1_000)


class Stage:
    """A ledger with a waiting room before it."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.store = MemoryLedger(self.clock, yield_once)
        self.ledger = Ledger(self.store, self.clock)
        self.waits: list[Waited] = []
        self.paused_s = 0.0
        self.room = ConcurrencyWait(self.ledger, self._pause, self.waits.append)

    async def _pause(self, seconds: float) -> None:
        self.paused_s += seconds
        self.clock.at += seconds
        await no_pause(seconds)

    async def reserve(self, wish: HoldRequest) -> Granted | Refused:
        """Asks as the reservations does."""
        outcome = await self.ledger.reserve(wish)
        return outcome if isinstance(outcome, Granted) else await self.room.wait(wish, outcome)


def test_next_request_waits_for_the_settlement_of_the_last() -> None:
    stage = Stage()
    last = run(stage.reserve(ask("first", ONE, units=1)))
    for n in range(50):
        assert isinstance(last, Granted)
        paused_s = stage.paused_s
        asking = Stepper("reserve", stage.reserve(ask(f"r{n}", ONE, units=1)))
        while stage.paused_s == paused_s:
            asking.step()
        run(stage.ledger.settle(last.hold, 1))
        last = asking.run()
    assert isinstance(last, Granted)
    assert stage.waits == ["freed"] * 50


def test_refusal_stands_when_no_place_becomes_free() -> None:
    stage = Stage()
    assert isinstance(run(stage.reserve(ask("a", ONE, units=1))), Granted)
    assert isinstance(run(stage.reserve(ask("b", ONE, units=1))), Refused)
    assert stage.waits == ["refused"]
    assert stage.paused_s == pytest.approx(sum(concurrency.LOOKS_AFTER_S))
    assert sum(counter.metric == "jobs" and value for counter, value in stage.store.values.items()) == 1


def test_refusal_by_another_limit_does_not_wait() -> None:
    stage = Stage()
    assert isinstance(run(stage.reserve(ask("a", DAY, units=1_000))), Granted)
    assert isinstance(run(stage.reserve(ask("b", DAY, ONE, units=1))), Refused)
    assert stage.waits == []


def test_other_limit_that_refuses_meanwhile_is_told() -> None:
    stage = Stage()
    first = run(stage.reserve(ask("a", ONE, units=1)))
    assert isinstance(first, Granted)
    asking = Stepper("reserve", stage.reserve(ask("b", ONE, DAY, units=600)))
    for _ in range(8):
        asking.step()
    run(stage.ledger.reserve(ask("c", DAY, units=900)))
    run(stage.ledger.settle(first.hold, 1))
    outcome = asking.run()
    assert isinstance(outcome, Refused)
    assert outcome.limit_usage.limit == DAY


def test_no_more_wait_for_a_limit_than_it_has_places() -> None:
    stage = Stage()
    run(stage.reserve(ask("a", ONE, units=1)))
    steppers = [Stepper(f"b{n}", stage.reserve(ask(f"b{n}", ONE, units=1))) for n in range(5)]
    while not all(stepper.done for stepper in steppers):
        for stepper in steppers:
            if not stepper.done:
                stepper.step()
    assert all(isinstance(stepper.result, Refused) for stepper in steppers)
    assert sorted(stage.waits) == ["full"] * 4 + ["refused"]


def test_room_is_bounded_over_all_callers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(concurrency, "MAX_WAITING", 2)
    stage = Stage()
    limits = [Limit("key", f"k_{n}", "jobs_at_once", 1) for n in range(4)]
    for n, limit in enumerate(limits):
        run(stage.reserve(ask(f"a{n}", limit, units=1, tenant=limit.tenant)))
    steppers = [
        Stepper(f"b{n}", stage.reserve(ask(f"b{n}", limit, units=1, tenant=limit.tenant)))
        for n, limit in enumerate(limits)
    ]
    while not all(stepper.done for stepper in steppers):
        for stepper in steppers:
            if not stepper.done:
                stepper.step()
    assert sorted(stage.waits) == ["full", "full", "refused", "refused"]


def test_wait_that_is_cancelled_leaves_its_seat() -> None:
    stage = Stage()
    first = run(stage.reserve(ask("a", ONE, units=1)))
    assert isinstance(first, Granted)
    waiting = Stepper("b", stage.reserve(ask("b", ONE, units=1)))
    while not stage.paused_s:
        waiting.step()
    waiting.kill()
    assert isinstance(run(stage.reserve(ask("c", ONE, units=1, at=NOON))), Refused)
    assert stage.waits == ["refused"]


def test_store_that_does_not_answer_a_look_leaves_the_refusal() -> None:
    stage = Stage()
    run(stage.reserve(ask("a", ONE, units=1)))
    waiting = Stepper("b", stage.reserve(ask("b", ONE, units=1)))
    while not stage.paused_s:
        waiting.step()
    stage.store.failing = True
    assert isinstance(waiting.run(), Refused)
