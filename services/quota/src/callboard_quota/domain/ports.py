"""What the domain needs of the store, the log, the accounts, the clock and the journal."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from callboard_contracts.accounts import Account
from callboard_contracts.quota import AuditEvent, Hold, UsageEvent
from callboard_quota.domain.windows import DECISION_LIFE_S


class Counter(NamedTuple):
    """One counter of the ledger: whose, of what, in which bucket of time."""

    tenant: str
    metric: str
    bucket: str


class Change(NamedTuple):
    """An increment of one counter. An id makes it count once; a change of zero without an id only reads."""

    counter: Counter
    amount: int
    id: str | None


@dataclass(slots=True)
class Applied:
    """What became of a change: the counter's value just after it, which is not known for a duplicate.

    A duplicate that was not sent `again` was first sent by somebody else.
    """

    value: int | None
    duplicate: bool
    again: bool = False


class StoreUnavailable(Exception):  # noqa: N818 - a state, not a failure
    """The ledger's store did not answer in time; what was asked may still happen."""


class OutcomeUnknown(StoreUnavailable):
    """A hold may have been taken or not; it is ended soon, and must not be asked for again before."""


class LedgerStore(Protocol):
    """Counters whose increments are totally ordered, and leases that outlive the process that wrote them.

    Changes of one call take effect in the order given, among any others. Every method raises StoreUnavailable when
    the store does not confirm in time.
    """

    async def open(self, hold: Hold, changes: Sequence[Change], timeout_s: float = DECISION_LIFE_S) -> list[Applied]:
        """Records the lease of a hold and applies the changes."""
        ...

    async def apply(self, changes: Sequence[Change], closing: Hold | None = None) -> list[Applied]:
        """Applies the changes; with `closing` that hold's lease is removed at the same time."""
        ...

    async def record_outcome(self, outcome: AuditEvent) -> AuditEvent:
        """Records how the hold `outcome.hold_id` ended; the first record wins and is returned.

        For a kudos transaction the record is kept under the transaction `outcome.request_id`, since only one of its
        holds can be settled.
        """
        ...

    async def transaction_outcome(self, transaction_id: str) -> AuditEvent | None:
        """How a kudos transaction ended, however long ago, or None."""
        ...

    async def close(self, hold: Hold) -> None:
        """Removes a lease."""
        ...

    async def read(self, counters: Sequence[Counter]) -> dict[Counter, int]:
        """Reads counters; those that were never raised are left out."""
        ...

    def leases(self, tenant: str | None = None) -> AsyncIterator[Hold]:
        """Reads the holds of all open leases, or of one tenant's: the oldest first, and some at a time."""
        ...


@dataclass(frozen=True, slots=True)
class Logged:
    """A message of the log; `event` is None where it is no usage event."""

    seq: int
    stored_at: float
    event: UsageEvent | None


class UsageLog(Protocol):
    """All usage events in the order in which they were stored; every method raises StoreUnavailable."""

    async def seq_at(self, at: float) -> int | None:
        """The number of the first event stored at that time or later, or None."""
        ...

    async def last_seq(self) -> int:
        """The number of the newest event, 0 when there is none."""
        ...

    async def read(self, start_seq: int, tenant: str | None = None) -> list[Logged]:
        """Reads some events from a number on, of one tenant or of all; empty at the end of the log."""
        ...


class CounterStore(Protocol):
    """The ledger's counters by bucket, and the reconciler's checkpoint; every method raises StoreUnavailable."""

    async def counters(self, bucket: str) -> dict[Counter, int]:
        """Every counter of a bucket."""
        ...

    async def drop(self, metric: str, bucket: str) -> None:
        """Drops a bucket's counters of one metric."""
        ...

    async def is_applied(self, change: Change) -> bool:
        """Whether a change took effect already, however long ago."""
        ...

    async def revision(self, counter: Counter) -> int:
        """A number that is another one after each change of the counter; 0 for one that was never changed."""
        ...

    async def outcomes(self, request_id: str) -> list[AuditEvent]:
        """How the holds of a request ended."""
        ...

    async def load(self) -> tuple[bytes, int]:
        """The checkpoint and its revision; empty and 0 when there is none."""
        ...

    async def save(self, checkpoint: bytes, revision: int) -> int | None:
        """Replaces the checkpoint of that revision; returns the new revision, or None if it was changed meanwhile."""
        ...


class AccountStore(Protocol):
    """Who holds which key; both methods raise StoreUnavailable."""

    async def by_digest(self, digest: str) -> Account | None:
        """The account that a key belongs to, whether or not the key still opens anything."""
        ...

    async def by_id(self, account_id: str) -> Account | None:
        """The account of that id."""
        ...


class Clock(Protocol):
    """The time of day."""

    def now(self) -> float:
        """Unix seconds; never less than before within one process."""
        ...


class Journal(Protocol):
    """The audit of every decision."""

    def record(self, event: AuditEvent) -> None:
        """Records an event without waiting, to be read back by the request's id."""
        ...

    def count(self, event: AuditEvent) -> None:
        """Counts an event that the ledger's store has already recorded."""
        ...
