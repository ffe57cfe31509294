"""Any interleaving of earning, spending, giving, repeats, deaths and expiries against a model of kudos."""

import dataclasses
from dataclasses import dataclass, field

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from callboard_contracts.accounts import Account
from callboard_contracts.kudos import KudosEarnRequest, KudosReply, KudosTransferRequest
from callboard_contracts.quota import Hold
from callboard_quota.backends.memory import MemoryAccounts, MemoryBooks, MemoryJournal, MemoryLedger
from callboard_quota.domain.attempt import Granted
from callboard_quota.domain.changes import held_kudos
from callboard_quota.domain.kudos import Treasury
from callboard_quota.domain.ledger import Ledger
from callboard_quota.domain.limits import kudos_limit
from callboard_quota.domain.ports import Change, Counter
from callboard_quota.domain.reaper import Reaper
from callboard_quota.domain.windows import EVER
from tests.unit.quota.stage import Act, HandClock, Play, ask, give_way, run

pytestmark = pytest.mark.unit

ACCOUNTS = [f"k_{n:016d}" for n in range(3)]
Deal = KudosEarnRequest | KudosTransferRequest


class Process:
    """One quota process over the shared store."""

    def __init__(self, store: MemoryLedger, clock: HandClock) -> None:
        accounts = MemoryAccounts([Account(id=one, name=one, tier="t", keys=(), created_at=0) for one in ACCOUNTS])
        journal = MemoryJournal()
        self.ledger = Ledger(store, clock)
        self.treasury = Treasury(store, self.ledger, accounts, clock, journal, lambda _rule: None)
        self.reaper = Reaper(store, self.ledger, clock, journal, MemoryBooks(store).stands)
        self.reaping: Act[object] | None = None


@dataclass
class Spend:
    """A granted hold, and what its usage event will say."""

    hold: Hold
    cost: int | None = None


@dataclass
class Model:
    """What every change did to every account, and which of them stand for something that was granted."""

    changes: list[tuple[str, str, str, int]] = field(default_factory=list[tuple[str, str, str, int]])
    granted: set[str] = field(default_factory=set[str])
    deals: set[str] = field(default_factory=set[str])

    def saw(self, change: Change, _value: int) -> None:
        """Takes in a change."""
        if change.id is not None and change.counter.metric == "kudos":
            hold_id, _, step = change.id.rpartition(".")
            self.changes.append((hold_id, step[0], change.counter.tenant, change.amount))

    def check(self) -> None:
        """Replays all changes of what was granted: at no moment was any account below zero.

        What a deal takes is looked at when it is made: a repeat may find that it was taken before there was enough.
        """
        balances = dict.fromkeys(ACCOUNTS, 0)
        waiting: dict[str, tuple[str, int]] = {}
        for hold_id, step, account, amount in self.changes:
            if hold_id in self.deals and step == "r":
                waiting[hold_id] = account, amount
            elif hold_id in self.granted or hold_id in self.deals:
                giver, taken = waiting.pop(hold_id, (account, 0))
                balances[giver] -= taken
                balances[account] -= amount
                assert balances[giver] >= 0, (hold_id, giver)
                assert balances[account] >= 0, (hold_id, account)


@dataclass(frozen=True)
class Books:
    """What is left in the end, and what was recorded of it."""

    balances: list[int]
    earned: int
    spent: int
    deals: list[str]


class Bank(Play):
    """Everything that plays."""

    def __init__(self, data: st.DataObject) -> None:
        super().__init__(data, HandClock())
        self.store = MemoryLedger(self.clock, give_way)
        self.model = Model()
        self.store.on_change = self.model.saw
        self.processes = [Process(self.store, self.clock) for _ in range(2)]
        self.deals: list[Deal] = []
        self.answers: dict[str, set[str]] = {}
        self.asked: dict[int, Deal] = {}
        self.spends: dict[str, Spend] = {}

    def play(self, n: int) -> None:
        """One step of anybody."""
        process = self.processes[n % 2]
        moves = ["earn", "transfer", "transfer", "repeat", "contradict", "spend", "settle", "release", "expire", "reap"]
        match self.data.draw(st.sampled_from([*moves, "step", "step", "step", "step", "kill", "wait"])):
            case "earn":
                self._make(process, KudosEarnRequest(id=f"d{n}", account=self._account(), amount=self._amount()))
            case "transfer":
                source, target = self.data.draw(st.permutations(ACCOUNTS))[:2]
                amount = self._amount()
                self._make(process, KudosTransferRequest(id=f"d{n}", source=source, target=target, amount=amount))
            case "repeat" if self.deals:
                self._ask(process, self.data.draw(st.sampled_from(self.deals)))
            case "contradict" if self.deals:
                deal = self.data.draw(st.sampled_from(self.deals))
                self._ask(process, deal.model_copy(update={"amount": deal.amount + 1}))
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

    def _make(self, process: Process, deal: Deal) -> None:
        self.deals.append(deal)
        self._ask(process, deal)

    def _ask(self, process: Process, deal: Deal) -> None:
        asking = process.treasury.earn(deal) if isinstance(deal, KudosEarnRequest) else process.treasury.transfer(deal)
        act = Act[object]("deal", asking)
        self.asked[id(act)] = deal
        self.start(act)

    def _spend(self, process: Process, n: int) -> None:
        account, amount = self._account(), self._amount()
        wish = ask(f"s{n}", kudos_limit(account), tenant=account, units=1, at=self.clock.now())
        wish = dataclasses.replace(wish, amounts=((account, "units", 1), (account, "kudos", amount)))
        self.start(Act("spend", process.ledger.reserve(wish)))

    def _end(self, process: Process, kind: str, spend: Spend) -> None:
        if kind == "settle":
            if spend.cost is None:
                spend.cost = self.data.draw(st.integers(0, 120))
            self.start(Act("settle", process.ledger.settle(spend.hold, 1, kudos=spend.cost)))
        elif kind == "release":
            self.start(Act("release", process.ledger.release(spend.hold)))
        else:
            self.start(Act("expire", process.ledger.expire(spend.hold, "lease_over")))

    def judge(self, act: Act[object]) -> None:
        """Takes in what was granted, and what was answered to a deal."""
        if isinstance(act.result, Granted):
            self.spends.setdefault(act.result.hold.id, Spend(act.result.hold))
            self.model.granted.add(act.result.hold.id)
        elif isinstance(act.result, KudosReply):
            self._answered(self.asked[id(act)], act.result)

    def _answered(self, deal: Deal, reply: KudosReply) -> None:
        """Every answer to one deal is the same, but that the first is no repeat."""
        words = self.answers.setdefault(deal.model_dump_json(), set())
        words.add("done" if reply.error is None else reply.error.code.value)
        assert len(words) == 1

    def finish(self) -> Books:
        """Lets everything end, and says what is left and what was recorded."""
        self.let_all_end()
        self.clock.at += 400.0
        for process in self.processes:
            assert run(process.reaper.pass_once()).count == 0
        fates = {fate.hold_id: fate for fate in self.store.fates.values()}
        deals = {hold_id: fate for hold_id, fate in fates.items() if fate.work == "kudos" and fate.kind == "settled"}
        self.model.deals = set(deals)
        self.model.check()
        earned = sum(fate.kudos for fate in deals.values() if fate.reason == "earn")
        spent = 0
        for spend in self.spends.values():
            fate = fates.get(spend.hold.id)
            if fate is None:
                continue  # It stood open until its ids were forgotten, and all that it held went back.
            assert fate.kudos == (min(spend.cost or 0, held_kudos(spend.hold)) if fate.kind == "settled" else 0)
            spent += fate.kudos
        balances = [-self.store.values.get(Counter(account, "kudos", EVER), 0) for account in ACCOUNTS]
        return Books(balances, earned, spent, [fate.request_id for fate in deals.values()])


@settings(
    max_examples=300, deadline=None, phases=(Phase.reuse, Phase.generate), suppress_health_check=[HealthCheck.too_slow]
)
@given(st.data())
def test_kudos_are_neither_made_nor_lost_and_no_account_falls_below_zero(data: st.DataObject) -> None:
    bank = Bank(data)
    try:
        for n in range(data.draw(st.integers(5, 70), label="steps")):
            bank.play(n)
        books = bank.finish()
    finally:
        bank.drop_all()
    assert min(books.balances) >= 0
    assert sum(books.balances) == books.earned - books.spent
    assert len(set(books.deals)) == len(books.deals)
