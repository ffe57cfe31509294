"""Counters that a power cut left wrong, put right from usage events and open holds."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from callboard_contracts.quota import Drift, Hold
from callboard_quota.domain.decision import Granted
from callboard_quota.domain.ports import Counter
from callboard_quota.domain.windows import hour_bucket
from tests.unit.quota.hours import JOBS, Harness, new_harness
from tests.unit.quota.interleaving import NOON, hold_request, run

pytestmark = pytest.mark.unit

UNITS = Counter("k_a", "units", hour_bucket(NOON))


@pytest.fixture
def harness() -> Harness:
    return new_harness()


def test_lost_settlement_is_made_up_for(harness: Harness) -> None:
    harness.report(harness.hold("r1", units=5000), 2)
    harness.store.lose_newest(changes=2, removals=0)
    assert harness.verify().drift_count == 2
    reply = harness.repair()
    assert (reply.corrected_count, reply.drift_count) == (2, 0)
    assert harness.store.values[UNITS] == 2000


def test_lease_that_came_back_is_ended_as_it_was(harness: Harness) -> None:
    harness.report(harness.hold("r1", units=5000), 2)
    harness.store.lose_newest(changes=2, removals=1)
    assert harness.repair().drift_count == 0
    assert harness.store.values[UNITS] == 2000
    assert harness.verify().open_holds == 0


def test_open_hold_gets_its_increments_back_and_is_settled_as_ever(harness: Harness) -> None:
    hold = harness.hold("r1", units=5000)
    harness.store.lose_newest(changes=2, removals=0)
    reply = harness.repair()
    assert (reply.corrected_count, reply.open_holds) == (0, 1), "the hold's own ids were enough"
    assert harness.store.values[UNITS] == 5000
    harness.report(hold, 3)
    assert harness.store.values[UNITS] == 3000
    assert harness.verify().drift_count == 0


def test_counters_that_agree_are_left_alone(harness: Harness) -> None:
    harness.report(harness.hold("r1"), 2)
    before = dict(harness.store.values)
    assert harness.repair().corrected_count == 0
    assert harness.store.values == before


def test_each_correction_is_in_the_journal(harness: Harness) -> None:
    harness.report(harness.hold("r1", units=5000), 2)
    harness.store.lose_newest(changes=2, removals=0)
    harness.repair()
    corrected = [event for event in harness.journal.events if event.kind == "corrected"]
    assert {event.reason for event in corrected} == {"counters_repaired"}
    assert sorted(event.units for event in corrected) == [-3000, -1]


def test_event_that_nobody_has_settled_yet_is_settled_and_not_taken_for_a_loss(harness: Harness) -> None:
    harness.report(harness.hold("r1", units=5000), 2, settle=False)
    assert harness.verify().drift_count > 0
    reply = harness.repair()
    assert (reply.corrected_count, reply.drift_count, reply.open_holds) == (0, 0, 0)
    assert harness.store.values[UNITS] == 2000


def test_counter_that_changes_meanwhile_is_corrected_by_what_it_lacks(harness: Harness) -> None:
    harness.report(harness.hold("r1", units=5000), 2)
    harness.store.lose_newest(changes=2, removals=0)
    before, work = harness.verifier.compare, iter(range(100))

    async def busy(since: float) -> dict[Counter, Drift]:
        found = await before(since)
        if (n := next(work)) < 30:
            outcome = await harness.ledger.reserve(hold_request(f"busy{n}", JOBS, units=1000, at=harness.clock.at))
            assert isinstance(outcome, Granted)
            await harness.ledger.release(outcome.hold)
        return found

    harness.verifier.compare = busy
    assert harness.repair().drift_count == 0
    assert harness.store.values[UNITS] == 2000


def test_counter_that_is_wrong_by_the_same_amount_again_is_corrected_again(harness: Harness) -> None:
    for n in range(3):
        harness.report(harness.hold(f"r{n}", units=5000), 0)
        harness.store.lose_newest(changes=2, removals=0)
        assert harness.repair().drift_count == 0
        assert harness.store.values[UNITS] == 0


@settings(max_examples=150, deadline=None)
@given(
    steps=st.lists(st.tuples(st.sampled_from(["hold", "report", "release", "expire"]), st.integers(0, 4)), max_size=20),
    changes=st.integers(0, 12),
    removals=st.integers(0, 6),
    again=st.booleans(),
)
def test_whatever_is_lost_nothing_differs_after_a_repair_nor_when_all_holds_have_ended(
    steps: list[tuple[str, int]], changes: int, removals: int, *, again: bool
) -> None:
    harness = new_harness()
    holds: list[Hold] = []
    for n, (step, which) in enumerate(steps):
        if step == "hold" or not holds:
            if len(holds) < 5:
                holds.append(harness.hold(f"r{n}", units=1000 * (which + 1)))
            continue
        hold = holds.pop(which % len(holds))
        if step == "report":
            harness.report(hold, which)
        elif step == "release":
            run(harness.ledger.release(hold))
        else:
            run(harness.ledger.expire(hold, "lease_over"))
    harness.store.lose_newest(changes, removals)
    assert harness.repair().drift_count == 0
    if again:
        assert harness.repair().corrected_count == 0
    for which, hold in enumerate(holds):
        harness.report(hold, which)
    assert harness.verify().drift_count == 0
    assert harness.verify().open_holds == 0
