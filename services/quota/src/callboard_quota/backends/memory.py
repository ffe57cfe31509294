"""The domain's ports in memory, with the guarantees of the real ones."""

import asyncio
import math
from collections import Counter as Counts
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

from cachetools import TTLCache

from callboard_contracts.accounts import Account
from callboard_contracts.quota import AuditEvent, Hold, UsageEvent
from callboard_contracts.streams import DEDUPLICATION_WINDOW_S
from callboard_quota.domain.ports import Applied, Change, Clock, Counter, Logged, StoreUnavailable
from callboard_quota.domain.windows import DECISION_LIFE_S

LEASES_AT_ONCE = 2


async def _yield_control() -> None:
    await asyncio.sleep(0)


class MemoryLedger:
    """Counters that remember ids for the deduplication window.

    `yield_control` is awaited before and after each single write, so that a test can interleave several callers; writes
    fail while `failing` is set, half of them after they took effect. `lose_newest` is a power cut.
    """

    def __init__(self, clock: Clock, yield_control: Callable[[], Awaitable[None]] = _yield_control) -> None:
        self._yield_control = yield_control
        self._ids: TTLCache[str, None] = TTLCache(math.inf, DEDUPLICATION_WINDOW_S, timer=clock.now)
        self.every_id: set[str] = set()
        self._leases: dict[str, tuple[int, Hold]] = {}
        self.outcomes: dict[str, AuditEvent] = {}
        self._opened = 0
        self._changes: list[Change] = []
        self.revisions: Counts[Counter] = Counts()
        """How often each counter was changed; a change that was lost still has its number."""
        self._removals: list[tuple[int, Hold]] = []
        """The removals of leases since the newest lease, which brought those before it to the disk."""
        self.values: dict[Counter, int] = {}
        self.failing = False
        self.on_change: Callable[[Change, int], None] = lambda _change, _value: None

    async def open(self, hold: Hold, changes: Sequence[Change], timeout_s: float = DECISION_LIFE_S) -> list[Applied]:
        """Records the lease of a hold and applies the changes."""
        del timeout_s
        await self._yield_control()
        self._opened += 1
        self._leases.setdefault(hold.id, (self._opened, hold))
        self._removals.clear()
        return await self.apply(changes)

    async def apply(self, changes: Sequence[Change], closing: Hold | None = None) -> list[Applied]:
        """Applies the changes one by one; a lease goes first, the worst order for a crash."""
        applied: list[Applied] = []
        if closing:
            await self.close(closing)
        for n, change in enumerate(changes):
            await self._yield_control()
            if n % 2 == 0:
                self._check()
            applied.append(self._apply(change))
        self._check()
        await self._yield_control()
        return applied

    async def record_outcome(self, outcome: AuditEvent) -> AuditEvent:
        """Records how a hold ends, unless that is decided already."""
        await self._yield_control()
        self._check()
        decided = self.outcomes.setdefault(outcome_key(outcome), outcome)
        await self._yield_control()
        return decided

    async def transaction_outcome(self, transaction_id: str) -> AuditEvent | None:
        """How a transaction ended, or None."""
        await self._yield_control()
        return self.outcomes.get(f"transaction {transaction_id}")

    async def close(self, hold: Hold) -> None:
        """Removes a lease."""
        await self._yield_control()
        self._check()
        if (lease := self._leases.pop(hold.id, None)) is not None:
            self._removals.append(lease)

    async def read(self, counters: Sequence[Counter]) -> dict[Counter, int]:
        """Reads counters; those that were never raised are left out."""
        await self._yield_control()
        return {counter: self.values[counter] for counter in counters if counter in self.values}

    async def leases(self, tenant: str | None = None) -> AsyncIterator[Hold]:
        """Reads the holds of all open leases, or of one tenant's, a few at a time."""
        known = 0
        while True:
            await self._yield_control()
            some = [(n, hold) for n, hold in self._leases.values() if n > known][:LEASES_AT_ONCE]
            for _, hold in some:
                if tenant in {None, hold.tenant}:
                    yield hold
            if not some:
                return
            known = some[-1][0]

    def lose_newest(self, changes: int, removals: int) -> None:
        """Loses the newest changes of counters and removals of leases, which nobody waits for to be on the disk."""
        for _ in range(min(changes, len(self._changes))):
            counter, amount, id_ = self._changes.pop()
            self.values[counter] -= amount
            if id_ is not None:
                self._ids.pop(id_)
                self.every_id.discard(id_)
        for _ in range(min(removals, len(self._removals))):
            n, hold = self._removals.pop()
            self._leases[hold.id] = n, hold

    def _check(self) -> None:
        if self.failing:
            raise StoreUnavailable("told to fail")

    def _apply(self, change: Change) -> Applied:
        if change.id is not None:
            if change.id in self._ids:
                return Applied(None, duplicate=True)
            self._ids[change.id] = None
            self.every_id.add(change.id)
        value = self.values.get(change.counter, 0) + change.amount
        self.values[change.counter] = value
        self._changes.append(change)
        self.revisions[change.counter] += 1
        self.on_change(change, value)
        return Applied(value, duplicate=False)


def outcome_key(outcome: AuditEvent) -> str:
    """What an outcome is recorded for: a hold, or a kudos transaction, whichever of its holds is tried."""
    return f"transaction {outcome.request_id}" if outcome.work == "kudos" else outcome.hold_id


class MemoryCounterStore:
    """The counters of a ledger in memory by bucket; ids are never forgotten here."""

    def __init__(self, ledger: MemoryLedger) -> None:
        self._ledger = ledger
        self._checkpoint = b""
        self._revision = 0

    async def counters(self, bucket: str) -> dict[Counter, int]:
        """Every counter of a bucket."""
        return {counter: value for counter, value in self._ledger.values.items() if counter.bucket == bucket}

    async def drop(self, metric: str, bucket: str) -> None:
        """Drops a bucket's counters of one metric."""
        for counter in [one for one in self._ledger.values if (one.metric, one.bucket) == (metric, bucket)]:
            del self._ledger.values[counter]

    async def is_applied(self, change: Change) -> bool:
        """Whether a change took effect already."""
        return change.id in self._ledger.every_id

    async def revision(self, counter: Counter) -> int:
        """How often the counter was changed."""
        return self._ledger.revisions[counter]

    async def outcomes(self, request_id: str) -> list[AuditEvent]:
        """How the holds of a request ended."""
        return [outcome for outcome in self._ledger.outcomes.values() if outcome.request_id == request_id]

    async def load(self) -> tuple[bytes, int]:
        """The checkpoint and its revision."""
        return self._checkpoint, self._revision

    async def save(self, checkpoint: bytes, revision: int) -> int | None:
        """Replaces the checkpoint of that revision."""
        if revision != self._revision:
            return None
        self._checkpoint = checkpoint
        self._revision += 1
        return self._revision


class MemoryUsageLog:
    """Usage events in a list."""

    def __init__(self) -> None:
        self.logged: list[Logged] = []

    def store(self, event: UsageEvent | None, at: float) -> None:
        """Appends an event, or None for a message that is none."""
        self.logged.append(Logged(len(self.logged) + 1, at, event))

    async def seq_at(self, at: float) -> int | None:
        """The number of the first event stored at that time or later, or None."""
        return next((logged.seq for logged in self.logged if logged.stored_at >= at), None)

    async def last_seq(self) -> int:
        """The number of the newest event, 0 when there is none."""
        return len(self.logged)

    async def read(self, start_seq: int, tenant: str | None = None) -> list[Logged]:
        """Reads some events from a number on."""
        found = [
            logged
            for logged in self.logged
            if logged.seq >= start_seq and (tenant is None or (logged.event and logged.event.tenant == tenant))
        ]
        return found[:5]


class MemoryAccounts:
    """Accounts in a dictionary."""

    def __init__(self, accounts: Sequence[Account] = ()) -> None:
        self.accounts = {account.id: account for account in accounts}
        self.failing = False

    async def by_digest(self, digest: str) -> Account | None:
        """The account that a key belongs to."""
        self._check()
        return next((account for account in self.accounts.values() if account.key(digest)), None)

    async def by_id(self, account_id: str) -> Account | None:
        """The account of that id."""
        self._check()
        return self.accounts.get(account_id)

    def _check(self) -> None:
        if self.failing:
            raise StoreUnavailable("told to fail")


class MemoryJournal:
    """Events in a list."""

    def __init__(self) -> None:
        self.events: list[AuditEvent] = []

    def record(self, event: AuditEvent) -> None:
        """Appends an event."""
        self.events.append(event)

    count = record
