"""Puts the counters right after a power cut, from usage events and open holds, while requests go on."""

from callboard_contracts.quota import Hold, VerifyReply, VerifyRequest
from callboard_quota.domain.changes import increments, is_transaction
from callboard_quota.domain.ledger import Ledger
from callboard_quota.domain.ports import Counter, CounterStore, LedgerStore
from callboard_quota.domain.reconciler import Reconciler
from callboard_quota.domain.verification import Verifier

MAX_ROUNDS = 5
"""A counter that another process corrects at the same time may need a second round."""


class CounterRepair:
    """Completes what a power cut left half done, and corrects the counters that then differ.

    Counters and removals of leases are not waited for until they are on the disk; all else tells what they must be.
    """

    def __init__(
        self,
        store: LedgerStore,
        counters: CounterStore,
        ledger: Ledger,
        verifier: Verifier,
        reconciler: Reconciler,
    ) -> None:
        self._store = store
        self._counter_store = counters
        self._ledger = ledger
        self._verifier = verifier
        self._reconciler = reconciler

    async def repair(self, request: VerifyRequest) -> VerifyReply:
        """Corrects the counters of all hours since a time, and compares them again; raises StoreUnavailable."""
        async for hold in self._store.leases():
            await self._complete(hold)
        corrected = rounds = 0
        differences, reply = await self._verifier.differences(request.since)
        while differences and rounds < MAX_ROUNDS:
            rounds += 1
            for drift in differences:
                counter = Counter(drift.tenant, drift.metric, drift.bucket)
                missing = drift.events + drift.open - drift.counted
                name = f"repair.{drift.bucket}.{drift.counted}"
                corrected += await self._reconciler.correct(counter, missing, name, "counters_repaired")
            differences, reply = await self._verifier.differences(request.since)
        return reply.model_copy(update={"corrected_count": corrected})

    async def _complete(self, hold: Hold) -> None:
        """Repeats the increments of a hold, and its end where one is recorded; each that took effect counts once."""
        if is_transaction(hold) or not self._ledger.can_settle(hold):
            # Nothing of a transaction is lost, and of a hold that is too old the ids may be forgotten.
            return
        outcomes = await self._counter_store.outcomes(hold.request_id)
        if any(outcome.hold_id == hold.id for outcome in outcomes):
            await self._ledger.expire(hold, "power_cut")
        else:
            await self._store.apply(increments(hold))
