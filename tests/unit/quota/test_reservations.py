"""Who asks, which limits apply, what work costs and what the client is told."""

import dataclasses
from collections.abc import Sequence

import pytest

from callboard_contracts.accounts import Account, AccountKey, key_digest
from callboard_contracts.config import QuotaSection, TierSection
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
from tests.unit.quota.interleaving import NOON, ManualClock, no_pause, run, yield_once

pytestmark = pytest.mark.unit

KEY = key_digest("cb_ada")
SETTINGS = QuotaSection.model_validate(
    {
        "address_tier": "crowd",
        "site_tier": "house",
        "model_tiers": {"owl": "scarce"},
        "tiers": {
            "anonymous": {"tokens_per_day": 100},
            "standard": {"tokens_per_day": 500, "tokens_per_month": 1000},
            "crowd": {"tokens_per_day": 400},
            "scarce": {"jobs_at_once": 2},
            "house": {"tokens_per_day": 5000},
        },
        "weights": {"completion_token_cost": 2.0, "audio_cost_per_second": 50, "model_factors": {"eagle": 1.5}},
    }
)


@dataclasses.dataclass
class Stage:
    """A reservations over memory."""

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


def make(settings: QuotaSection = SETTINGS) -> Stage:
    clock = ManualClock()
    store = MemoryLedger(clock, yield_once)
    key = AccountKey(digest=KEY, created_at=NOON)
    ada = Account(id="k_00000000000000ad", name="Ada", tier="standard", keys=(key,), created_at=NOON)
    accounts, journal = MemoryAccounts([ada]), MemoryJournal()
    secret = Secret(b"s" * 32)
    ledger = Ledger(store, clock, secret.signed)
    reservations = ReservationService(
        settings, secret, accounts, ledger, clock, journal, ConcurrencyWait(ledger, no_pause)
    )
    return Stage(reservations, clock, store, accounts, journal)


def limit_of(reply: ReserveReply) -> str | None:
    assert reply.error is not None, reply
    assert reply.error.code == ErrorCode.QUOTA_EXCEEDED
    return reply.error.limit


def test_all_parties_of_a_request_are_charged_together() -> None:
    stage = make()
    hold = stage.reserve(100, model="owl").hold
    assert hold is not None
    charged = {(entry.tenant[:2], entry.metric): entry.amount for entry in hold.entries}
    assert charged == {("k_", "units"): 100_000, ("i_", "units"): 100_000, ("si", "units"): 100_000, ("m_", "jobs"): 1}


def test_address_limit_holds_over_several_keys() -> None:
    stage = make()
    other = AccountKey(digest=key_digest("cb_bob"), created_at=NOON)
    bob = Account(id="k_00000000000000b0", name="Bob", tier="standard", keys=(other,), created_at=NOON)
    stage.accounts.accounts[bob.id] = bob
    assert stage.reserve(300).hold
    assert limit_of(stage.reserve(300, key=other.digest)) == "address.tokens_per_day"
    assert stage.reserve(300, key=other.digest, address="192.0.2.2").hold


def test_caller_without_a_key_is_the_address_with_both_tiers() -> None:
    stage = make()
    reply = stage.reserve(100, key=None)
    assert reply.tenant.startswith("i_")
    assert reply.hold
    assert limit_of(stage.reserve(1, key=None)) == "address.tokens_per_day"


def test_model_and_site_limits_apply_to_everybody() -> None:
    stage = make()
    for n in range(2):
        assert stage.reserve(1, address=f"192.0.2.{n}", model="owl").hold
    assert limit_of(stage.reserve(1, key=None, address="192.0.2.9", model="owl")) == "model.jobs_at_once"
    stage.reservations.settings = SETTINGS.model_copy(
        update={"tiers": {**SETTINGS.tiers, "house": TierSection(tokens_per_day=3)}}
    )
    assert limit_of(stage.reserve(2, key=None, address="192.0.2.9")) == "site.tokens_per_day"


@pytest.mark.parametrize(
    ("work", "model", "units"),
    [
        (Work(prompt_tokens=10, completion_tokens=10), "owl", 30_000),
        (Work(prompt_tokens=10, completion_tokens=10), "eagle", 45_000),
        (Work(audio_ms=1), "owl", 50),
        (Work(audio_ms=1), "eagle", 75),
        (Work(), "owl", 0),
    ],
)
def test_work_costs_what_the_weights_say(work: Work, model: str, units: int) -> None:
    stage = make()
    request = ReserveRequest(
        request_id="r", kind="chat", model=model, work=work, key_digest=KEY, address=None, life_s=60
    )
    hold = run(stage.reservations.reserve(request)).hold
    assert hold is not None
    assert hold.entries[0].amount == units


def test_key_states_are_told_apart() -> None:
    stage = make()
    account = stage.accounts.accounts["k_00000000000000ad"]
    stage.accounts.accounts[account.id] = account.model_copy(
        update={"keys": (AccountKey(digest=KEY, created_at=NOON, expires_at=NOON + 10),)}
    )
    assert stage.reserve(1).hold
    stage.clock.at += 10
    expired = stage.reserve(1).error
    assert expired is not None
    assert (expired.code, "expired" in expired.message) == (ErrorCode.INVALID_API_KEY, True)
    stage.accounts.accounts[account.id] = account.model_copy(
        update={"keys": (AccountKey(digest=KEY, created_at=NOON, revoked_at=NOON),)}
    )
    revoked = stage.reserve(1).error
    assert revoked is not None
    assert "revoked" in revoked.message
    unknown = stage.reserve(1, key=key_digest("cb_nobody")).error
    assert unknown is not None
    assert unknown.code == ErrorCode.INVALID_API_KEY


def test_missing_key_is_refused_where_one_is_required() -> None:
    stage = make(SETTINGS.model_copy(update={"require_key": True}))
    reply = stage.reserve(1, key=None)
    assert reply.error is not None
    assert reply.error.code == ErrorCode.INVALID_API_KEY
    assert run(stage.reservations.identify(IdentifyRequest(address="192.0.2.1"))).error


def test_tier_that_was_removed_falls_back_to_the_default() -> None:
    stage = make()
    account = stage.accounts.accounts["k_00000000000000ad"]
    stage.accounts.accounts[account.id] = account.model_copy(update={"tier": "gone"})
    assert limit_of(stage.reserve(501, address=None)) == "key.tokens_per_day"


def test_changed_account_is_held_to_its_new_tier_and_limits_at_once() -> None:
    stage = make()
    account = stage.accounts.accounts["k_00000000000000ad"]
    assert limit_of(stage.reserve(501, address=None)) == "key.tokens_per_day"
    stage.accounts.accounts[account.id] = account.model_copy(update={"limits": TierSection(tokens_per_day=800)})
    assert stage.reserve(501, address=None).hold
    stage.accounts.accounts[account.id] = account.model_copy(update={"tier": "anonymous"})
    assert limit_of(stage.reserve(1, address=None)) == "key.tokens_per_day"


@pytest.mark.parametrize("address", ["192.0.2.1", None])
def test_top_up_of_a_caller_without_a_key_keeps_to_the_anonymous_tier(address: str | None) -> None:
    stage = make()
    hold = stage.reserve(60, key=None, address=address).hold
    assert hold is not None
    more = ReserveRequest(
        request_id="r", kind="chat", model="owl", work=Work(prompt_tokens=60), life_s=60, extends=hold
    )
    assert limit_of(run(stage.reservations.reserve(more))) == "address.tokens_per_day"
    assert run(stage.reservations.reserve(more.model_copy(update={"work": Work(prompt_tokens=40)}))).hold


def test_limits_that_take_turns_at_a_tenant_read_its_past_once() -> None:
    stage = make()
    day = TierSection(tokens_per_day=100)
    month = TierSection(tokens_per_month=100)
    reads: list[int] = []
    read = stage.store.read

    async def counted(counters: Sequence[Counter]) -> dict[Counter, int]:
        reads.append(len(counters))
        return await read(counters)

    stage.store.read = counted
    for n in range(6):
        tiers = {**SETTINGS.tiers, "anonymous": (day, month)[n % 2], "crowd": TierSection(), "house": TierSection()}
        stage.reservations.settings = SETTINGS.model_copy(update={"tiers": tiers})
        assert stage.reserve(1, key=None).hold
    assert len(reads) == 2
    assert stage.reserve(95, key=None).error


def test_unreachable_accounts_decide_nothing() -> None:
    stage = make()
    stage.accounts.failing = True
    with pytest.raises(StoreUnavailable):
        stage.reserve(1)
    assert stage.store.values == {}


def test_forged_hold_is_not_released() -> None:
    stage = make()
    hold = stage.reserve(100).hold
    assert hold is not None
    forged = hold.model_copy(update={"id": "another"})
    assert not run(stage.reservations.release(ReleaseRequest(hold=forged))).settled
    assert run(stage.reservations.release(ReleaseRequest(hold=hold))).settled
    assert [event.kind for event in stage.journal.events] == ["admitted", "ignored", "released"]


def test_no_key_address_or_text_of_theirs_is_noted() -> None:
    stage = make()
    stage.reserve(100)
    stage.reserve(1000)
    for event in stage.journal.events:
        text = event.model_dump_json()
        assert KEY not in text
        assert "192.0.2.1" not in text


def test_caller_learns_what_was_used_and_what_is_left() -> None:
    stage = make()
    assert stage.reserve(120).hold
    reply = run(stage.reservations.usage(UsageRequest(key_digest=KEY, address="192.0.2.1")))
    assert (reply.tokens_last_day, reply.tokens_this_month) == (120, 120)
    assert {state.limit: state.remaining for state in reply.limits} == {
        "key.tokens_per_day": 380,
        "key.tokens_per_month": 880,
        "address.tokens_per_day": 280,
    }
    assert run(stage.reservations.usage(UsageRequest(key_digest=key_digest("cb_nobody")))).error
