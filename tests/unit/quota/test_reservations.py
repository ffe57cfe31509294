"""Who asks, which limits apply, what work costs and what the client is told."""

import dataclasses
from collections.abc import Sequence

import pytest

from callboard_contracts.accounts import Account, AccountKey, key_digest
from callboard_contracts.config import LimitsSection, QuotaSection, TierSection
from callboard_contracts.errors import ErrorCode
from callboard_contracts.quota import (
    IdentifyRequest,
    ReleaseRequest,
    ReserveReply,
    ReserveRequest,
    UsageRequest,
    Work,
    WorkKind,
)
from callboard_quota.backends.memory import MemoryAccounts, MemoryJournal, MemoryLedger
from callboard_quota.domain.concurrency import ConcurrencyWait
from callboard_quota.domain.ledger import Ledger
from callboard_quota.domain.ports import Counter, StoreUnavailable
from callboard_quota.domain.reservations import ReservationService
from callboard_quota.domain.tenants import Secret
from tests.unit.quota.interleaving import NOON, ManualClock, Stepper, leases_in, no_pause, run, yield_once

pytestmark = pytest.mark.unit

KEY = key_digest("cb_ada")
SETTINGS = QuotaSection.model_validate(
    {
        "address_tier": "crowd",
        "site_tier": "whole",
        "model_tiers": {"owl": "scarce"},
        "tiers": {
            "anonymous": {"tokens_per_day": 100},
            "standard": {"tokens_per_day": 500, "tokens_per_month": 1000},
            "crowd": {"tokens_per_day": 400},
            "scarce": {"jobs_at_once": 2},
            "whole": {"tokens_per_day": 5000},
        },
        "weights": {
            "completion_token_cost": 2.0,
            "audio_cost_per_second": 50,
            "heard_cost_per_second": 20,
            "model_factors": {"eagle": 1.5},
        },
    }
)


@dataclasses.dataclass
class Harness:
    """The service over memory."""

    reservations: ReservationService
    clock: ManualClock
    store: MemoryLedger
    accounts: MemoryAccounts
    journal: MemoryJournal

    def reserve(
        self,
        tokens: int,
        key: str | None = KEY,
        address: str | None = "192.0.2.1",
        model: str = "eagle-owl",
        kind: WorkKind = "chat",
    ) -> ReserveReply:
        """Asks for a hold of so many prompt tokens."""
        return run(
            self.reservations.reserve(
                ReserveRequest(
                    request_id="r",
                    kind=kind,
                    model=model,
                    work=Work(prompt_tokens=tokens),
                    key_digest=key,
                    address=address,
                    life_s=60,
                )
            )
        )


def make_harness(settings: QuotaSection = SETTINGS) -> Harness:
    clock = ManualClock()
    store = MemoryLedger(clock, yield_once)
    key = AccountKey(digest=KEY, created_at=NOON)
    ada = Account(id="k_00000000000000ad", name="Ada", tier="standard", keys=(key,), created_at=NOON)
    accounts, journal = MemoryAccounts([ada]), MemoryJournal()
    secret = Secret(b"s" * 32)
    ledger = Ledger(store, clock, secret.signed)
    reservations = ReservationService(
        settings, secret, accounts, ledger, clock, journal, ConcurrencyWait(ledger, no_pause), no_pause
    )
    return Harness(reservations, clock, store, accounts, journal)


def limit_of(reply: ReserveReply) -> str | None:
    assert reply.error is not None, reply
    assert reply.error.code == ErrorCode.QUOTA_EXCEEDED
    return reply.error.limit


def test_all_parties_of_a_request_are_charged_together() -> None:
    harness = make_harness()
    hold = harness.reserve(100, model="owl").hold
    assert hold is not None
    charged = {(entry.tenant[:2], entry.metric): entry.amount for entry in hold.entries}
    assert charged == {("k_", "units"): 100_000, ("i_", "units"): 100_000, ("si", "units"): 100_000, ("m_", "jobs"): 1}


def test_address_limit_holds_over_several_keys() -> None:
    harness = make_harness()
    other = AccountKey(digest=key_digest("cb_bob"), created_at=NOON)
    bob = Account(id="k_00000000000000b0", name="Bob", tier="standard", keys=(other,), created_at=NOON)
    harness.accounts.accounts[bob.id] = bob
    assert harness.reserve(300).hold
    assert limit_of(harness.reserve(300, key=other.digest)) == "address.tokens_per_day"
    assert harness.reserve(300, key=other.digest, address="192.0.2.2").hold


def test_caller_without_a_key_is_the_address_with_both_tiers() -> None:
    harness = make_harness()
    reply = harness.reserve(100, key=None)
    assert reply.tenant.startswith("i_")
    assert reply.hold
    assert limit_of(harness.reserve(1, key=None)) == "address.tokens_per_day"


def test_model_and_site_limits_apply_to_everybody() -> None:
    harness = make_harness()
    for n in range(2):
        assert harness.reserve(1, address=f"192.0.2.{n}", model="owl").hold
    assert limit_of(harness.reserve(1, key=None, address="192.0.2.9", model="owl")) == "model.jobs_at_once"
    harness.reservations.settings = SETTINGS.model_copy(
        update={"tiers": {**SETTINGS.tiers, "whole": TierSection(tokens_per_day=3)}}
    )
    assert limit_of(harness.reserve(2, key=None, address="192.0.2.9")) == "site.tokens_per_day"


@pytest.mark.parametrize(
    ("kind", "work", "model", "units"),
    [
        ("chat", Work(prompt_tokens=10, completion_tokens=10), "owl", 30_000),
        ("chat", Work(prompt_tokens=10, completion_tokens=10), "eagle", 45_000),
        ("speech", Work(audio_ms=1), "owl", 50),
        ("speech", Work(audio_ms=1), "eagle", 75),
        ("transcription", Work(audio_ms=1), "owl", 20),
        ("transcription", Work(audio_ms=1), "eagle", 30),
        ("chat", Work(), "owl", 0),
    ],
)
def test_work_costs_what_the_weights_say(kind: WorkKind, work: Work, model: str, units: int) -> None:
    harness = make_harness()
    request = ReserveRequest(request_id="r", kind=kind, model=model, work=work, key_digest=KEY, address=None, life_s=60)
    hold = run(harness.reservations.reserve(request)).hold
    assert hold is not None
    assert hold.entries[0].amount == units


def test_key_states_are_told_apart() -> None:
    harness = make_harness()
    account = harness.accounts.accounts["k_00000000000000ad"]
    harness.accounts.accounts[account.id] = account.model_copy(
        update={"keys": (AccountKey(digest=KEY, created_at=NOON, expires_at=NOON + 10),)}
    )
    assert harness.reserve(1).hold
    harness.clock.at += 10
    expired = harness.reserve(1).error
    assert expired is not None
    assert (expired.code, "expired" in expired.message) == (ErrorCode.INVALID_API_KEY, True)
    harness.accounts.accounts[account.id] = account.model_copy(
        update={"keys": (AccountKey(digest=KEY, created_at=NOON, revoked_at=NOON),)}
    )
    revoked = harness.reserve(1).error
    assert revoked is not None
    assert "revoked" in revoked.message
    unknown = harness.reserve(1, key=key_digest("cb_nobody")).error
    assert unknown is not None
    assert unknown.code == ErrorCode.INVALID_API_KEY


def test_missing_key_is_refused_where_one_is_required() -> None:
    harness = make_harness(SETTINGS.model_copy(update={"require_key": True}))
    reply = harness.reserve(1, key=None)
    assert reply.error is not None
    assert reply.error.code == ErrorCode.INVALID_API_KEY
    assert run(harness.reservations.identify(IdentifyRequest(address="192.0.2.1"))).error


def test_tier_that_was_removed_falls_back_to_the_default() -> None:
    harness = make_harness()
    account = harness.accounts.accounts["k_00000000000000ad"]
    harness.accounts.accounts[account.id] = account.model_copy(update={"tier": "gone"})
    assert limit_of(harness.reserve(501, address=None)) == "key.tokens_per_day"


def test_changed_account_is_held_to_its_new_tier_and_limits_at_once() -> None:
    harness = make_harness()
    account = harness.accounts.accounts["k_00000000000000ad"]
    assert limit_of(harness.reserve(501, address=None)) == "key.tokens_per_day"
    harness.accounts.accounts[account.id] = account.model_copy(update={"limits": LimitsSection(tokens_per_day=800)})
    assert harness.reserve(501, address=None).hold
    harness.accounts.accounts[account.id] = account.model_copy(update={"tier": "anonymous"})
    assert limit_of(harness.reserve(1, address=None)) == "key.tokens_per_day"


@pytest.mark.parametrize("address", ["192.0.2.1", None])
def test_top_up_of_a_caller_without_a_key_keeps_to_the_anonymous_tier(address: str | None) -> None:
    harness = make_harness()
    hold = harness.reserve(60, key=None, address=address).hold
    assert hold is not None
    more = ReserveRequest(
        request_id="r", kind="chat", model="owl", work=Work(prompt_tokens=60), life_s=60, extends=hold
    )
    assert limit_of(run(harness.reservations.reserve(more))) == "address.tokens_per_day"
    assert run(harness.reservations.reserve(more.model_copy(update={"work": Work(prompt_tokens=40)}))).hold


def test_limits_that_alternate_on_a_tenant_read_its_window_once() -> None:
    harness = make_harness()
    day = TierSection(tokens_per_day=100)
    month = TierSection(tokens_per_month=100)
    reads: list[int] = []
    read = harness.store.read

    async def counted(counters: Sequence[Counter]) -> dict[Counter, int]:
        reads.append(len(counters))
        return await read(counters)

    harness.store.read = counted
    for n in range(6):
        tiers = {**SETTINGS.tiers, "anonymous": (day, month)[n % 2], "crowd": TierSection(), "whole": TierSection()}
        harness.reservations.settings = SETTINGS.model_copy(update={"tiers": tiers})
        assert harness.reserve(1, key=None).hold
    assert len(reads) == 2
    assert harness.reserve(95, key=None).error


def test_unreachable_accounts_decide_nothing() -> None:
    harness = make_harness()
    harness.accounts.failing = True
    with pytest.raises(StoreUnavailable):
        harness.reserve(1)
    assert harness.store.values == {}


def waiting_request(request_id: str = "r", *, key: str | None = None, repeat: int = 0) -> ReserveRequest:
    return ReserveRequest(
        request_id=request_id,
        kind="chat",
        model="owl",
        work=Work(prompt_tokens=10),
        key_digest=key,
        address="192.0.2.1",
        life_s=60,
        wait_s=10,
        repeat=repeat,
    )


def test_store_that_is_away_is_waited_for_as_long_as_the_sender_waits() -> None:
    harness = make_harness()
    harness.accounts.failing = True
    stepper = Stepper("waits", harness.reservations.reserve(waiting_request(key=KEY)))
    for _ in range(5):
        stepper.step()
        harness.clock.at += 1
    assert not stepper.done
    harness.accounts.failing = False
    assert stepper.run().hold
    harness.accounts.failing = True
    stepper = Stepper("waits too long", harness.reservations.reserve(waiting_request(key=KEY)))
    while not stepper.done:
        harness.clock.at += 1
        stepper.step()
    assert isinstance(stepper.error, StoreUnavailable)


def test_decision_that_the_store_confirms_too_late_is_made_anew_and_counts_once() -> None:
    harness = make_harness()
    stepper = Stepper("slow", harness.reservations.reserve(waiting_request()))
    stepper.step()
    harness.clock.at += 6
    hold = stepper.run().hold
    assert hold is not None
    assert [one.id for one in run(leases_in(harness.store))] == [hold.id]
    entry = next(one for one in hold.entries if one.metric == "units" and one.tenant == hold.tenant)
    assert harness.store.values[Counter(entry.tenant, entry.metric, entry.bucket)] == entry.amount
    assert [event.kind for event in harness.journal.events] == ["admitted"]


def test_repeat_gives_back_what_the_unanswered_request_took_and_nothing_else() -> None:
    harness = make_harness()
    other = run(harness.reservations.reserve(waiting_request("other"))).hold
    # The first was granted, and its answer was lost; the limit of jobs at once has room for two.
    lost = run(harness.reservations.reserve(waiting_request())).hold
    assert other is not None
    assert lost is not None
    hold = run(harness.reservations.reserve(waiting_request(repeat=1))).hold
    assert hold is not None
    assert sorted(one.id for one in run(leases_in(harness.store))) == sorted([other.id, hold.id])
    assert not run(harness.reservations.release(ReleaseRequest(hold=lost))).settled
    jobs = [value for counter, value in harness.store.values.items() if counter.metric == "jobs"]
    assert sum(jobs) == 2
    # A repeat that comes after its successor leaves alone what that one got.
    run(harness.reservations.reserve(waiting_request(repeat=2)))
    assert run(harness.reservations.release(ReleaseRequest(hold=other))).settled
    newest = run(leases_in(harness.store))
    run(harness.reservations.reserve(waiting_request(repeat=1)))
    assert newest[0].id in {one.id for one in run(leases_in(harness.store))}


def test_forged_hold_is_not_released() -> None:
    harness = make_harness()
    hold = harness.reserve(100).hold
    assert hold is not None
    forged = hold.model_copy(update={"id": "another"})
    assert not run(harness.reservations.release(ReleaseRequest(hold=forged))).settled
    assert run(harness.reservations.release(ReleaseRequest(hold=hold))).settled
    assert [event.kind for event in harness.journal.events] == ["admitted", "ignored", "released"]


def test_no_key_address_or_text_of_theirs_is_noted() -> None:
    harness = make_harness()
    harness.reserve(100)
    harness.reserve(1000)
    for event in harness.journal.events:
        text = event.model_dump_json()
        assert KEY not in text
        assert "192.0.2.1" not in text


def test_caller_learns_what_was_used_and_what_is_left() -> None:
    harness = make_harness()
    assert harness.reserve(120).hold
    reply = run(harness.reservations.usage(UsageRequest(key_digest=KEY, address="192.0.2.1")))
    assert (reply.tokens_last_day, reply.tokens_this_month) == (120, 120)
    assert {state.limit: state.remaining for state in reply.limits} == {
        "key.tokens_per_day": 380,
        "key.tokens_per_month": 880,
        "address.tokens_per_day": 280,
    }
    assert run(harness.reservations.usage(UsageRequest(key_digest=key_digest("cb_nobody")))).error
