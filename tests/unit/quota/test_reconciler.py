"""Closing hours, charging what came late, and verification, over the ledger in memory."""

import pytest

from callboard_contracts.config import QuotaSection
from callboard_contracts.quota import UsageEvent, Work
from callboard_quota.backends.memory import (
    MemoryAccounts,
    MemoryCounterStore,
)
from callboard_quota.domain.decision import Granted
from callboard_quota.domain.event_rules import EventRules
from callboard_quota.domain.limit_kinds import REQUESTS_PER_MINUTE
from callboard_quota.domain.limits import Limit
from callboard_quota.domain.ports import Change, Counter
from callboard_quota.domain.reconciler import Reconciler
from callboard_quota.domain.tenants import Secret
from callboard_quota.domain.usage_totals import UsageAggregator
from callboard_quota.domain.windows import CLOSING_S, SETTLE_GRACE_S, hour_bucket
from tests.unit.quota.hours import JOBS, Harness, new_harness
from tests.unit.quota.interleaving import (
    NOON,
    Stepper,
    hold_request,
    run,
    unheld,
)

pytestmark = pytest.mark.unit

HOUR = hour_bucket(NOON)
UNITS = Counter("k_a", "units", HOUR)


@pytest.fixture
def harness() -> Harness:
    return new_harness()


def close_hour(harness: Harness) -> None:
    harness.clock.at = NOON + 3600 + CLOSING_S
    run(harness.reaper.pass_once())
    assert run(harness.make("w").pass_once())


def corrections(harness: Harness) -> int:
    return sum(event.kind == "corrected" for event in harness.journal.events)


def test_settled_hours_need_no_correction(harness: Harness) -> None:
    for n in range(20):
        harness.report(harness.hold(f"r{n}"), n)
    assert harness.verify().drift_count == 0
    close_hour(harness)
    assert corrections(harness) == 0
    assert harness.verify().drift_count == 0


def test_lost_settlement_and_lost_lease_are_corrected_when_the_hour_closes(harness: Harness) -> None:
    harness.report(harness.hold("settled"), 1)
    lost = harness.hold("lost")
    run(harness.store.close(lost))
    harness.report(lost, 2, settle=False)
    leaked = harness.hold("leaked")
    run(harness.store.close(leaked))
    assert harness.verify().drift_units == (5000 - 2000) + 5000 + 2
    close_hour(harness)
    assert harness.store.values[UNITS] == 3000
    assert harness.verify().drift_count == 0
    before = corrections(harness)
    run(harness.make("w").pass_once())
    assert corrections(harness) == before


def test_closed_hour_keeps_only_what_was_charged(harness: Harness) -> None:
    limits = (JOBS, Limit("key", "k_a", REQUESTS_PER_MINUTE, 5))
    outcome = run(harness.ledger.reserve(hold_request("a", *limits, at=harness.clock.at)))
    assert isinstance(outcome, Granted)
    harness.report(outcome.hold, 1)
    assert {counter.metric for counter in harness.store.values} == {"units", "jobs", "requests"}
    close_hour(harness)
    assert {counter.metric for counter in harness.store.values if counter.bucket[1:11] == HOUR[1:]} == {"units"}


def test_open_holds_are_no_drift(harness: Harness) -> None:
    harness.hold("open")
    reply = harness.verify()
    assert (reply.drift_count, reply.open_holds) == (0, 1)


def test_leases_that_come_back_after_their_holds_ended_are_no_drift(harness: Harness) -> None:
    settled, released, still_open = harness.hold("settled"), harness.hold("released"), harness.hold("open")
    harness.report(settled, 2)
    run(harness.ledger.release(released))
    for hold in (settled, released):
        # A bus that was killed forgot that the lease was removed.
        run(harness.store.open(hold, []))
    reply = harness.verify()
    assert (reply.drift_count, reply.drift_units, reply.open_holds) == (0, 0, 1)
    run(harness.store.close(still_open))
    (lost,) = [drift for drift in harness.verify().drift if drift.metric == "units"]
    assert (lost.counted - lost.events, lost.open) == (5000, 0)


def test_event_after_the_hour_is_closed_is_charged_once_and_a_replay_never(harness: Harness) -> None:
    hold = harness.hold("late")
    in_time = harness.hold("in-time")
    harness.report(in_time, 1)
    close_hour(harness)
    assert harness.store.values[UNITS] == 1000
    harness.clock.at += 86_400
    harness.report(hold, 3)
    harness.report(hold, 4)
    harness.report(in_time, 2)
    for worker in ("w", "v"):
        run(harness.make(worker).pass_once())
    assert harness.store.values[UNITS] == 4000
    reply = harness.verify()
    assert reply.drift_count == 0
    assert [ignored.reason for ignored in reply.ignored] == ["repeated", "repeated"]


def test_event_that_comes_too_late_to_settle_is_left_to_the_closing(harness: Harness) -> None:
    hold = harness.hold("slow")
    harness.clock.at = hold.expires_at + 1
    run(harness.reaper.pass_once())
    harness.clock.at = hold.expires_at + SETTLE_GRACE_S + 1
    harness.report(hold, 3)
    assert harness.store.values[UNITS] == 0
    close_hour(harness)
    assert harness.store.values[UNITS] == 3000


def test_two_reconcilers_at_once_correct_once(harness: Harness) -> None:
    leaked = harness.hold("leaked")
    run(harness.store.close(leaked))
    harness.clock.at = NOON + 3600 + CLOSING_S
    one, other = harness.make("one"), harness.make("other")
    first = Stepper("first", one.pass_once())
    for _ in range(3):
        first.step()
    run(other.pass_once())
    harness.clock.at += 400
    assert run(other.pass_once())
    first.run()
    assert harness.store.values[UNITS] == 0
    assert harness.verify().drift_count == 0


def test_failed_pass_is_completed_by_the_next(harness: Harness) -> None:
    for n in range(3):
        run(harness.store.close(harness.hold(f"leaked{n}")))
    harness.clock.at = NOON + 3600 + CLOSING_S
    harness.store.failing = True
    with pytest.raises(Exception, match="told to fail"):
        run(harness.make("w").pass_once())
    harness.store.failing = False
    run(harness.make("w").pass_once())
    assert harness.store.values[UNITS] == 0


def test_checkpoint_that_was_lost_does_not_touch_old_hours(harness: Harness) -> None:
    harness.report(harness.hold("a"), 1)
    close_hour(harness)
    harness.clock.at += 10 * 3600
    run(harness.store.apply([Change(UNITS, 7, None)]))
    counters = MemoryCounterStore(harness.store)
    aggregator = UsageAggregator(harness.log, counters, EventRules(Secret(b"x" * 32), MemoryAccounts()), QuotaSection)
    fresh = Reconciler(
        "n", harness.store, counters, harness.log, aggregator, harness.clock, harness.journal, harness.ledger.invalidate
    )
    assert run(fresh.pass_once())
    assert harness.store.values[UNITS] == 1007


def test_unreadable_and_forged_events_are_listed(harness: Harness) -> None:
    hold = harness.hold("forged")
    harness.log.store(None, harness.clock.at)
    harness.report(hold.model_copy(update={"expires_at": hold.expires_at + 1}), 1)
    harness.report(hold, 10**12)
    reply = harness.verify()
    assert reply.ignored_count == 3
    assert {ignored.reason for ignored in reply.ignored} == {"unreadable", "unknown_hold", "absurd_amount"}


@pytest.mark.parametrize(
    ("event", "rule"),
    [
        (unheld("early", at=NOON - 3 * 86_400), "absurd_time"),
        (unheld("ahead", at=NOON + 40 * 86_400), "absurd_time"),
        (unheld("nobody", "k_ffffffffffffffff"), "unknown_tenant"),
        (unheld("word", "somebody"), "unknown_tenant"),
    ],
)
def test_work_without_a_hold_must_be_of_its_time_and_of_somebody_known(
    harness: Harness, event: UsageEvent, rule: str
) -> None:
    harness.log.store(event, harness.clock.at)
    assert run(harness.settler.settle(event)) == rule
    reply = harness.verify()
    assert [ignored.reason for ignored in reply.ignored] == [rule]
    assert reply.drift_count == 0
    harness.report(harness.hold("sound"), 2)
    close_hour(harness)
    assert harness.store.values[UNITS] == 2000
    assert corrections(harness) == 0


class Lenient(EventRules):
    """Knows everybody."""

    async def rejection_reason(self, event: UsageEvent, stored_at: float) -> str:
        assert min(event.at, stored_at) > 0
        return ""


def test_settled_work_is_not_charged_again_without_its_hold(harness: Harness) -> None:
    hold = harness.hold("once")
    harness.report(hold, 2)
    again = unheld("once", "k_a", work=Work(prompt_tokens=900))
    harness.log.store(again, harness.clock.at)
    harness.settler._rules = Lenient(Secret(b"x" * 32), MemoryAccounts())  # pyright: ignore[reportPrivateUsage]
    assert run(harness.settler.settle(again)) == "settled_before"
    assert harness.store.values[UNITS] == 2000


def test_correction_upwards_invalidates_every_process(harness: Harness) -> None:
    invalidated: list[str] = []

    async def invalidate(tenant: str) -> None:
        invalidated.append(tenant)

    harness.ledger._on_invalidate = invalidate  # pyright: ignore[reportPrivateUsage] - what the service wires to the bus
    harness.report(harness.hold("counted"), 50, settle=False)
    harness.clock.at = NOON + 3600 + CLOSING_S
    assert run(harness.make("w").pass_once())
    assert harness.store.values[UNITS] == 50_000
    assert invalidated == ["k_a"]


def test_of_two_amounts_for_one_request_the_settled_one_counts(harness: Harness) -> None:
    hold = harness.hold("twice")
    harness.report(hold, 4, settle=False)
    harness.report(hold, 2)
    run(harness.settler.settle(first_event(harness)))
    assert harness.store.values[UNITS] == 2000
    assert harness.verify().drift_count == 0
    close_hour(harness)
    assert harness.store.values[UNITS] == 2000


def test_of_two_amounts_for_one_expired_hold_the_charged_one_counts(harness: Harness) -> None:
    hold = harness.hold("twice")
    run(harness.ledger.expire(hold, "lease_over"))
    harness.report(hold, 4, settle=False)
    harness.report(hold, 2)
    run(harness.settler.settle(first_event(harness)))
    assert harness.store.values[UNITS] == 2000
    assert harness.verify().drift_count == 0


def first_event(harness: Harness) -> UsageEvent:
    event = harness.log.logged[0].event
    assert event is not None
    return event
