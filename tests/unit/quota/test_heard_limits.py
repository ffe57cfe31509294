"""Limits on the sound that is heard: held by its length, settled to what was heard, and counted for nothing else."""

from dataclasses import dataclass

import pytest

from callboard_contracts.accounts import Account, AccountKey
from callboard_contracts.config import QuotaSection
from callboard_contracts.quota import Hold, HoldEntry, ReserveReply, ReserveRequest, UsageEvent, Work, WorkKind
from callboard_quota.backends.memory import MemoryAccounts
from callboard_quota.domain.amounts import Cost, shares
from callboard_quota.domain.changes import audit_event
from callboard_quota.domain.concurrency import ConcurrencyWait
from callboard_quota.domain.ports import Counter
from callboard_quota.domain.reservations import ReservationService
from callboard_quota.domain.tenants import SITE, Secret
from tests.unit.quota import test_reconciler
from tests.unit.quota.interleaving import NOON, no_pause, run
from tests.unit.quota.test_reconciler import HOUR, close_hour, corrections
from tests.unit.quota.test_reservations import KEY, limit_of

pytestmark = pytest.mark.unit

harness = test_reconciler.harness
ADA = "k_00000000000000ad"
HEARD, SITE_HEARD = Counter(ADA, "heard", HOUR), Counter(SITE, "heard", HOUR)
SETTINGS = QuotaSection.model_validate(
    {
        "site_tier": "whole",
        "tiers": {
            "anonymous": {},
            "standard": {"heard_seconds_per_day": 60, "tokens_per_day": 100_000},
            "whole": {"heard_seconds_per_month": 3600},
        },
        "weights": {"heard_cost_per_second": 0},
    }
)


@dataclass
class Site:
    """A ledger and what decides on its holds."""

    base: test_reconciler.Harness
    reservations: ReservationService

    def reserve(
        self, audio_ms: int, name: str = "r", kind: WorkKind = "transcription", extends: Hold | None = None
    ) -> ReserveReply:
        """Asks for a hold on so much sound."""
        request = ReserveRequest(
            request_id=name,
            kind=kind,
            model="ear",
            work=Work(audio_ms=audio_ms),
            key_digest=None if extends else KEY,
            life_s=60,
            extends=extends,
        )
        return run(self.reservations.reserve(request))

    def hold(self, audio_ms: int, name: str = "r", extends: Hold | None = None) -> Hold:
        """Takes a hold that must be granted."""
        hold = self.reserve(audio_ms, name, extends=extends).hold
        assert hold is not None
        return hold

    def report(self, hold: Hold, audio_ms: int, *extensions: Hold, settle: bool = True) -> UsageEvent:
        """Stores a usage event, and settles it unless the settlement is to be lost."""
        event = UsageEvent(
            request_id=hold.request_id,
            tenant=ADA,
            kind="transcription",
            model="ear",
            pool="stalls",
            work=Work(audio_ms=audio_ms),
            outcome="stop",
            hold=hold,
            extensions=extensions,
            at=self.base.clock.at,
        )
        self.base.log.store(event, self.base.clock.at)
        if settle:
            run(self.base.settler.settle(event))
        return event

    def heard_ms(self) -> int:
        """What the account has counted; the site's counter must say the same."""
        values = self.base.store.values
        assert values.get(HEARD, 0) == values.get(SITE_HEARD, 0)
        return values.get(HEARD, 0)


@pytest.fixture
def site(harness: test_reconciler.Harness) -> Site:
    key = AccountKey(digest=KEY, created_at=NOON)
    accounts = MemoryAccounts([Account(id=ADA, name="Ada", tier="standard", keys=(key,), created_at=NOON)])
    ledger = harness.ledger
    wait = ConcurrencyWait(ledger, no_pause)
    secret = Secret(b"x" * 32)
    service = ReservationService(SETTINGS, secret, accounts, ledger, harness.clock, harness.journal, wait, no_pause)
    return Site(harness, service)


def test_sound_is_held_to_the_last_millisecond_and_settled_to_what_was_heard(site: Site) -> None:
    hold = site.hold(30_000)
    assert (hold.units, hold.heard_ms, site.heard_ms()) == (0, 30_000, 30_000)
    assert limit_of(site.reserve(30_001)) == "key.heard_seconds_per_day"
    reply = site.reserve(30_000, "exact")
    assert reply.hold is not None
    states = {state.limit: (state.allowed, state.remaining) for state in reply.states}
    assert states["key.heard_seconds_per_day"] == (60, 0)
    site.report(hold, 12_345)
    assert site.heard_ms() == 42_345
    refused = site.reserve(60_001).error
    assert refused is not None
    assert refused.message == (
        "The limit of this API key for the seconds of sound heard in 24 hours (60) is lower than what this request may "
        "need."
    )


def test_other_work_neither_counts_nor_is_refused(site: Site) -> None:
    site.report(site.hold(60_000), 60_000)
    reply = site.reserve(15_000, kind="speech")
    assert reply.hold is not None
    assert reply.hold.heard_ms is None
    assert [state.limit for state in reply.states] == ["key.tokens_per_day"]
    assert site.heard_ms() == 60_000


def test_sound_is_counted_before_there_is_a_limit(site: Site) -> None:
    site.reservations.settings = SETTINGS.model_copy(
        update={"tiers": {**SETTINGS.tiers, "standard": SETTINGS.tiers["anonymous"]}}
    )
    site.report(site.hold(50_000), 50_000)
    site.reservations.settings = SETTINGS
    assert limit_of(site.reserve(10_001)) == "key.heard_seconds_per_day"


def test_extension_is_bound_by_the_limit_and_the_sound_is_divided_among_the_holds(site: Site) -> None:
    first = site.hold(30_000)
    assert limit_of(site.reserve(30_001, extends=first)) == "key.heard_seconds_per_day"
    second = site.hold(25_000, extends=first)
    event = site.report(first, 40_000, second)
    assert site.heard_ms() == 40_000
    run(site.base.settler.settle(event))
    assert site.heard_ms() == 40_000
    assert site.base.verify().drift_count == 0


def test_hold_from_before_the_counter_is_settled_without_it() -> None:
    old = Hold(request_id="r", tenant=ADA, kind="transcription", model="ear", entries=(), expires_at=NOON)
    entry = HoldEntry(tenant=ADA, metric="heard", bucket=HOUR, amount=5000)
    new = old.model_copy(update={"entries": (entry,)})
    assert shares(Cost(0, 8000), [old]) == [Cost(0, 0)]
    assert shares(Cost(0, 8000), [old, new]) == [Cost(0, 0), Cost(0, 8000)]
    assert shares(Cost(0, 8000), [new, new, old]) == [Cost(0, 5000), Cost(0, 3000), Cost(0, 0)]


def test_settlement_that_was_cut_off_is_completed_from_the_recorded_outcome(site: Site) -> None:
    hold = site.hold(30_000)
    settled = audit_event("settled", hold, site.base.clock.at, heard_ms=7000)
    run(site.base.store.record_outcome(settled))
    site.base.clock.at = hold.expires_at + 1
    run(site.base.reaper.pass_once())
    assert site.heard_ms() == 7000


def test_sound_that_is_reported_after_its_holds_end_is_counted_once(site: Site) -> None:
    hold = site.hold(30_000)
    run(site.base.ledger.expire(hold, "lease_over"))
    assert site.heard_ms() == 0
    event = site.report(hold, 20_000)
    run(site.base.settler.settle(event))
    assert site.heard_ms() == 20_000


def test_lost_settlement_is_corrected_when_the_hour_closes(site: Site) -> None:
    hold = site.hold(30_000)
    run(site.base.store.close(hold))
    site.report(hold, 10_000, settle=False)
    assert site.base.verify().drift_count == 2
    close_hour(site.base)
    assert (site.heard_ms(), corrections(site.base)) == (10_000, 2)
    corrected = [event for event in site.base.journal.events if event.kind == "corrected"]
    assert {(event.units, event.heard_ms) for event in corrected} == {(0, -20_000)}
    assert site.base.verify().drift_count == 0


def test_of_two_lengths_for_one_request_the_settled_one_counts_though_both_are_free(site: Site) -> None:
    hold = site.hold(30_000)
    site.report(hold, 9000, settle=False)
    site.report(hold, 4000)
    first = site.base.log.logged[0].event
    assert first is not None
    run(site.base.settler.settle(first))
    assert site.heard_ms() == 4000
    assert site.base.verify().drift_count == 0
    close_hour(site.base)
    assert site.heard_ms() == 4000
