"""Any interleaving of reservations, top-ups, settlements, expiries, releases, repeats and deaths against a model."""

from dataclasses import dataclass, field

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from callboard_contracts.quota import Hold
from callboard_quota.backends.memory import MemoryLedger
from callboard_quota.domain.attempt import Granted, Refused
from callboard_quota.domain.ledger import Ledger
from callboard_quota.domain.limits import Limit
from callboard_quota.domain.ports import Change, StoreUnavailable
from callboard_quota.domain.windows import earlier_buckets, hour_bucket
from tests.unit.quota.stage import NOON, Act, HandClock, ask, give_way, run

pytestmark = pytest.mark.unit

LIMITS = {
    "k_a": (Limit("key", "k_a", "tokens_per_day", 3_000), Limit("key", "k_a", "jobs_at_once", 3)),
    "k_b": (Limit("key", "k_b", "tokens_per_month", 4_000), Limit("key", "k_b", "requests_per_minute", 4)),
}
SITE = (Limit("site", "site", "tokens_per_day", 5_000), Limit("site", "site", "jobs_at_once", 4))
ALL_LIMITS = (*LIMITS["k_a"], *LIMITS["k_b"], *SITE)


@dataclass
class Granting:
    """A hold as the model knows it: what its counters hold for it at this moment, and what must remain."""

    hold: Hold
    taken: dict[int, int]
    reported: int | None = None


@dataclass
class Model:
    """Follows every change of a counter, and judges at each grant."""

    clock: HandClock
    changes: dict[str, dict[int, int]] = field(default_factory=dict[str, dict[int, int]])
    granted: dict[str, Granting] = field(default_factory=dict[str, Granting])

    def saw(self, change: Change, _value: int) -> None:
        """Takes in a change that took effect; late charges are no holds and stay out."""
        if change.id is None:
            return
        hold_id, _, step = change.id.rpartition(".")
        if step[0] in "rs":
            taken = self.changes.setdefault(hold_id, {})
            taken[int(step[1:])] = taken.get(int(step[1:]), 0) + change.amount

    def grant(self, hold: Hold) -> None:
        """Takes in a grant and judges whether it was allowed."""
        self.granted[hold.id] = Granting(hold, self.changes[hold.id])
        for limit in ALL_LIMITS:
            assert self.used(limit) <= limit.maximum, limit.label

    def used(self, limit: Limit) -> int:
        """What granted holds take of a limit at this moment."""
        hours = {hour_bucket(self.clock.now()), *earlier_buckets(limit.name, self.clock.now())}
        by_bucket: dict[str, int] = {}
        for granting in self.granted.values():
            for n, entry in enumerate(granting.hold.entries):
                if (entry.tenant, entry.metric) == (limit.tenant, limit.metric):
                    by_bucket[entry.bucket] = by_bucket.get(entry.bucket, 0) + granting.taken.get(n, 0)
        if limit.metric == "requests":
            return max(by_bucket.values(), default=0)
        return sum(value for bucket, value in by_bucket.items() if bucket in hours)


def _kinds() -> st.SearchStrategy[str]:
    return st.sampled_from(["reserve", "settle", "repeat", "expire", "release", "step", "step", "step", "kill", "wait"])


@settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_nothing_is_admitted_over_a_limit_and_every_event_counts_once(data: st.DataObject) -> None:
    acts: list[Act[object]] = []
    try:
        _play(data, acts)
    finally:
        for act in acts:
            act.kill()


def _play(data: st.DataObject, acts: list[Act[object]]) -> None:
    clock = HandClock(NOON + data.draw(st.sampled_from([0.0, 1797.0, 1803.0]), label="start"))
    store = MemoryLedger(clock, give_way)
    model = Model(clock)
    store.on_change = model.saw
    ledgers = [Ledger(store, clock), Ledger(store, clock)]

    for n in range(data.draw(st.integers(5, 60), label="steps")):
        ledger = ledgers[n % 2]
        open_holds = list(model.granted.values())
        kind = data.draw(_kinds())
        running = [act for act in acts if not act.done]
        if kind == "reserve":
            tenant = data.draw(st.sampled_from(["k_a", "k_b"]))
            units = data.draw(st.sampled_from([1, 700, 1500, 3_000]))
            wish = ask(f"r{n}", *LIMITS[tenant], *SITE, units=units, tenant=tenant, at=clock.now())
            acts.append(Act("reserve", ledger.reserve(wish)))
        elif kind == "wait":
            clock.at += data.draw(st.sampled_from([0.2, 1.0, 45.0]))
        elif kind in {"settle", "repeat"} and open_holds:
            granting = data.draw(st.sampled_from(open_holds))
            if granting.reported is None:
                granting.reported = data.draw(st.integers(0, granting.hold.entries[0].amount))
            acts.append(Act("settle", ledger.settle(granting.hold, granting.reported)))
        elif kind == "expire" and open_holds:
            acts.append(Act("expire", ledger.expire(data.draw(st.sampled_from(open_holds)).hold, "lease_over")))
        elif kind == "release" and open_holds:
            unreported = [granting for granting in open_holds if granting.reported is None]
            if unreported:
                acts.append(Act("release", ledger.release(data.draw(st.sampled_from(unreported)).hold)))
        elif kind == "kill" and running:
            data.draw(st.sampled_from(running)).kill()
        elif running:
            act = data.draw(st.sampled_from(running))
            for _ in range(data.draw(st.integers(1, 6))):
                if not act.done:
                    act.step()
            _judge(act, model)
    for act in acts:
        while not act.done:
            act.step()
        _judge(act, model)
    _check_books(store, ledgers[0], model)


def _judge(act: Act[object], model: Model) -> None:
    if not act.done:
        return
    assert act.error is None or isinstance(act.error, StoreUnavailable), act.error
    if isinstance(act.result, Granted) and act.result.hold.id not in model.granted:
        model.grant(act.result.hold)
    elif isinstance(act.result, Refused):
        assert act.result.standing.limit in ALL_LIMITS


def _check_books(store: MemoryLedger, ledger: Ledger, model: Model) -> None:
    """Reports are delivered until they count, what nobody reported ends with its lease; then the sums must agree."""
    for granting in model.granted.values():
        if granting.reported is not None:
            run(ledger.settle(granting.hold, granting.reported))
    for lease in run(store.leases()):
        run(ledger.expire(lease.hold, "lease_over"))
    assert run(store.leases()) == []
    truth: dict[tuple[str, str], int] = {}
    for granting in model.granted.values():
        for entry in granting.hold.entries:
            if entry.metric == "units":
                key = (entry.tenant, entry.bucket)
                truth[key] = truth.get(key, 0) + (granting.reported or 0)
    for counter, value in store.values.items():
        if counter.metric == "units":
            assert value == truth.get((counter.tenant, counter.bucket), 0), counter
        elif counter.metric == "jobs":
            assert value == 0, counter
