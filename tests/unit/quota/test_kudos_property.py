"""Any interleaving of earning, spending, transfers, repeats, crashes and expiries against a model of kudos."""

import dataclasses
from dataclasses import dataclass, field

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from callboard_contracts.accounts import Account
from callboard_contracts.kudos import KudosEarnRequest, KudosReply, KudosTransferRequest
from callboard_contracts.quota import Hold
from callboard_quota.backends.memory import MemoryAccounts, MemoryCounterStore, MemoryJournal, MemoryLedger
from callboard_quota.domain.decision import Granted
from callboard_quota.domain.kudos import KudosService
from callboard_quota.domain.ledger import Ledger
from callboard_quota.domain.limit_kinds import KUDOS, UNITS
from callboard_quota.domain.limits import kudos_limit
from callboard_quota.domain.ports import Change, Counter
from callboard_quota.domain.reaper import Reaper
from callboard_quota.domain.windows import LIFETIME_BUCKET
from tests.unit.quota.interleaving import Interleaving, ManualClock, Stepper, hold_request, run, yield_once

pytestmark = [pytest.mark.unit, pytest.mark.timeout(400)]

ACCOUNTS = [f"k_{n:016d}" for n in range(3)]
Transaction = KudosEarnRequest | KudosTransferRequest


class Process:
    """One quota process over the shared store."""

    def __init__(self, store: MemoryLedger, clock: ManualClock) -> None:
        accounts = MemoryAccounts([Account(id=one, name=one, tier="t", keys=(), created_at=0) for one in ACCOUNTS])
        journal = MemoryJournal()
        self.ledger = Ledger(store, clock)
        self.kudos = KudosService(store, self.ledger, accounts, clock, journal, lambda _rule: None)
        self.reaper = Reaper(store, self.ledger, clock, journal, MemoryCounterStore(store))
        self.reaping: Stepper[object] | None = None


@dataclass
class Spend:
    """A granted hold, and what its usage event will say."""

    hold: Hold
    cost: int | None = None


@dataclass
class Model:
    """Every change of every account, and which of them belong to a grant."""

    changes: list[tuple[str, str, str, int]] = field(default_factory=list[tuple[str, str, str, int]])
    granted: set[str] = field(default_factory=set[str])
    transactions: set[str] = field(default_factory=set[str])

    def saw(self, change: Change, _value: int) -> None:
        """Adds a change."""
        if change.id is not None and change.counter.metric == "kudos":
            hold_id, _, step = change.id.rpartition(".")
            self.changes.append((hold_id, step[0], change.counter.tenant, change.amount))

    def check(self) -> None:
        """Replays all changes of what was granted: at no moment was any account below zero.

        What a transaction takes is checked when it is completed: a repeat may find that it was taken before there was
        enough.
        """
        balances = dict.fromkeys(ACCOUNTS, 0)
        waiting: dict[str, tuple[str, int]] = {}
        for hold_id, step, account, amount in self.changes:
            if hold_id in self.transactions and step == "r":
                waiting[hold_id] = account, amount
            elif hold_id in self.granted or hold_id in self.transactions:
                payer, taken = waiting.pop(hold_id, (account, 0))
                balances[payer] -= taken
                balances[account] -= amount
                assert balances[payer] >= 0, (hold_id, payer)
                assert balances[account] >= 0, (hold_id, account)


@dataclass(frozen=True)
class FinalState:
    """The balances at the end and the recorded outcomes."""

    balances: list[int]
    earned: int
    spent: int
    transactions: list[str]


class KudosInterleaving(Interleaving):
    """Two processes over one store."""

    def __init__(self, data: st.DataObject) -> None:
        super().__init__(data, ManualClock())
        self.store = MemoryLedger(self.clock, yield_once)
        self.model = Model()
        self.store.on_change = self.model.saw
        self.processes = [Process(self.store, self.clock) for _ in range(2)]
        self.transactions: list[Transaction] = []
        self.answers: dict[str, set[str]] = {}
        self.asked: dict[int, Transaction] = {}
        self.spends: dict[str, Spend] = {}

    def take_step(self, n: int) -> None:
        """One random step."""
        process = self.processes[n % 2]
        moves = ["earn", "transfer", "transfer", "repeat", "contradict", "spend", "settle", "release", "expire", "reap"]
        match self.data.draw(st.sampled_from([*moves, "step", "step", "step", "step", "kill", "wait"])):
            case "earn":
                self._make(process, KudosEarnRequest(id=f"d{n}", account=self._account(), amount=self._amount()))
            case "transfer":
                source, target = self.data.draw(st.permutations(ACCOUNTS))[:2]
                amount = self._amount()
                self._make(process, KudosTransferRequest(id=f"d{n}", source=source, target=target, amount=amount))
            case "repeat" if self.transactions:
                self._ask(process, self.data.draw(st.sampled_from(self.transactions)))
            case "contradict" if self.transactions:
                transaction = self.data.draw(st.sampled_from(self.transactions))
                self._ask(process, transaction.model_copy(update={"amount": transaction.amount + 1}))
            case "spend":
                self._spend(process, n)
            case "settle" | "release" | "expire" as kind if self.spends:
                self._end(process, kind, self.data.draw(st.sampled_from(list(self.spends.values()))))
            case "reap":
                self.reap(process)
            case "wait":
                self.clock.at += self.data.draw(st.sampled_from([1.0, 11.0, 400.0]))
            case kind:
                self.step_or_kill(kind)

    def _account(self) -> str:
        return self.data.draw(st.sampled_from(ACCOUNTS))

    def _amount(self) -> int:
        return self.data.draw(st.sampled_from([1, 30, 100]))

    def _make(self, process: Process, transaction: Transaction) -> None:
        self.transactions.append(transaction)
        self._ask(process, transaction)

    def _ask(self, process: Process, transaction: Transaction) -> None:
        asking = (
            process.kudos.earn(transaction)
            if isinstance(transaction, KudosEarnRequest)
            else process.kudos.transfer(transaction)
        )
        stepper = Stepper[object]("transaction", asking)
        self.asked[id(stepper)] = transaction
        self.start(stepper)

    def _spend(self, process: Process, n: int) -> None:
        account, amount = self._account(), self._amount()
        request = hold_request(f"s{n}", kudos_limit(account), tenant=account, units=1, at=self.clock.now())
        request = dataclasses.replace(request, amounts={(account, UNITS): 1, (account, KUDOS): amount})
        self.start(Stepper("spend", process.ledger.reserve(request)))

    def _end(self, process: Process, kind: str, spend: Spend) -> None:
        if kind == "settle":
            if spend.cost is None:
                spend.cost = self.data.draw(st.integers(0, 120))
            self.start(Stepper("settle", process.ledger.settle(spend.hold, 1, kudos=spend.cost)))
        elif kind == "release":
            self.start(Stepper("release", process.ledger.release(spend.hold)))
        else:
            self.start(Stepper("expire", process.ledger.expire(spend.hold, "lease_over")))

    def check_result(self, stepper: Stepper[object]) -> None:
        """Adds a grant, or the answer to a transaction."""
        if isinstance(stepper.result, Granted):
            self.spends.setdefault(stepper.result.hold.id, Spend(stepper.result.hold))
            self.model.granted.add(stepper.result.hold.id)
        elif isinstance(stepper.result, KudosReply):
            self._answered(self.asked[id(stepper)], stepper.result)

    def _answered(self, transaction: Transaction, reply: KudosReply) -> None:
        """Every answer to one transaction is the same, except that the first is no repeat."""
        words = self.answers.setdefault(transaction.model_dump_json(), set())
        words.add("done" if reply.error is None else reply.error.code.value)
        assert len(words) == 1

    def finish(self) -> FinalState:
        """Runs everything to its end and returns the final state."""
        self.run_all()
        self.clock.at += 400.0
        for process in self.processes:
            assert run(process.reaper.pass_once()).count == 0
        outcomes = {outcome.hold_id: outcome for outcome in self.store.outcomes.values()}
        transactions = {
            hold_id: outcome
            for hold_id, outcome in outcomes.items()
            if outcome.work == "kudos" and outcome.kind == "settled"
        }
        self.model.transactions = set(transactions)
        self.model.check()
        earned = sum(outcome.kudos for outcome in transactions.values() if outcome.reason == "earn")
        spent = 0
        for spend in self.spends.values():
            outcome = outcomes.get(spend.hold.id)
            if outcome is None:
                continue  # It was open until its ids were forgotten, and all that it held went back.
            assert outcome.kudos == (min(spend.cost or 0, spend.hold.kudos) if outcome.kind == "settled" else 0)
            spent += outcome.kudos
        balances = [-self.store.values.get(Counter(account, "kudos", LIFETIME_BUCKET), 0) for account in ACCOUNTS]
        return FinalState(balances, earned, spent, [outcome.request_id for outcome in transactions.values()])


@settings(
    max_examples=120, deadline=None, phases=(Phase.reuse, Phase.generate), suppress_health_check=[HealthCheck.too_slow]
)
@given(st.data())
def test_kudos_are_neither_made_nor_lost_and_no_account_falls_below_zero(data: st.DataObject) -> None:
    interleaving = KudosInterleaving(data)
    try:
        for n in range(data.draw(st.integers(5, 70), label="steps")):
            interleaving.take_step(n)
        final = interleaving.finish()
    finally:
        interleaving.kill_all()
    assert min(final.balances) >= 0
    assert sum(final.balances) == final.earned - final.spent
    assert len(set(final.transactions)) == len(final.transactions)
