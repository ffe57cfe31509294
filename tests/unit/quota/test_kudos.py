"""Volunteers are paid once for their work and their time, and requests take of an account what it has."""

import pytest

from callboard_contracts.accounts import Account, AccountKey, key_digest
from callboard_contracts.config import QuotaSection
from callboard_contracts.errors import ErrorCode
from callboard_contracts.kudos import KudosEarnRequest, KudosReply, KudosUptimeRequest, reward_id
from callboard_contracts.kudos_price import MAX_REWARD, KudosSection, uptime_period
from callboard_contracts.quota import ReserveReply, ReserveRequest, UsageEvent, VolunteerWork, Work
from callboard_quota.backends.memory import MemoryAccounts, MemoryCounterStore, MemoryJournal, MemoryLedger
from callboard_quota.domain.concurrency import ConcurrencyWait
from callboard_quota.domain.event_rules import EventRules
from callboard_quota.domain.kudos import KudosService
from callboard_quota.domain.ledger import Ledger
from callboard_quota.domain.ports import StoreUnavailable
from callboard_quota.domain.reaper import Reaper
from callboard_quota.domain.reservations import ReservationService
from callboard_quota.domain.settlement import Settler
from callboard_quota.domain.tenants import Secret
from tests.unit.quota.interleaving import NOON, ManualClock, Stepper, no_pause, run, yield_once

pytestmark = pytest.mark.unit

WORKER = "5a1c4be0-5d7e-5f0f-9c54-2f3c2f0f7f11"
ADA, OWNER = "k_00000000000000ad", "k_00000000000000b0"
KEY = key_digest("cb_ada")


class Quota:
    """The quota service over memory, with two accounts."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.store = MemoryLedger(self.clock, yield_once)
        self.journal = MemoryJournal()
        key = AccountKey(digest=KEY, created_at=NOON)
        accounts = MemoryAccounts(
            [
                Account(id=ADA, name="Ada", tier="standard", keys=(key,), created_at=NOON),
                Account(id=OWNER, name="Owner", tier="standard", keys=(), created_at=NOON),
            ]
        )
        secret = Secret(b"s" * 32)
        self.ledger = Ledger(self.store, self.clock, secret.signed)
        self.refusals: list[str] = []
        self.kudos = KudosService(
            self.store, self.ledger, accounts, self.clock, self.journal, self.refusals.append, KudosSection()
        )
        self.reservations = ReservationService(
            QuotaSection(),
            secret,
            accounts,
            self.ledger,
            self.clock,
            self.journal,
            ConcurrencyWait(self.ledger, no_pause),
            no_pause,
        )
        counters = MemoryCounterStore(self.store)
        rules = EventRules(secret, accounts)
        self.settler = Settler(
            QuotaSection(), rules, self.ledger, counters, self.clock, self.journal, self.kudos.reward
        )
        self.reaper = Reaper(self.store, self.ledger, self.clock, self.journal, counters)

    def earn(self, amount: int) -> None:
        """Credits Ada."""
        assert run(self.kudos.earn(KudosEarnRequest(id=f"gift-{amount}", account=ADA, amount=amount))).error is None

    def reserve(self, kudos: int, *, key: str | None = KEY, if_any: bool = True, request_id: str = "r") -> ReserveReply:
        """Asks for a hold with kudos."""
        return run(
            self.reservations.reserve(
                ReserveRequest(
                    request_id=request_id,
                    kind="chat",
                    model="owl",
                    work=Work(prompt_tokens=5),
                    key_digest=key,
                    address="192.0.2.1",
                    life_s=60,
                    kudos=kudos,
                    kudos_if_any=if_any,
                )
            )
        )

    def event(self, reply: ReserveReply, *, kudos: int = 0, reward: int = 0, owner: str = OWNER) -> UsageEvent:
        """What a volunteer's work on a hold was."""
        return UsageEvent(
            request_id="r",
            tenant=reply.tenant,
            kind="chat",
            model="owl",
            pool="crowd",
            work=Work(prompt_tokens=5),
            outcome="stop",
            hold=reply.hold,
            kudos=kudos,
            volunteer=VolunteerWork(worker=WORKER, owner=owner, reward=reward),
            at=self.clock.now(),
        )

    def balance(self, account: str) -> int:
        """What an account has."""
        return run(self.ledger.kudos(account))


def test_owner_is_paid_once_however_often_the_event_comes() -> None:
    quota = Quota()
    quota.earn(10_000)
    event = quota.event(quota.reserve(8_000), kudos=4_200, reward=3_200)
    assert [run(quota.settler.settle(event)) for _ in range(3)] == ["settled", "settled_before", "settled_before"]
    assert (quota.balance(ADA), quota.balance(OWNER)) == (5_800, 3_200)
    paid = quota.store.outcomes[f"transaction {reward_id('r')}"]
    assert (paid.kind, paid.reason, paid.worker, paid.kudos) == ("settled", "reward", WORKER, 3_200)


def test_of_two_events_about_the_same_work_one_is_paid() -> None:
    quota = Quota()
    reply = quota.reserve(0)
    run(quota.settler.settle(quota.event(reply, reward=1_000)))
    other = quota.event(reply, reward=9_000).model_copy(update={"work": Work(prompt_tokens=4)})
    assert run(quota.settler.settle(other)) == "settled_before"
    again = quota.event(reply, reward=9_000)
    assert run(quota.settler.settle(again)) == "settled_before"
    assert quota.balance(OWNER) == 1_000
    assert quota.refusals == ["other_contents"]


def test_payment_that_was_cut_off_and_undone_is_made_when_the_event_comes_again() -> None:
    quota = Quota()
    event = quota.event(quota.reserve(0), reward=2_000)
    stepper = Stepper("dies", quota.kudos.reward(event))
    while not run_leases(quota):
        stepper.step()
    quota.clock.at += 60
    run(quota.reaper.pass_once())
    assert quota.balance(OWNER) == 0
    for _ in range(2):
        run(quota.kudos.reward(event))
    assert quota.balance(OWNER) == 2_000


def run_leases(quota: Quota) -> bool:
    """Whether the payment has written its lease."""

    async def found() -> bool:
        return any([hold.request_id == reward_id("r") async for hold in quota.store.leases()])

    return run(found())


def test_payment_waits_for_the_store() -> None:
    quota = Quota()
    event = quota.event(quota.reserve(0), reward=2_000)
    quota.store.failing = True
    with pytest.raises(StoreUnavailable):
        run(quota.settler.settle(event))
    quota.store.failing = False
    run(quota.settler.settle(event))
    assert quota.balance(OWNER) == 2_000


def test_stranger_is_not_paid_and_forged_work_neither() -> None:
    quota = Quota()
    reply = quota.reserve(0)
    assert run(quota.settler.settle(quota.event(reply, reward=1_000, owner="k_ffffffffffffffff"))) == "settled"
    assert reply.hold is not None
    forged = reply.model_copy(update={"hold": reply.hold.model_copy(update={"expires_at": 1.0})})
    assert run(quota.settler.settle(quota.event(forged, reward=1_000))) == "unknown_hold"
    assert quota.balance(OWNER) == 0
    assert quota.refusals == ["unknown_account"]


def uptime(quota: Quota, **changed: object) -> KudosReply:
    present = uptime_period(KudosSection(), quota.clock.now())
    fields = {"worker": WORKER, "account": OWNER, "period": present, "amount": 40_000, **changed}
    return run(quota.kudos.uptime(KudosUptimeRequest.model_validate(fields)))


def test_uptime_is_paid_once_a_period() -> None:
    quota = Quota()
    present = uptime_period(KudosSection(), quota.clock.now())
    assert [uptime(quota).repeated for _ in range(2)] == [False, True]
    assert uptime(quota, period=present - 1).balance == 80_000
    assert uptime(quota, amount=1_000).error is not None
    assert quota.balance(OWNER) == 80_000


@pytest.mark.parametrize(
    ("changed", "rule"),
    [
        ({"period": 1}, "absurd_period"),
        ({"period": 10**9}, "absurd_period"),
        ({"amount": 0}, "not_positive"),
        ({"amount": MAX_REWARD + 1}, "too_large"),
        ({"account": "k_ffffffffffffffff"}, "unknown_account"),
    ],
)
def test_uptime_that_cannot_be_is_refused(changed: dict[str, object], rule: str) -> None:
    quota = Quota()
    reply = uptime(quota, **changed)
    assert reply.error is not None
    assert reply.error.code is ErrorCode.INVALID_REQUEST
    assert quota.refusals == [rule]
    assert quota.balance(OWNER) == 0


def test_account_with_fewer_kudos_has_all_of_them_held() -> None:
    quota = Quota()
    quota.earn(3_000)
    hold = quota.reserve(8_000).hold
    assert hold is not None
    assert hold.kudos == 3_000
    assert quota.balance(ADA) == 0
    event = quota.event(ReserveReply(tenant=ADA, hold=hold), kudos=9_000)
    run(quota.settler.settle(event))
    assert quota.balance(ADA) == 0


def test_what_failed_costs_no_kudos() -> None:
    quota = Quota()
    quota.earn(3_000)
    reply = quota.reserve(2_000)
    run(quota.settler.settle(quota.event(reply).model_copy(update={"outcome": "error"})))
    assert quota.balance(ADA) == 3_000


@pytest.mark.parametrize("key", [KEY, None])
def test_whoever_has_no_kudos_is_served_without_where_they_need_none(key: str | None) -> None:
    quota = Quota()
    hold = quota.reserve(8_000, key=key).hold
    assert hold is not None
    assert hold.kudos == 0


def test_whole_price_is_refused_to_whoever_has_less() -> None:
    quota = Quota()
    quota.earn(3_000)
    refused = quota.reserve(8_000, if_any=False)
    assert refused.error is not None
    assert (refused.error.code, refused.error.limit) == (ErrorCode.QUOTA_EXCEEDED, "key.kudos")
    assert quota.balance(ADA) == 3_000


def test_kudos_that_others_spend_meanwhile_are_not_held_twice() -> None:
    quota = Quota()
    quota.earn(5_000)
    requests = [
        ReserveRequest(
            request_id=f"r{n}",
            kind="chat",
            model="owl",
            work=Work(prompt_tokens=5),
            key_digest=KEY,
            life_s=60,
            kudos=4_000,
            kudos_if_any=True,
        )
        for n in range(2)
    ]
    steppers = [Stepper(str(n), quota.reservations.reserve(request)) for n, request in enumerate(requests)]
    while not all(stepper.done for stepper in steppers):
        for stepper in steppers:
            if not stepper.done:
                stepper.step()
    held = 0
    for stepper in steppers:
        assert stepper.error is None
        assert stepper.result is not None
        assert stepper.result.hold is not None
        held += stepper.result.hold.kudos
    assert held <= 5_000
    assert quota.balance(ADA) == 5_000 - held
