"""Accounts and their API keys, as the command line and the admin API manage them.

A key is returned once, when it is created; only its SHA-256 is stored. Every change is written by compare-and-set and
then announced, so every quota process refuses a revoked key at once.
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
from callboard_contracts.config import LimitsSection
from callboard_contracts.errors import CallboardError, ErrorCode
from callboard_contracts.streams import BUCKET_ACCOUNTS
from callboard_contracts.subjects import CTL_ACCOUNTS
from callboard_kit.bucket import Bucket, Conflict, Entry
from callboard_kit.bus import TRANSPORT_ERRORS, Bus, BusUnavailable

MAX_ATTEMPTS = 10
MAX_ACCOUNTS = 1_000_000
ANNOUNCE_TIMEOUT_S = 2
MAX_LIMIT = 10**15 - 1
"""The largest value of an account's own limit."""
_ACCOUNT_ID = re.compile(r"k_[0-9a-f]{16}")
_DIGEST_START = re.compile(r"[0-9a-f]{8,64}")

Change = Callable[[Account], Account]
Limits = Mapping[str, int | None]
"""An account's own limits by name; None restores the limit of the tier."""


class AccountBucket(Protocol):
    """The bucket that stores the accounts."""

    async def get(self, key: str) -> Entry | None:
        """Reads one entry, or None."""
        ...

    async def list(self, pattern: str, limit: int) -> list[Entry]:
        """Reads the newest value of every entry that matches."""
        ...

    async def put(self, key: str, value: bytes, revision: int | None) -> int:
        """Writes an entry that is at a revision, 0 for one that must not exist yet; raises Conflict."""
        ...


class Accounts:
    """Reads and changes accounts.

    Every method raises BusError when the bus fails, and CallboardError for what cannot be done.
    """

    def __init__(self, bucket: AccountBucket, announce: Callable[[str], Awaitable[None]]) -> None:
        self._bucket = bucket
        self._announce = announce

    @classmethod
    def on(cls, bus: Bus) -> "Accounts":
        """The accounts of an installation; changes are announced on its bus."""

        async def announce(account_id: str) -> None:
            await bus.publish(CTL_ACCOUNTS, account_id.encode())
            try:
                await bus.connection.flush(timeout=ANNOUNCE_TIMEOUT_S)
            except (nats.errors.Error, TimeoutError, *TRANSPORT_ERRORS) as error:
                raise BusUnavailable("the change is stored, but may not have been announced") from error

        return cls(Bucket(bus, BUCKET_ACCOUNTS), announce)

    async def create(
        self, name: str, tier: str, expires_at: float | None, limits: Limits | None = None, key: str | None = None
    ) -> tuple[Account, str]:
        """Creates an account with one key, fresh unless it is given, and returns both; it cannot be read again."""
        if not 1 <= len(name) <= 200 or not name.isprintable():
            raise CallboardError(ErrorCode.INVALID_REQUEST, "1 to 200 printable characters are allowed", param="name")
        if key is not None and await self._bucket.get(key_entry(key_digest(key))) is not None:
            raise CallboardError(ErrorCode.CONFLICT, "that key belongs to another account")
        key, now = key or new_key(), time.time()
        first = AccountKey(digest=key_digest(key), created_at=now, expires_at=expires_at)
        account = Account(
            id=new_account_id(),
            name=name,
            tier=tier,
            keys=(first,),
            limits=LimitsSection().model_copy(update=dict(limits or {})),
            created_at=now,
        )
        # The key's entry is written last: until then the key is unknown, so a failure in between leaves no usable key.
        await self._bucket.put(account_entry(account.id), account.model_dump_json().encode(), revision=0)
        await self._bucket.put(key_entry(first.digest), account.id.encode(), revision=0)
        await self._announce(account.id)
        return account, key

    async def all(self) -> list[Account]:
        """Returns every account, the oldest first."""
        entries = await self._bucket.list(f"{ACCOUNT_PREFIX}*", MAX_ACCOUNTS)
        return await asyncio.to_thread(_parse_sorted, entries)

    async def find(self, text: str) -> tuple[Account, AccountKey | None]:
        """Finds the account by its id or name, by a key, or by the start of a key's digest.

        Raises:
            CallboardError: none matches, or more than one.
        """
        if _ACCOUNT_ID.fullmatch(text):
            entry = await self._bucket.get(account_entry(text))
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
        """Changes an account's tier or its own limits."""

        def change(account: Account) -> Account:
            return account.model_copy(
                update={
                    "tier": tier or account.tier,
                    "limits": account.limits.model_copy(update=dict(limits or {})),
                }
            )

        return await self._change(account_id, change)

    async def rotate(
        self, account_id: str, expires_at: float | None, old_until: float, key: str | None = None
    ) -> tuple[Account, str]:
        """Adds a key to an account, a fresh one unless it is given; its others expire at `old_until` at the latest.

        Raises:
            CallboardError: the key that is given belongs to another account.
        """
        key = key or new_key()
        added = AccountKey(digest=key_digest(key), created_at=time.time(), expires_at=expires_at)

        def change(account: Account) -> Account:
            kept = tuple(
                old.model_copy(update={"expires_at": min(old.expires_at or old_until, old_until)})
                for old in account.keys
                if old.digest != added.digest
            )
            return account.model_copy(update={"keys": (*kept, added)})

        known = await self._bucket.get(key_entry(added.digest))
        if known is None:
            await self._bucket.put(key_entry(added.digest), account_id.encode(), revision=0)
        elif known.value.decode() != account_id:
            raise CallboardError(ErrorCode.CONFLICT, "that key belongs to another account")
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
        """Applies a change to the newest version of an account, again if somebody else changed it meanwhile."""
        for _ in range(MAX_ATTEMPTS):
            entry = await self._bucket.get(account_entry(account_id))
            if entry is None:
                raise CallboardError(ErrorCode.UNKNOWN_ACCOUNT, f"account {account_id} is gone", param="who")
            account = change(Account.model_validate_json(entry.value))
            try:
                await self._bucket.put(entry.key, account.model_dump_json().encode(), entry.revision)
            except Conflict:
                continue
            await self._announce(account_id)
            return account
        raise CallboardError(ErrorCode.CONFLICT, f"account {account_id} is being changed by others; try again")


def check_tier(name: str, tiers: Iterable[str]) -> str:
    """Returns the name if such a tier exists.

    Raises:
        CallboardError: `invalid_request` with the available tiers.
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


def _parse_sorted(entries: Iterable[Entry]) -> list[Account]:
    accounts = [Account.model_validate_json(entry.value) for entry in entries]
    return sorted(accounts, key=lambda account: (account.created_at, account.id))
