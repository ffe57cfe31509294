"""What the admin API needs, as Protocols that callboard_admin implements."""

from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from callboard_contracts.accounts import Account, AccountKey
from callboard_contracts.characters import Character, StoredCharacter
from callboard_contracts.config import QuotaSection
from callboard_contracts.kudos import KudosChange, KudosLeader, KudosPayment, KudosTransaction
from callboard_contracts.quota import AuditEvent, VerifyReply
from callboard_contracts.rooms import Room


class Accounts(Protocol):
    """Accounts and their API keys; each method raises CallboardError for what cannot be done."""

    async def create(
        self, name: str, tier: str, expires_at: float | None, limits: Mapping[str, int | None] | None = None
    ) -> tuple[Account, str]:
        """Creates an account with one key and returns both."""
        ...

    async def all(self) -> list[Account]:
        """Returns every account, the oldest first."""
        ...

    async def find(self, text: str) -> tuple[Account, AccountKey | None]:
        """Finds the account by its id or name, by a key, or by the start of a key's digest."""
        ...

    async def change(
        self, account_id: str, tier: str | None = None, limits: Mapping[str, int | None] | None = None
    ) -> Account:
        """Changes an account's tier or its own limits."""
        ...

    async def rotate(self, account_id: str, expires_at: float | None, old_until: float) -> tuple[Account, str]:
        """Adds a new key to an account; its other keys expire."""
        ...

    async def revoke(self, account_id: str, digest: str | None) -> Account:
        """Revokes one key of an account, or all of them."""
        ...


class UsageRecords(Protocol):
    """Usage of accounts and other tenants."""

    async def used(self, since: float, until: float, tenant: str | None = None) -> dict[str, int]:
        """Sums the units of each tenant."""
        ...

    def events(
        self, since: float, until: float, tenant: str | None = None
    ) -> AsyncGenerator[list[dict[str, str | int]]]:
        """Yields the usage events in batches."""
        ...

    async def verify(self, since: float) -> VerifyReply:
        """Asks quota to compare its counters with the usage events."""
        ...

    async def audit_trail(self, request_id: str) -> list[AuditEvent]:
        """Returns what quota did for a request."""
        ...


class KudosRecords(Protocol):
    """Kudos of accounts, in thousandths; each method raises CallboardError for what quota refuses."""

    async def balance(self, account: str) -> int:
        """Returns the balance of an account."""
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
        """Yields the changes of an account's kudos since a time and after a `seq`, the oldest first."""
        ...

    async def leaders(self, since: float, limit: int) -> list[KudosLeader]:
        """Returns the accounts whose volunteers earned most since a time."""
        ...

    def payments(self, worker: str, since: float = 0.0, after_seq: int = 0) -> AsyncGenerator[KudosPayment]:
        """Yields what a volunteer was paid since a time and after a `seq`, the oldest first."""
        ...


class RoomRecords(Protocol):
    """Rooms; each method raises CallboardError for what cannot be done."""

    async def all(self) -> list[Room]:
        """Returns every room, the one that was last active first."""
        ...

    async def find(self, text: str) -> Room:
        """Finds a room by its id or its key."""
        ...

    async def end(self, room: Room) -> None:
        """Ends a room."""
        ...


class CharacterRecords(Protocol):
    """Characters; each method raises CallboardError for what cannot be done."""

    async def all(self) -> list[StoredCharacter]:
        """Returns every character, by name."""
        ...

    async def find(self, name: str) -> StoredCharacter:
        """Finds a character by its name."""
        ...

    async def put_settings(self, name: str, settings: dict[str, Any], revision: int | None = None) -> StoredCharacter:
        """Writes a character by its settings."""
        ...

    async def import_file(
        self, data: bytes, name: str | None, settings: dict[str, Any], *, replaces: bool = False
    ) -> tuple[StoredCharacter, bool]:
        """Writes a character by the file of its card; the second is whether a picture was too large to be kept."""
        ...

    async def export_file(
        self, name: str, form: Literal["json", "png"], version: Literal["v1", "v2", "v3"] | None = None
    ) -> bytes:
        """A character as the file of a card."""
        ...

    async def delete(self, name: str, revision: int | None = None) -> Character:
        """Deletes a character, and everything that it remembers of anybody."""
        ...

    async def forget(self, name: str, speaker: str | None = None) -> int:
        """Has a character forget a speaker, or all; returns how many memories that were."""
        ...


@dataclass(frozen=True, slots=True)
class Administration:
    """The dependencies of the admin API; `quota` reads the present settings of quota from the file."""

    token_digest: bytes
    accounts: Accounts
    usage: UsageRecords
    kudos: KudosRecords
    rooms: RoomRecords
    characters: CharacterRecords
    quota: Callable[[], Awaitable[QuotaSection]]
    failure_pause_s: float = 0.5
