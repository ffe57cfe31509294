"""Any interleaving of reservations, extensions, settlements, expiries, releases, repeats and deaths against a model."""

from collections import Counter
from dataclasses import dataclass, field

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from callboard_contracts.quota import Hold
from callboard_quota.backends.memory import MemoryLedger
from callboard_quota.domain.decision import Granted, Refused
from callboard_quota.domain.ledger import Ledger
from callboard_quota.domain.limit_kinds import (
    JOBS_AT_ONCE,
    REQUESTS,
    REQUESTS_PER_MINUTE,
    TOKENS_PER_DAY,
    TOKENS_PER_MONTH,
)
from callboard_quota.domain.limits import Limit
from callboard_quota.domain.ports import Change
from callboard_quota.domain.windows import hour_bucket
from tests.unit.quota.interleaving import (
    NOON,
    Interleaving,
    ManualClock,
    Stepper,
    hold_request,
    leases_in,
    run,
    yield_once,
)

pytestmark = [pytest.mark.unit, pytest.mark.timeout(400)]

LIMITS = {
    "k_a": (Limit("key", "k_a", TOKENS_PER_DAY, 3_000), Limit("key", "k_a", JOBS_AT_ONCE, 3)),
    "k_b": (Limit("key", "k_b", TOKENS_PER_MONTH, 4_000), Limit("key", "k_b", REQUESTS_PER_MINUTE, 4)),
}
SITE = (Limit("site", "site", TOKENS_PER_DAY, 5_000), Limit("site", "site", JOBS_AT_ONCE, 4))
ALL_LIMITS = (*LIMITS["k_a"], *LIMITS["k_b"], *SITE)


@dataclass
class Granting:
    """A hold as the model knows it: what its counters hold for it at this moment, and what must remain."""

    hold: Hold
    taken: dict[int, int]
    reported: int | None = None


@dataclass
class Model:
    """Follows every change of a counter, and checks the limits at each grant."""

    clock: ManualClock
    changes: dict[str, dict[int, int]] = field(default_factory=dict[str, dict[int, int]])
    granted: dict[str, Granting] = field(default_factory=dict[str, Granting])

    def saw(self, change: Change, _value: int) -> None:
        """Applies a change that took effect; late charges belong to no hold and are left out."""
        if change.id is None:
            return
        hold_id, _, step = change.id.rpartition(".")
        if step[0] in "rs":
            taken = self.changes.setdefault(hold_id, {})
            taken[int(step[1:])] = taken.get(int(step[1:]), 0) + change.amount

    def grant(self, hold: Hold) -> None:
        """Adds a grant and checks that it was allowed."""
        self.granted[hold.id] = Granting(hold, self.changes[hold.id])
        for limit in ALL_LIMITS:
            assert self.used(limit) <= limit.maximum, limit.label

    def used(self, limit: Limit) -> int:
        """What granted holds take of a limit now."""
        hours = {hour_bucket(self.clock.now()), *limit.kind.window.earlier_buckets(self.clock.now())}
        by_bucket: dict[str, int] = {}
        for granting in self.granted.values():
            for n, entry in enumerate(granting.hold.entries):
                if (entry.tenant, entry.metric) == (limit.tenant, limit.kind.metric.name):
                    by_bucket[entry.bucket] = by_bucket.get(entry.bucket, 0) + granting.taken.get(n, 0)
        if limit.kind.metric is REQUESTS:
            return max(by_bucket.values(), default=0)
        return sum(value for bucket, value in by_bucket.items() if bucket in hours)

    def reported_units(self) -> dict[tuple[str, str], int]:
        """The reported units of all grants by tenant and bucket, without zeros."""
        sums: Counter[tuple[str, str]] = Counter()
        for granting in self.granted.values():
            for entry in granting.hold.entries:
                if entry.metric == "units":
                    sums[entry.tenant, entry.bucket] += granting.reported or 0
        return {key: units for key, units in sums.items() if units}


def _kinds() -> st.SearchStrategy[str]:
    return st.sampled_from(["reserve", "settle", "repeat", "expire", "release", "step", "step", "step", "kill", "wait"])


class LedgerInterleaving(Interleaving):
    """Two ledgers over one store."""

    def __init__(self, data: st.DataObject) -> None:
        super().__init__(data, ManualClock(NOON + data.draw(st.sampled_from([0.0, 1797.0, 1803.0]), label="start")))
        self.store = MemoryLedger(self.clock, yield_once)
        self.model = Model(self.clock)
        self.store.on_change = self.model.saw
        self.ledgers = [Ledger(self.store, self.clock) for _ in range(2)]

    def take_step(self, n: int) -> None:
        """One random step."""
        draw, ledger = self.data.draw, self.ledgers[n % 2]
        open_holds = list(self.model.granted.values())
        match draw(_kinds()):
            case "reserve":
                tenant = draw(st.sampled_from(["k_a", "k_b"]))
                units = draw(st.sampled_from([1, 700, 1500, 3_000]))
                request = hold_request(f"r{n}", *LIMITS[tenant], *SITE, units=units, tenant=tenant, at=self.clock.now())
                self.steppers.append(Stepper("reserve", ledger.reserve(request)))
            case "wait":
                self.clock.at += draw(st.sampled_from([0.2, 1.0, 45.0]))
            case "settle" | "repeat" if open_holds:
                granting = draw(st.sampled_from(open_holds))
                if granting.reported is None:
                    granting.reported = draw(st.integers(0, granting.hold.entries[0].amount))
                self.steppers.append(Stepper("settle", ledger.settle(granting.hold, granting.reported)))
            case "expire" if open_holds:
                self.steppers.append(
                    Stepper("expire", ledger.expire(draw(st.sampled_from(open_holds)).hold, "lease_over"))
                )
            case "release" if open_holds:
                unreported = [granting for granting in open_holds if granting.reported is None]
                if unreported:
                    self.steppers.append(Stepper("release", ledger.release(draw(st.sampled_from(unreported)).hold)))
            case kind:
                self.step_or_kill(kind, most_steps=6)

    def check_result(self, stepper: Stepper[object]) -> None:
        """Adds a grant to the model, which checks it."""
        if isinstance(stepper.result, Granted) and stepper.result.hold.id not in self.model.granted:
            self.model.grant(stepper.result.hold)
        elif isinstance(stepper.result, Refused):
            assert stepper.result.limit_usage.limit in ALL_LIMITS

    def finish(self) -> None:
        """Runs everything to its end: reports are delivered until they count, other holds end with their lease."""
        self.run_all()
        for granting in self.model.granted.values():
            if granting.reported is not None:
                run(self.ledgers[0].settle(granting.hold, granting.reported))
        for hold in run(leases_in(self.store)):
            run(self.ledgers[0].expire(hold, "lease_over"))

    def counted(self, metric: str) -> dict[tuple[str, str], int]:
        """The counters of a metric by tenant and bucket, without zeros."""
        found = self.store.values.items()
        return {(one.tenant, one.bucket): value for one, value in found if one.metric == metric and value}


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_nothing_is_admitted_over_a_limit_and_every_event_counts_once(data: st.DataObject) -> None:
    interleaving = LedgerInterleaving(data)
    try:
        for n in range(data.draw(st.integers(5, 60), label="steps")):
            interleaving.take_step(n)
        interleaving.finish()
    finally:
        interleaving.kill_all()
    assert run(leases_in(interleaving.store)) == []
    assert interleaving.counted("units") == interleaving.model.reported_units()
    assert interleaving.counted("jobs") == {}
