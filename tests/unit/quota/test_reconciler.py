"""Closing hours, charging what came late, and verification, over the ledger in memory."""

from collections.abc import Callable
from dataclasses import dataclass

import pytest

from callboard_contracts.config import QuotaSection
from callboard_contracts.quota import Hold, UsageEvent, VerifyReply, VerifyRequest, Work
from callboard_quota.backends.memory import (
    MemoryAccounts,
    MemoryCounterStore,
    MemoryJournal,
    MemoryLedger,
    MemoryUsageLog,
)
from callboard_quota.domain.decision import Granted
from callboard_quota.domain.event_rules import EventRules
from callboard_quota.domain.ledger import Ledger
from callboard_quota.domain.limits import Limit
from callboard_quota.domain.ports import Change, Counter
from callboard_quota.domain.reaper import Reaper
from callboard_quota.domain.reconciler import Reconciler
from callboard_quota.domain.settlement import Settler
from callboard_quota.domain.tenants import Secret
from callboard_quota.domain.usage_totals import UsageAggregator
from callboard_quota.domain.verification import Verifier
from callboard_quota.domain.windows import CLOSING_S, SETTLE_GRACE_S, hour_bucket
from tests.unit.quota.interleaving import NOON, ManualClock, Stepper, ask, run, unheld, yield_once

pytestmark = pytest.mark.unit

JOBS = Limit("key", "k_a", "jobs_at_once", 5)
HOUR = hour_bucket(NOON)
UNITS = Counter("k_a", "units", HOUR)


@dataclass
class Stage:
    """Everything that a quota process wires, over memory."""

    clock: ManualClock
    store: MemoryLedger
    log: MemoryUsageLog
    journal: MemoryJournal
    ledger: Ledger
    settler: Settler
    reaper: Reaper
    verifier: Verifier
    make: Callable[[str], Reconciler]

    def hold(self, name: str, units: int = 5000) -> Hold:
        """Takes a hold that must be granted."""
        outcome = run(self.ledger.reserve(ask(name, JOBS, units=units, at=self.clock.at)))
        assert isinstance(outcome, Granted)
        return outcome.hold

    def report(self, hold: Hold, tokens: int, *, settle: bool = True) -> None:
        """Stores a usage event, and settles it unless the settlement is to be lost."""
        event = UsageEvent(
            request_id=hold.request_id,
            tenant=hold.tenant,
            kind="chat",
            model="owl",
            pool="main",
            work=Work(prompt_tokens=tokens),
            outcome="stop",
            hold=hold,
            at=self.clock.at,
        )
        self.log.store(event, self.clock.at)
        if settle:
            run(self.settler.settle(event))

    def verify(self) -> VerifyReply:
        """Verifies the last hours."""
        return run(self.verifier.verify(VerifyRequest(since=NOON - 3600)))


@pytest.fixture
def stage() -> Stage:
    """A ledger at noon whose reconciler has made its first pass, so that its note stands."""
    clock = ManualClock()
    store = MemoryLedger(clock, yield_once)
    log, counters, journal = MemoryUsageLog(), MemoryCounterStore(store), MemoryJournal()
    secret = Secret(b"x" * 32)
    ledger = Ledger(store, clock, secret.signed)
    settings = QuotaSection()
    rules = EventRules(secret, MemoryAccounts())
    aggregator = UsageAggregator(log, counters, rules, lambda: settings)

    def make(name: str) -> Reconciler:
        return Reconciler(name, store, counters, log, aggregator, clock, journal, ledger.raised)

    async def pause(_seconds: float) -> None:
        await yield_once()

    settler = Settler(settings, rules, ledger, counters, clock, journal)
    reaper = Reaper(store, ledger, clock, journal, MemoryCounterStore(store).stands)
    verifier = Verifier(store, counters, log, aggregator, clock, pause)
    run(make("first").pass_once())
    return Stage(clock, store, log, journal, ledger, settler, reaper, verifier, make)


def close_hour(stage: Stage) -> None:
    stage.clock.at = NOON + 3600 + CLOSING_S
    run(stage.reaper.pass_once())
    assert run(stage.make("w").pass_once())


def corrections(stage: Stage) -> int:
    return sum(event.kind == "corrected" for event in stage.journal.events)


def test_settled_hours_need_no_correction(stage: Stage) -> None:
    for n in range(20):
        stage.report(stage.hold(f"r{n}"), n)
    assert stage.verify().drift_count == 0
    close_hour(stage)
    assert corrections(stage) == 0
    assert stage.verify().drift_count == 0


def test_lost_settlement_and_lost_lease_are_corrected_when_the_hour_closes(stage: Stage) -> None:
    stage.report(stage.hold("settled"), 1)
    lost = stage.hold("lost")
    run(stage.store.close(lost))
    stage.report(lost, 2, settle=False)
    leaked = stage.hold("leaked")
    run(stage.store.close(leaked))
    assert stage.verify().drift_units == (5000 - 2000) + 5000 + 2
    close_hour(stage)
    assert stage.store.values[UNITS] == 3000
    assert stage.verify().drift_count == 0
    before = corrections(stage)
    run(stage.make("w").pass_once())
    assert corrections(stage) == before


def test_closed_hour_keeps_only_what_was_charged(stage: Stage) -> None:
    limits = (JOBS, Limit("key", "k_a", "requests_per_minute", 5))
    outcome = run(stage.ledger.reserve(ask("a", *limits, at=stage.clock.at)))
    assert isinstance(outcome, Granted)
    stage.report(outcome.hold, 1)
    assert {counter.metric for counter in stage.store.values} == {"units", "jobs", "requests"}
    close_hour(stage)
    assert {counter.metric for counter in stage.store.values if counter.bucket[1:11] == HOUR[1:]} == {"units"}


def test_open_holds_are_no_drift(stage: Stage) -> None:
    stage.hold("open")
    reply = stage.verify()
    assert (reply.drift_count, reply.open_holds) == (0, 1)


def test_event_after_the_hour_is_closed_is_charged_once_and_a_replay_never(stage: Stage) -> None:
    hold = stage.hold("late")
    in_time = stage.hold("in-time")
    stage.report(in_time, 1)
    close_hour(stage)
    assert stage.store.values[UNITS] == 1000
    stage.clock.at += 86_400
    stage.report(hold, 3)
    stage.report(hold, 4)
    stage.report(in_time, 2)
    for worker in ("w", "v"):
        run(stage.make(worker).pass_once())
    assert stage.store.values[UNITS] == 4000
    reply = stage.verify()
    assert reply.drift_count == 0
    assert [ignored.reason for ignored in reply.ignored] == ["repeated", "repeated"]


def test_event_that_comes_too_late_to_settle_is_left_to_the_closing(stage: Stage) -> None:
    hold = stage.hold("slow")
    stage.clock.at = hold.expires_at + 1
    run(stage.reaper.pass_once())
    stage.clock.at = hold.expires_at + SETTLE_GRACE_S + 1
    stage.report(hold, 3)
    assert stage.store.values[UNITS] == 0
    close_hour(stage)
    assert stage.store.values[UNITS] == 3000


def test_two_reconcilers_at_once_correct_once(stage: Stage) -> None:
    leaked = stage.hold("leaked")
    run(stage.store.close(leaked))
    stage.clock.at = NOON + 3600 + CLOSING_S
    one, other = stage.make("one"), stage.make("other")
    first = Stepper("first", one.pass_once())
    for _ in range(3):
        first.step()
    run(other.pass_once())
    stage.clock.at += 400
    assert run(other.pass_once())
    first.run()
    assert stage.store.values[UNITS] == 0
    assert stage.verify().drift_count == 0


def test_failed_pass_is_completed_by_the_next(stage: Stage) -> None:
    for n in range(3):
        run(stage.store.close(stage.hold(f"leaked{n}")))
    stage.clock.at = NOON + 3600 + CLOSING_S
    stage.store.failing = True
    with pytest.raises(Exception, match="told to fail"):
        run(stage.make("w").pass_once())
    stage.store.failing = False
    run(stage.make("w").pass_once())
    assert stage.store.values[UNITS] == 0


def test_note_that_was_lost_does_not_touch_old_hours(stage: Stage) -> None:
    stage.report(stage.hold("a"), 1)
    close_hour(stage)
    stage.clock.at += 10 * 3600
    run(stage.store.apply([Change(UNITS, 7, None)]))
    counters = MemoryCounterStore(stage.store)
    keeper = UsageAggregator(stage.log, counters, EventRules(Secret(b"x" * 32), MemoryAccounts()), QuotaSection)
    fresh = Reconciler("n", stage.store, counters, stage.log, keeper, stage.clock, stage.journal, stage.ledger.raised)
    assert run(fresh.pass_once())
    assert stage.store.values[UNITS] == 1007


def test_unreadable_and_forged_events_are_listed(stage: Stage) -> None:
    hold = stage.hold("forged")
    stage.log.store(None, stage.clock.at)
    stage.report(hold.model_copy(update={"expires_at": hold.expires_at + 1}), 1)
    stage.report(hold, 10**12)
    reply = stage.verify()
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
    stage: Stage, event: UsageEvent, rule: str
) -> None:
    stage.log.store(event, stage.clock.at)
    assert run(stage.settler.settle(event)) == rule
    reply = stage.verify()
    assert [ignored.reason for ignored in reply.ignored] == [rule]
    assert reply.drift_count == 0
    stage.report(stage.hold("sound"), 2)
    close_hour(stage)
    assert stage.store.values[UNITS] == 2000
    assert corrections(stage) == 0


class Lenient(EventRules):
    """Knows everybody."""

    async def rejection_reason(self, event: UsageEvent, stored_at: float) -> str:
        assert min(event.at, stored_at) > 0
        return ""


def test_settled_work_is_not_charged_again_without_its_hold(stage: Stage) -> None:
    hold = stage.hold("once")
    stage.report(hold, 2)
    again = unheld("once", "k_a", work=Work(prompt_tokens=900))
    stage.log.store(again, stage.clock.at)
    stage.settler._rules = Lenient(Secret(b"x" * 32), MemoryAccounts())  # pyright: ignore[reportPrivateUsage]
    assert run(stage.settler.settle(again)) == "settled_before"
    assert stage.store.values[UNITS] == 2000


def test_correction_upwards_is_told_to_every_process(stage: Stage) -> None:
    told: list[str] = []

    async def tell(tenant: str) -> None:
        told.append(tenant)

    stage.ledger._on_raise = tell  # pyright: ignore[reportPrivateUsage] - what the service wires to the bus
    stage.report(stage.hold("counted"), 50, settle=False)
    stage.clock.at = NOON + 3600 + CLOSING_S
    assert run(stage.make("w").pass_once())
    assert stage.store.values[UNITS] == 50_000
    assert told == ["k_a"]


def test_of_two_amounts_for_one_request_the_settled_one_counts(stage: Stage) -> None:
    hold = stage.hold("twice")
    stage.report(hold, 4, settle=False)
    stage.report(hold, 2)
    run(stage.settler.settle(first_event(stage)))
    assert stage.store.values[UNITS] == 2000
    assert stage.verify().drift_count == 0
    close_hour(stage)
    assert stage.store.values[UNITS] == 2000


def test_of_two_amounts_for_one_expired_hold_the_charged_one_counts(stage: Stage) -> None:
    hold = stage.hold("twice")
    run(stage.ledger.expire(hold, "lease_over"))
    stage.report(hold, 4, settle=False)
    stage.report(hold, 2)
    run(stage.settler.settle(first_event(stage)))
    assert stage.store.values[UNITS] == 2000
    assert stage.verify().drift_count == 0


def first_event(stage: Stage) -> UsageEvent:
    event = stage.log.logged[0].event
    assert event is not None
    return event
