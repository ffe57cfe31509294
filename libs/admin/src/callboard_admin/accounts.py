"""The accounts and their API keys: what the command line and the admin API do with them.

A key is told once, when it is made; only its SHA-256 is stored. Every change is written by compare-and-set and then
announced, so a revoked key is refused at once by every quota process.
"""

import asyncio
import re
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Protocol

import nats.errors

from callboard_contracts.accounts import (
    ACCOUNT_PREFIX,
    KEY_PREFIX,
    Account,
    AccountKey,
    account_entry,
    key_digest,
    key_entry,
    new_account_id,
    new_key,
)
from callboard_contracts.config import TierSection
from callboard_contracts.errors import CallboardError, ErrorCode
from callboard_contracts.streams import BUCKET_ACCOUNTS
from callboard_contracts.subjects import CTL_ACCOUNTS
from callboard_kit.bucket import Bucket, Conflict, Entry
from callboard_kit.bus import TRANSPORT_ERRORS, Bus, BusUnavailable

MAX_TRIES = 10
MAX_ACCOUNTS = 1_000_000
ANNOUNCE_TIMEOUT_S = 2
MAX_LIMIT = 10**15 - 1
"""The largest limit of its own that an account can have."""
_ACCOUNT_ID = re.compile(r"k_[0-9a-f]{16}")
_DIGEST_START = re.compile(r"[0-9a-f]{8,64}")

Change = Callable[[Account], Account]
Limits = Mapping[str, int | None]
"""Limits of an account's own by name; None gives one back to the tier."""


class Entries(Protocol):
    """The bucket that holds the accounts."""

    async def get(self, key: str) -> Entry | None:
        """Reads one entry, or None."""
        ...

    async def list(self, pattern: str, limit: int) -> list[Entry]:
        """Reads every entry that matches."""
        ...

    async def put(self, key: str, value: bytes, revision: int | None) -> int:
        """Writes an entry that stands at a revision, 0 for one that must not exist yet; raises Conflict."""
        ...


class Accounts:
    """Reads and changes accounts.

    Every method raises BusError when the bus does not do its part, and CallboardError for what cannot be done.
    """

    def __init__(self, entries: Entries, announce: Callable[[str], Awaitable[None]]) -> None:
        self._entries = entries
        self._announce = announce

    @classmethod
    def on(cls, bus: Bus) -> "Accounts":
        """The book that all services of an installation share."""

        async def announce(account_id: str) -> None:
            await bus.publish(CTL_ACCOUNTS, account_id.encode())
            try:
                await bus.connection.flush(timeout=ANNOUNCE_TIMEOUT_S)
            except (nats.errors.Error, TimeoutError, *TRANSPORT_ERRORS) as error:
                raise BusUnavailable("the change is stored, but may not have been announced") from error

        return cls(Bucket(bus, BUCKET_ACCOUNTS), announce)

    async def create(
        self, name: str, tier: str, expires_at: float | None, limits: Limits | None = None
    ) -> tuple[Account, str]:
        """Makes an account with one key, and returns both; the key cannot be read again."""
        if not 1 <= len(name) <= 200 or not name.isprintable():
            raise CallboardError(ErrorCode.INVALID_REQUEST, "1 to 200 printable characters are allowed", param="name")
        key, now = new_key(), time.time()
        first = AccountKey(digest=key_digest(key), created_at=now, expires_at=expires_at)
        account = Account(
            id=new_account_id(),
            name=name,
            tier=tier,
            keys=(first,),
            limits=TierSection().model_copy(update=dict(limits or {})),
            created_at=now,
        )
        # The key's entry comes last: until it stands the key opens nothing, and a failure leaves nothing half open.
        await self._entries.put(account_entry(account.id), account.model_dump_json().encode(), revision=0)
        await self._entries.put(key_entry(first.digest), account.id.encode(), revision=0)
        await self._announce(account.id)
        return account, key

    async def all(self) -> list[Account]:
        """Every account, the oldest first."""
        entries = await self._entries.list(f"{ACCOUNT_PREFIX}*", MAX_ACCOUNTS)
        return await asyncio.to_thread(_in_order, entries)

    async def find(self, text: str) -> tuple[Account, AccountKey | None]:
        """The account that a text names: its id or name, a key, or the start of a key's digest.

        Raises:
            CallboardError: none or more than one is meant.
        """
        if _ACCOUNT_ID.fullmatch(text):
            entry = await self._entries.get(account_entry(text))
            if entry is not None:
                return Account.model_validate_json(entry.value), None
        is_key = text.startswith(KEY_PREFIX)
        start = key_digest(text) if is_key else text
        found: list[tuple[Account, AccountKey | None]] = []
        for account in await self.all():
            if text == account.name:
                found.append((account, None))
            elif _DIGEST_START.fullmatch(start):
                found += [(account, key) for key in account.keys if key.digest.startswith(start)]
        if len(found) != 1:
            shown = "the key" if is_key else repr(text[:200])
            raise CallboardError(
                ErrorCode.UNKNOWN_ACCOUNT,
                f"{shown} names {len(found) or 'no'} account{'s' if len(found) > 1 else ''} or key"
                f"{'s' if len(found) > 1 else ''}",
                param="who",
            )
        return found[0]

    async def change(self, account_id: str, tier: str | None = None, limits: Limits | None = None) -> Account:
        """Gives an account another tier, or limits of its own."""

        def change(account: Account) -> Account:
            return account.model_copy(
                update={
                    "tier": tier or account.tier,
                    "limits": account.limits.model_copy(update=dict(limits or {})),
                }
            )

        return await self._change(account_id, change)

    async def rotate(self, account_id: str, expires_at: float | None, old_until: float) -> tuple[Account, str]:
        """Gives an account a new key, and lets its other keys end at the given time if not before."""
        key = new_key()
        added = AccountKey(digest=key_digest(key), created_at=time.time(), expires_at=expires_at)

        def change(account: Account) -> Account:
            kept = tuple(
                one.model_copy(update={"expires_at": min(one.expires_at or old_until, old_until)})
                for one in account.keys
            )
            return account.model_copy(update={"keys": (*kept, added)})

        await self._entries.put(key_entry(added.digest), account_id.encode(), revision=0)
        return await self._change(account_id, change), key

    async def revoke(self, account_id: str, digest: str | None) -> Account:
        """Revokes one key of an account, or all of them."""
        now = time.time()

        def change(account: Account) -> Account:
            keys = tuple(
                key.model_copy(update={"revoked_at": now})
                if key.revoked_at is None and digest in {None, key.digest}
                else key
                for key in account.keys
            )
            return account.model_copy(update={"keys": keys})

        return await self._change(account_id, change)

    async def _change(self, account_id: str, change: Change) -> Account:
        """Changes an account as it stands now, whatever others change meanwhile."""
        for _ in range(MAX_TRIES):
            entry = await self._entries.get(account_entry(account_id))
            if entry is None:
                raise CallboardError(ErrorCode.UNKNOWN_ACCOUNT, f"account {account_id} is gone", param="who")
            account = change(Account.model_validate_json(entry.value))
            try:
                await self._entries.put(entry.key, account.model_dump_json().encode(), entry.revision)
            except Conflict:
                continue
            await self._announce(account_id)
            return account
        raise CallboardError(ErrorCode.CONFLICT, f"account {account_id} is being changed by others; try again")


def check_tier(name: str, tiers: Iterable[str]) -> str:
    """The name of a tier that exists.

    Raises:
        CallboardError: `invalid_request` with the tiers on offer.
    """
    offered = tuple(sorted(tiers))
    if name not in offered:
        raise CallboardError(
            ErrorCode.INVALID_REQUEST,
            f"found {name[:40]!r}, allowed are {', '.join(offered)}",
            param="tier",
            offered=offered,
        )
    return name


def _in_order(entries: Iterable[Entry]) -> list[Account]:
    accounts = [Account.model_validate_json(entry.value) for entry in entries]
    return sorted(accounts, key=lambda account: (account.created_at, account.id))
