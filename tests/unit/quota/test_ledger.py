"""The ledger's decisions on one caller at a time."""

import dataclasses
from collections.abc import Sequence
from datetime import UTC, datetime

import pytest

from callboard_contracts.quota import Hold
from callboard_contracts.streams import DEDUPLICATION_WINDOW_S
from callboard_quota.backends.memory import MemoryCounterStore, MemoryJournal, MemoryLedger
from callboard_quota.domain.changes import audit_event
from callboard_quota.domain.decision import Granted, Refused
from callboard_quota.domain.ledger import HELD_RETRY_S, Ledger
from callboard_quota.domain.limit_kinds import (
    JOBS_AT_ONCE,
    KUDOS,
    REQUESTS_PER_MINUTE,
    TOKENS_PER_DAY,
    TOKENS_PER_MONTH,
    UNITS,
)
from callboard_quota.domain.limits import Limit, kudos_limit
from callboard_quota.domain.ports import Applied, Change, Counter, StoreUnavailable
from callboard_quota.domain.reaper import Reaper
from callboard_quota.domain.windows import hour_bucket
from tests.unit.quota.interleaving import NOON, ManualClock, Stepper, hold_request, leases_in, run, yield_once

pytestmark = pytest.mark.unit

DAY = Limit("key", "k_a", TOKENS_PER_DAY, 10_000)
MONTH = Limit("key", "k_a", TOKENS_PER_MONTH, 10_000)
MINUTE = Limit("key", "k_a", REQUESTS_PER_MINUTE, 2)
JOBS = Limit("key", "k_a", JOBS_AT_ONCE, 2)
ADDRESS = Limit("address", "i_b", TOKENS_PER_DAY, 3_000)


def make_ledger(at: float = NOON) -> tuple[ManualClock, MemoryLedger, Ledger]:
    clock = ManualClock(at)
    store = MemoryLedger(clock, yield_once)
    return clock, store, Ledger(store, clock)


def granted(outcome: Granted | Refused) -> Granted:
    assert isinstance(outcome, Granted), outcome
    return outcome


def refused(outcome: Granted | Refused) -> Refused:
    assert isinstance(outcome, Refused), outcome
    return outcome


def units(store: MemoryLedger, tenant: str = "k_a", at: float = NOON) -> int:
    return store.values.get(Counter(tenant, "units", hour_bucket(at)), 0)


def test_hold_is_granted_up_to_the_limit_and_refused_beyond() -> None:
    _clock, store, ledger = make_ledger()
    assert granted(run(ledger.reserve(hold_request("a", DAY, units=6_000)))).hold
    assert granted(run(ledger.reserve(hold_request("b", DAY, units=4_000))))
    refusal = refused(run(ledger.reserve(hold_request("c", DAY, units=1))))
    assert refusal.limit_usage.limit is DAY
    assert units(store) == 10_000
    assert len(run(leases_in(store))) == 2


def test_grant_tells_the_fullest_limit_of_each_metric() -> None:
    _clock, _store, ledger = make_ledger()
    outcome = granted(run(ledger.reserve(hold_request("a", DAY, ADDRESS, MONTH, MINUTE, JOBS, units=2_000))))
    assert [(limit_usage.limit, limit_usage.used) for limit_usage in outcome.limit_usages] == [
        (ADDRESS, 2_000),
        (MINUTE, 1),
        (JOBS, 1),
    ]


def test_refusal_of_one_limit_takes_nothing_from_the_others() -> None:
    _clock, store, ledger = make_ledger()
    refusal = refused(run(ledger.reserve(hold_request("a", DAY, ADDRESS, JOBS, units=5_000))))
    assert refusal.limit_usage.limit is ADDRESS
    assert all(value == 0 for value in store.values.values())
    assert run(leases_in(store)) == []


def test_settlement_returns_what_was_not_used_and_counts_once() -> None:
    _clock, store, ledger = make_ledger()
    hold = granted(run(ledger.reserve(hold_request("a", DAY, JOBS, units=6_000)))).hold
    assert run(ledger.settle(hold, 2_500)).first
    assert not run(ledger.settle(hold, 4_000)).first
    assert units(store) == 2_500
    assert store.values[Counter("k_a", "jobs", hour_bucket(NOON))] == 0
    assert run(leases_in(store)) == []


def test_expired_hold_returns_everything_and_late_work_is_charged_once() -> None:
    clock, store, ledger = make_ledger()
    hold = granted(run(ledger.reserve(hold_request("a", DAY, ADDRESS, units=2_000)))).hold
    clock.at += 400
    assert run(ledger.expire(hold, "lease_over")).first
    assert units(store) == 0
    assert run(ledger.settle(hold, 700)).late
    assert not run(ledger.settle(hold, 900)).first
    assert units(store) == units(store, "i_b") == 700


def test_release_gives_the_request_count_back_too() -> None:
    _clock, _store, ledger = make_ledger()
    holds = [granted(run(ledger.reserve(hold_request(name, MINUTE)))).hold for name in "ab"]
    refusal = refused(run(ledger.reserve(hold_request("c", MINUTE))))
    assert refusal.retry_after_s == 60.0 - NOON % 60
    assert run(ledger.release(holds[0])).first
    assert not run(ledger.release(holds[0])).first
    assert granted(run(ledger.reserve(hold_request("d", MINUTE))))


def test_settled_request_still_counts_for_the_minute() -> None:
    clock, _store, ledger = make_ledger()
    for name in "ab":
        run(ledger.settle(granted(run(ledger.reserve(hold_request(name, MINUTE)))).hold, 10))
    assert refused(run(ledger.reserve(hold_request("c", MINUTE))))
    clock.at += 60
    assert granted(run(ledger.reserve(hold_request("d", MINUTE, at=clock.at))))


def test_jobs_at_once_frees_with_each_end() -> None:
    _clock, _store, ledger = make_ledger()
    holds = [granted(run(ledger.reserve(hold_request(name, JOBS)))).hold for name in "ab"]
    assert refused(run(ledger.reserve(hold_request("c", JOBS)))).retry_after_s == 1.0
    run(ledger.settle(holds[0], 1))
    assert granted(run(ledger.reserve(hold_request("d", JOBS))))


def test_job_that_crosses_the_hour_still_counts_and_frees_after() -> None:
    clock, _store, ledger = make_ledger(NOON + 1790)
    holds = [granted(run(ledger.reserve(hold_request(name, JOBS, at=clock.at)))).hold for name in "ab"]
    clock.at += 60
    assert refused(run(ledger.reserve(hold_request("c", JOBS, at=clock.at))))
    run(ledger.settle(holds[0], 1))
    clock.at += 0.3
    assert granted(run(ledger.reserve(hold_request("d", JOBS, at=clock.at))))


def test_day_slides_and_says_when_enough_frees() -> None:
    clock, _store, ledger = make_ledger()
    for hour in range(5):
        clock.at = NOON + hour * 3600
        hold = granted(run(ledger.reserve(hold_request(f"a{hour}", DAY, units=2_000, at=clock.at)))).hold
        run(ledger.settle(hold, 2_000))
    refusal = refused(run(ledger.reserve(hold_request("b", DAY, units=3_000, at=clock.at))))
    # Two buckets of 2,000 have to leave; the second began at 13:00 and leaves at 14:00 the next day.
    assert refusal.retry_after_s is not None
    frees_at = clock.at + refusal.retry_after_s
    assert frees_at == datetime(2026, 11, 21, 14, 0, tzinfo=UTC).timestamp()
    clock.at = frees_at - 1
    assert refused(run(ledger.reserve(hold_request("c", DAY, units=3_000, at=clock.at))))
    clock.at = frees_at
    assert granted(run(ledger.reserve(hold_request("d", DAY, units=3_000, at=clock.at))))


def test_request_larger_than_the_limit_is_refused_without_a_time() -> None:
    _clock, store, ledger = make_ledger()
    assert refused(run(ledger.reserve(hold_request("a", DAY, units=10_001)))).retry_after_s is None
    assert store.values == {}


@pytest.mark.parametrize(
    ("last", "first"),
    [
        (datetime(2026, 11, 30, 23, 59, 30, tzinfo=UTC), datetime(2026, 12, 1, 0, 0, 10, tzinfo=UTC)),
        (datetime(2027, 2, 28, 23, 59, 30, tzinfo=UTC), datetime(2027, 3, 1, 0, 0, 10, tzinfo=UTC)),
        (datetime(2028, 2, 29, 23, 59, 30, tzinfo=UTC), datetime(2028, 3, 1, 0, 0, 10, tzinfo=UTC)),
        (datetime(2026, 12, 31, 23, 59, 30, tzinfo=UTC), datetime(2027, 1, 1, 0, 0, 10, tzinfo=UTC)),
    ],
)
def test_month_begins_anew_with_the_calendar(last: datetime, first: datetime) -> None:
    clock, _store, ledger = make_ledger(last.replace(day=1, hour=0).timestamp())
    run(ledger.settle(granted(run(ledger.reserve(hold_request("a", MONTH, units=9_000, at=clock.at)))).hold, 9_000))
    clock.at = last.timestamp()
    refusal = refused(run(ledger.reserve(hold_request("b", MONTH, units=2_000, at=clock.at))))
    assert refusal.retry_after_s == 30.0
    clock.at = first.timestamp()
    assert granted(run(ledger.reserve(hold_request("c", MONTH, units=9_000, at=clock.at))))


@pytest.mark.parametrize("day", [datetime(2026, 3, 29, tzinfo=UTC), datetime(2026, 10, 25, tzinfo=UTC)])
def test_daylight_saving_changes_nothing(day: datetime) -> None:
    clock, store, ledger = make_ledger(day.timestamp())
    for hour in range(24):
        clock.at = day.timestamp() + hour * 3600
        assert granted(run(ledger.reserve(hold_request(f"a{hour}", DAY, units=400, at=clock.at))))
    assert len([counter for counter in store.values if counter.metric == "units"]) == 25
    assert refused(run(ledger.reserve(hold_request("b", DAY, units=401, at=clock.at))))


def test_two_clocks_at_the_turn_of_the_hour_never_admit_too_much() -> None:
    turn = NOON + 1800
    early, late = ManualClock(turn - 0.5), ManualClock(turn + 0.5)
    store = MemoryLedger(early, yield_once)
    steppers = [
        Stepper("early", Ledger(store, early).reserve(hold_request("a", DAY, units=6_000))),
        Stepper("late", Ledger(store, late).reserve(hold_request("b", DAY, units=6_000))),
    ]
    while not all(stepper.done for stepper in steppers):
        for stepper in steppers:
            if not stepper.done:
                stepper.step()
    assert sum(isinstance(stepper.result, Granted) for stepper in steppers) <= 1


def test_failing_store_grants_nothing_and_the_reaper_ends_the_rest() -> None:
    clock, store, ledger = make_ledger()
    store.failing = True
    with pytest.raises(StoreUnavailable):
        run(ledger.reserve(hold_request("a", DAY, JOBS)))
    store.failing = False
    assert len(ledger.unconfirmed_holds) == 1
    run(ledger.expire(ledger.unconfirmed_holds[0], "unknown_outcome"))
    assert all(value == 0 for value in store.values.values())
    assert run(leases_in(store)) == []
    assert clock.at == NOON


def test_confirmation_that_comes_too_late_grants_nothing() -> None:
    clock, store, ledger = make_ledger()
    stepper = Stepper("slow", ledger.reserve(hold_request("a", DAY)))
    stepper.step()
    clock.at += 2.5
    with pytest.raises(StoreUnavailable):
        stepper.run()
    assert units(store) == 0


def test_unconfirmed_hold_whose_ids_may_be_forgotten_is_left_to_its_lease() -> None:
    clock, store, ledger = make_ledger()
    earned = Change(Counter("k_a", "kudos", "ever"), -1_000, "earned")
    run(store.apply([earned]))
    open_ = store.open

    async def unconfirmed(hold: Hold, changes: Sequence[Change], timeout_s: float = 0.0) -> list[Applied]:
        await open_(hold, changes, timeout_s)
        raise StoreUnavailable("no acknowledgement in time")

    store.open = unconfirmed
    with pytest.raises(StoreUnavailable):
        run(ledger.reserve(hold_request("a", kudos_limit("k_a"))))
    assert store.values[Counter("k_a", "kudos", "ever")] == -999
    clock.at += DEDUPLICATION_WINDOW_S + 1
    counters = MemoryCounterStore(store)
    run(Reaper(store, ledger, clock, MemoryJournal(), counters).pass_once())
    assert ledger.unconfirmed_holds == []
    assert store.values[Counter("k_a", "kudos", "ever")] == -1_000


def test_kudos_of_a_settlement_that_was_cut_off_stay_charged_when_its_ids_may_be_forgotten() -> None:
    clock, store, ledger = make_ledger()
    run(store.apply([Change(Counter("k_a", "kudos", "ever"), -1_000, "earned")]))
    request = dataclasses.replace(
        hold_request("a", kudos_limit("k_a")), amounts={("k_a", UNITS): 1000, ("k_a", KUDOS): 30}
    )
    hold = granted(run(ledger.reserve(request))).hold
    run(store.record_outcome(audit_event("settled", hold, clock.at, units=10).model_copy(update={"kudos": 20})))
    clock.at += DEDUPLICATION_WINDOW_S + 1
    run(Reaper(store, ledger, clock, MemoryJournal(), MemoryCounterStore(store)).pass_once())
    assert store.values[Counter("k_a", "kudos", "ever")] == -980
    assert not run(leases_in(store))


@pytest.mark.parametrize("late", [True, False], ids=["late", "over the hold"])
def test_window_that_grew_is_invalidated_in_every_process(late: bool) -> None:
    clock = ManualClock()
    store = MemoryLedger(clock, yield_once)
    ledgers: list[Ledger] = []

    async def invalidate(tenant: str) -> None:
        for ledger in ledgers:
            ledger.window_cache.invalidate(tenant)

    ledgers += [Ledger(store, clock, on_invalidate=invalidate) for _ in range(2)]
    hold = granted(run(ledgers[0].reserve(hold_request("a", DAY, units=100)))).hold
    if late:
        run(ledgers[0].expire(hold, "lease_over"))
    clock.at += 1_900
    for ledger in ledgers:
        assert granted(run(ledger.reserve(hold_request("b", DAY, units=1, at=clock.at))))
    run(ledgers[0].settle(hold, 9_500))
    for ledger in ledgers:
        assert refused(run(ledger.reserve(hold_request("c", DAY, units=1_000, at=clock.at))))


def test_window_that_grows_while_it_is_read_is_read_again() -> None:
    _clock, store, ledger = make_ledger()
    stepper = Stepper("reading", ledger.reserve(hold_request("a", DAY, units=1)))
    stepper.step()
    run(ledger.invalidate("k_a"))
    assert granted(stepper.run())
    reads: list[int] = []
    read = store.read

    async def counted(counters: Sequence[Counter]) -> dict[Counter, int]:
        reads.append(len(counters))
        return await read(counters)

    store.read = counted
    for n in range(3):
        assert granted(run(ledger.reserve(hold_request(f"b{n}", DAY, units=1))))
    assert len(reads) == 1


def test_refusal_that_only_open_holds_cause_is_worth_a_short_wait() -> None:
    clock, _store, ledger = make_ledger()
    hold = granted(run(ledger.reserve(hold_request("a", DAY, units=8_000)))).hold
    assert refused(run(ledger.reserve(hold_request("b", DAY, units=3_000)))).retry_after_s == HELD_RETRY_S
    assert refused(run(ledger.reserve(hold_request("c", DAY, units=10_001)))).retry_after_s is None
    run(ledger.settle(hold, 8_000))
    late = refused(run(ledger.reserve(hold_request("d", DAY, units=3_000)))).retry_after_s
    assert late == 25 * 3600 - clock.at % 3600


def test_day_frees_when_its_earliest_use_leaves_it() -> None:
    clock, _store, ledger = make_ledger()
    resets: list[float] = []
    for hours in (0, 1, 5):
        clock.at = NOON + hours * 3600
        outcome = granted(run(ledger.reserve(hold_request(f"r{hours}", DAY, units=1, at=clock.at))))
        resets.append(outcome.limit_usages[0].resets_in_s)
        assert run(ledger.limit_usages([DAY]))[0].resets_in_s == resets[-1]
    first = NOON // 3600 * 3600 + 25 * 3600
    assert resets == [first - NOON - hours * 3600 for hours in (0, 1, 5)]
    clock.at = first
    assert (
        granted(run(ledger.reserve(hold_request("later", DAY, units=1, at=clock.at)))).limit_usages[0].resets_in_s
        == 3600
    )


def test_use_of_the_hour_just_over_frees_when_that_hour_leaves_the_day() -> None:
    turn = NOON + 1800
    clock = ManualClock(turn - 60)
    store = MemoryLedger(clock, yield_once)
    ledger = Ledger(store, clock)
    run(ledger.settle(granted(run(ledger.reserve(hold_request("a", DAY, units=10_000, at=clock.at)))).hold, 10_000))
    clock.at = turn + 3
    outcome = refused(run(ledger.reserve(hold_request("b", DAY, units=1, at=clock.at))))
    assert outcome.retry_after_s == 24 * 3600 - 3


def test_hold_that_was_over_before_it_was_taken_is_not_granted() -> None:
    clock, store, ledger = make_ledger()
    stepper = Stepper("late", ledger.reserve(hold_request("a", kudos_limit("k_a"), at=clock.at - 400)))
    while not run(leases_in(store)):
        stepper.step()
    run(Reaper(store, Ledger(store, clock), clock, MemoryJournal(), MemoryCounterStore(store)).pass_once())
    with pytest.raises(StoreUnavailable):
        stepper.run()
    assert set(store.values.values()) == {0}


def test_cached_window_never_hides_what_freed() -> None:
    clock, _store, ledger = make_ledger()
    hold = granted(run(ledger.reserve(hold_request("a", DAY, units=9_000)))).hold
    clock.at += 2 * 3600 + 100
    assert refused(run(ledger.reserve(hold_request("b", DAY, units=2_000, at=clock.at))))
    clock.at += 1
    run(ledger.settle(hold, 1_000))
    assert granted(run(ledger.reserve(hold_request("c", DAY, units=2_000, at=clock.at))))


def test_other_callers_changes_do_not_reuse_a_request_id() -> None:
    _clock, store, ledger = make_ledger()
    first = granted(run(ledger.reserve(hold_request("a", DAY)))).hold
    second = granted(run(ledger.reserve(hold_request("a", DAY)))).hold
    assert first.id != second.id
    assert units(store) == 2_000


def test_memory_store_forgets_ids_only_after_the_window() -> None:
    clock, store, _ledger = make_ledger()
    change = Change(Counter("k_a", "units", "h2026112012"), 5, "x")
    assert not run(store.apply([change]))[0].duplicate
    clock.at += 7100
    assert run(store.apply([change]))[0].duplicate
    clock.at += 200
    assert not run(store.apply([change]))[0].duplicate
