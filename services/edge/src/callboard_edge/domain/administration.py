"""What an operator may do over HTTP, as the shapes that the installation's books fill in."""

from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from callboard_contracts.accounts import Account, AccountKey
from callboard_contracts.config import QuotaSection
from callboard_contracts.kudos import KudosChange, KudosTransaction
from callboard_contracts.quota import AuditEvent, VerifyReply


class Accounts(Protocol):
    """The accounts and their API keys; each method raises CallboardError for what cannot be done."""

    async def create(
        self, name: str, tier: str, expires_at: float | None, limits: Mapping[str, int | None] | None = None
    ) -> tuple[Account, str]:
        """Makes an account with one key, and returns both."""
        ...

    async def all(self) -> list[Account]:
        """Every account, the oldest first."""
        ...

    async def find(self, text: str) -> tuple[Account, AccountKey | None]:
        """The account that an id, a name, a key or the start of a key's digest names."""
        ...

    async def change(
        self, account_id: str, tier: str | None = None, limits: Mapping[str, int | None] | None = None
    ) -> Account:
        """Gives an account another tier, or limits of its own."""
        ...

    async def rotate(self, account_id: str, expires_at: float | None, old_until: float) -> tuple[Account, str]:
        """Gives an account a new key, and lets its other keys end."""
        ...

    async def revoke(self, account_id: str, digest: str | None) -> Account:
        """Revokes one key of an account, or all of them."""
        ...


class UsageBooks(Protocol):
    """What was used."""

    async def used(self, since: float, until: float, tenant: str | None = None) -> dict[str, int]:
        """The units of each tenant."""
        ...

    def events(
        self, since: float, until: float, tenant: str | None = None
    ) -> AsyncGenerator[list[dict[str, str | int]]]:
        """The usage events, some at a time."""
        ...

    async def verify(self, since: float) -> VerifyReply:
        """Has quota compare its counters with the usage events."""
        ...

    async def audit_trail(self, request_id: str) -> list[AuditEvent]:
        """Everything that quota did about a request."""
        ...


class KudosBooks(Protocol):
    """What accounts have in kudos, in thousandths; each method raises CallboardError for what quota refuses."""

    async def balance(self, account: str) -> int:
        """What an account has."""
        ...

    async def earn(self, account: str, amount: int, transaction_id: str | None = None) -> KudosTransaction:
        """Credits an account, once for each id."""
        ...

    async def transfer(
        self, source: str, target: str, amount: int, transaction_id: str | None = None
    ) -> KudosTransaction:
        """Moves kudos from one account to another, once for each id."""
        ...

    def history(self, account: str, since: float = 0.0, after_seq: int = 0) -> AsyncGenerator[KudosChange]:
        """Every change of an account's kudos since a time and after another, the oldest first."""
        ...


@dataclass(frozen=True, slots=True)
class Administration:
    """What the admin API works with; `quota` reads the settings of quota as they stand in the file now."""

    token_digest: bytes
    accounts: Accounts
    usage: UsageBooks
    kudos: KudosBooks
    quota: Callable[[], Awaitable[QuotaSection]]
    failure_pause_s: float = 0.5
