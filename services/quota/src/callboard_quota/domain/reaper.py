"""Ends holds whose job never reported."""

import logging
import math
from dataclasses import dataclass

from callboard_contracts.quota import Hold
from callboard_quota.domain.changes import audit_event, is_transaction
from callboard_quota.domain.ledger import Ledger
from callboard_quota.domain.ports import Clock, CounterStore, Journal, LedgerStore

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class OpenHolds:
    """The holds that a pass left open; the first ends at `earliest_end`, infinity when there is none."""

    count: int
    earliest_end: float


class Reaper:
    """Reads the open leases and ends those that are over."""

    def __init__(
        self,
        store: LedgerStore,
        ledger: Ledger,
        clock: Clock,
        journal: Journal,
        counters: CounterStore,
    ) -> None:
        self._store = store
        self._ledger = ledger
        self._clock = clock
        self._journal = journal
        self._counters = counters

    async def pass_once(self) -> OpenHolds:
        """Ends what is over and says what stays open; raises StoreUnavailable."""
        for hold in self._ledger.unconfirmed_holds[:]:
            # One whose ids may be forgotten still has its lease, if anything was written.
            if self._ledger.can_settle(hold):
                await self._expire(hold, "unknown_outcome")
            self._ledger.unconfirmed_holds.remove(hold)
        count, earliest_end = 0, math.inf
        async for hold in self._store.leases():
            if hold.expires_at > self._clock.now():
                count += 1
                earliest_end = min(earliest_end, hold.expires_at)
            elif self._ledger.can_settle(hold):
                await self._expire(hold, "lease_over")
            else:
                # Its ids may be forgotten, so an increment could count twice; the reconciler settles its hour.
                await self._ledger.end_stale(hold, self._counters)
                await self._store.close(hold)
                self._journal.record(audit_event("ignored", hold, self._clock.now(), "lease_too_old"))
        return OpenHolds(count, earliest_end)

    async def _expire(self, hold: Hold, reason: str) -> None:
        ended = await self._ledger.expire(hold, reason)
        if ended.first and is_transaction(hold):
            self._journal.record(ended.outcome)
        elif ended.first:
            self._journal.count([ended.outcome])
