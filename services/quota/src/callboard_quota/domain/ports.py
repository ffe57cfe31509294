"""What the decisions need of the world outside."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from callboard_contracts.accounts import Account
from callboard_contracts.quota import AuditEvent, Hold


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


class Applied(NamedTuple):
    """What became of a change: the counter's value just after it, which is not known for a duplicate."""

    value: int | None
    duplicate: bool


@dataclass(frozen=True, slots=True)
class Lease:
    """An open hold as the store records it."""

    hold: Hold
    revision: int


class StoreUnavailable(Exception):  # noqa: N818 - a state, not a failure
    """The ledger's store did not answer in time; what was asked may still happen."""


class LedgerStore(Protocol):
    """Counters whose increments are totally ordered, and leases that outlive the process that wrote them.

    Changes of one call take effect in the order given, among any others. Every method raises StoreUnavailable when
    the store does not confirm in time.
    """

    async def open(self, hold: Hold, changes: Sequence[Change]) -> list[Applied]:
        """Records the lease of a hold and applies the changes."""
        ...

    async def apply(self, changes: Sequence[Change], closing: Hold | None = None) -> list[Applied]:
        """Applies the changes; with `closing` that hold's lease is removed at the same time."""
        ...

    async def decide(self, hold: Hold, fate: AuditEvent) -> AuditEvent:
        """Records how a hold ends, unless that is decided already; returns what stands, which is `fate` if it won."""
        ...

    async def close(self, hold: Hold) -> None:
        """Removes a lease."""
        ...

    async def read(self, counters: Sequence[Counter]) -> dict[Counter, int]:
        """Reads counters that nobody raises any more; those that were never raised are left out."""
        ...

    async def leases(self) -> list[Lease]:
        """Reads all open leases."""
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
    """Where every decision is noted."""

    def note(self, event: AuditEvent) -> None:
        """Takes note without waiting, to be read back by the request's id."""
        ...

    def count(self, event: AuditEvent) -> None:
        """Counts an event that the ledger's store has recorded already."""
        ...
