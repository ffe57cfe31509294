"""Everything that a quota process wires, over the ledger in memory, at noon."""

from collections.abc import Callable
from dataclasses import dataclass

from callboard_contracts.config import QuotaSection
from callboard_contracts.quota import Hold, UsageEvent, VerifyReply, VerifyRequest, Work
from callboard_quota.backends.memory import (
    MemoryAccounts,
    MemoryCounterStore,
    MemoryJournal,
    MemoryLedger,
    MemoryUsageLog,
)
from callboard_quota.domain.decision import Granted
from callboard_quota.domain.event_rules import EventRules
from callboard_quota.domain.ledger import Ledger
from callboard_quota.domain.limit_kinds import JOBS_AT_ONCE
from callboard_quota.domain.limits import Limit
from callboard_quota.domain.reaper import Reaper
from callboard_quota.domain.reconciler import Reconciler
from callboard_quota.domain.repair import CounterRepair
from callboard_quota.domain.settlement import Settler
from callboard_quota.domain.tenants import Secret
from callboard_quota.domain.usage_totals import UsageAggregator
from callboard_quota.domain.verification import Verifier
from tests.unit.quota.interleaving import (
    NOON,
    ManualClock,
    hold_request,
    no_reward,
    run,
    yield_once,
)

JOBS = Limit("key", "k_a", JOBS_AT_ONCE, 5)


@dataclass
class Harness:
    """Everything that a quota process wires, over memory."""

    clock: ManualClock
    store: MemoryLedger
    log: MemoryUsageLog
    journal: MemoryJournal
    ledger: Ledger
    settler: Settler
    reaper: Reaper
    verifier: Verifier
    counter_repair: CounterRepair
    make: Callable[[str], Reconciler]

    def hold(self, name: str, units: int = 5000) -> Hold:
        """Takes a hold that must be granted."""
        outcome = run(self.ledger.reserve(hold_request(name, JOBS, units=units, at=self.clock.at)))
        assert isinstance(outcome, Granted)
        return outcome.hold

    def report(self, hold: Hold, tokens: int, *, settle: bool = True) -> None:
        """Stores a usage event, and settles it unless the settlement is to be lost."""
        event = UsageEvent(
            request_id=hold.request_id,
            tenant=hold.tenant,
            kind="chat",
            model="owl",
            pool="main",
            work=Work(prompt_tokens=tokens),
            outcome="stop",
            hold=hold,
            at=self.clock.at,
        )
        self.log.store(event, self.clock.at)
        if settle:
            run(self.settler.settle(event))

    def repair(self) -> VerifyReply:
        """Repairs the counters of the last hours."""
        return run(self.counter_repair.repair(VerifyRequest(since=NOON - 3600, repair=True)))

    def verify(self) -> VerifyReply:
        """Verifies the last hours."""
        return run(self.verifier.verify(VerifyRequest(since=NOON - 3600)))


def new_harness() -> Harness:
    """A ledger at noon whose reconciler has made its first pass, so that there is a checkpoint."""
    clock = ManualClock()
    store = MemoryLedger(clock, yield_once)
    log, counters, journal = MemoryUsageLog(), MemoryCounterStore(store), MemoryJournal()
    secret = Secret(b"x" * 32)
    ledger = Ledger(store, clock, secret.signed)
    settings = QuotaSection()
    rules = EventRules(secret, MemoryAccounts())
    aggregator = UsageAggregator(log, counters, rules, lambda: settings)

    def make(name: str) -> Reconciler:
        return Reconciler(name, store, counters, log, aggregator, clock, journal, ledger.invalidate)

    async def pause(_seconds: float) -> None:
        await yield_once()

    settler = Settler(settings, rules, ledger, counters, clock, journal, no_reward)
    reaper = Reaper(store, ledger, clock, journal, MemoryCounterStore(store))
    verifier = Verifier(store, counters, log, aggregator, clock, pause)
    first = make("first")
    run(first.pass_once())
    repair = CounterRepair(store, counters, ledger, settler, aggregator, verifier, first, pause)
    return Harness(clock, store, log, journal, ledger, settler, reaper, verifier, repair, make)
