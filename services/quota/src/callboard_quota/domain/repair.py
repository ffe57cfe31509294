"""Puts the counters right after a power cut, from usage events and open holds, while requests go on."""

from collections.abc import Awaitable, Callable

from callboard_contracts.quota import Hold, VerifyReply, VerifyRequest
from callboard_quota.domain.changes import increments, is_transaction
from callboard_quota.domain.event_rules import holds_of
from callboard_quota.domain.ledger import Ledger
from callboard_quota.domain.ports import Counter, CounterStore, LedgerStore
from callboard_quota.domain.reconciler import Reconciler
from callboard_quota.domain.settlement import Settler
from callboard_quota.domain.usage_totals import UsageAggregator
from callboard_quota.domain.verification import PAUSE_S, Verifier

STEADY_ROUNDS = 8
"""A counter is corrected once it differs by the same amount so often, since one that changes meanwhile differs too."""
QUIET_ROUNDS = 2
MAX_ROUNDS = 240
"""A counter that never rests is corrected when its hour is closed."""


class CounterRepair:
    """Completes what a power cut left half done, and corrects the counters that then differ.

    Counters and removals of leases are not waited for until they are on the disk; all else tells what they must be.
    """

    def __init__(
        self,
        store: LedgerStore,
        counters: CounterStore,
        ledger: Ledger,
        settler: Settler,
        aggregator: UsageAggregator,
        verifier: Verifier,
        reconciler: Reconciler,
        pause: Callable[[float], Awaitable[None]],
    ) -> None:
        self._store = store
        self._counter_store = counters
        self._ledger = ledger
        self._settler = settler
        self._aggregator = aggregator
        self._verifier = verifier
        self._reconciler = reconciler
        self._pause = pause

    async def repair(self, request: VerifyRequest) -> VerifyReply:
        """Corrects the counters of all hours since a time, and compares them again; raises StoreUnavailable."""
        await self._complete(request.since)
        corrected = 0
        steady: dict[Counter, tuple[int, int]] = {}
        quiet_rounds = 0
        for _ in range(MAX_ROUNDS):
            found = (await self._verifier.compare(request.since)).values()
            differences = {
                Counter(one.tenant, one.metric, one.bucket): one.events + one.open - one.counted for one in found
            }
            quiet_rounds = 0 if differences else quiet_rounds + 1
            if quiet_rounds == QUIET_ROUNDS:
                break
            known, steady = steady, {}
            for counter, difference in differences.items():
                before, rounds = known.get(counter, (difference, 0))
                steady[counter] = difference, rounds + 1 if before == difference else 1
                if steady[counter][1] == STEADY_ROUNDS:
                    # Whoever corrects the counter as it is uses the same id, so the correction counts once.
                    name = f"repair.{counter.bucket}.{await self._counter_store.revision(counter)}"
                    corrected += await self._reconciler.correct(counter, difference, name, "counters_repaired")
                    del steady[counter]
            await self._pause(PAUSE_S)
        reply = await self._verifier.verify(request)
        return reply.model_copy(update={"corrected_count": corrected})

    async def _complete(self, since: float) -> None:
        """Repeats what was begun: each increment of an open hold, the end of one that is recorded, each settlement.

        All of it counts once, by its ids. Transactions are on the disk before they count, and the ids of holds that are
        too old may be forgotten.
        """
        open_holds = [
            hold async for hold in self._store.leases() if not is_transaction(hold) and self._ledger.can_settle(hold)
        ]
        for hold in open_holds:
            await self._repeat(hold)
        ids = {hold.id for hold in open_holds}
        async for logged in self._aggregator.since(since):
            if logged.event and not ids.isdisjoint(hold.id for hold in holds_of(logged.event)):
                await self._settler.settle(logged.event, logged.stored_at)

    async def _repeat(self, hold: Hold) -> None:
        outcomes = await self._counter_store.outcomes(hold.request_id)
        if any(outcome.hold_id == hold.id for outcome in outcomes):
            await self._ledger.expire(hold, "power_cut")
        else:
            await self._store.apply(increments(hold))
