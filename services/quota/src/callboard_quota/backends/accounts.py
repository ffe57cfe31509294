"""Accounts from the bucket ACCOUNTS, cached for a second."""

import asyncio
import logging
import secrets
from contextlib import suppress

from cachetools import LRUCache, TTLCache
from pydantic import ValidationError

from callboard_contracts.accounts import SECRET_SITE, Account, account_entry, key_entry
from callboard_contracts.streams import BUCKET_ACCOUNTS
from callboard_kit.bucket import Bucket, Conflict
from callboard_kit.bus import Bus
from callboard_quota.backends.errors import bus_errors_as_unavailable
from callboard_quota.domain.ports import StoreUnavailable
from callboard_quota.domain.tenants import Secret

log = logging.getLogger(__name__)

CACHED_S = 1.0
"""Changes are announced to every process; this bounds how long a process that missed one uses the old account."""
MAX_CACHED = 6_000
READ_TIMEOUT_S = 2.0
SECRET_BYTES = 32


class BucketAccounts:
    """Reads an account at most once a second, and again after a change is announced."""

    def __init__(self, bus: Bus) -> None:
        self._bucket = Bucket(bus, BUCKET_ACCOUNTS)
        # A digest that names an account names it for ever; only the account says whether the key is still valid.
        self._ids: LRUCache[str, str] = LRUCache(MAX_CACHED)
        self._accounts: TTLCache[str, Account | None] = TTLCache(
            MAX_CACHED, CACHED_S, timer=asyncio.get_running_loop().time
        )
        self._invalidations = 0
        """Counted, since what is being read at that moment may be stale."""
        bus.on_reconnect(self.invalidate)

    async def by_digest(self, digest: str) -> Account | None:
        """The account that a key belongs to."""
        try:
            account_id = self._ids[digest]
        except KeyError:
            before = self._invalidations
            found = await self._read(key_entry(digest))
            if found is None:
                return None
            account_id = found.decode()
            if before == self._invalidations:
                self._ids[digest] = account_id
        return await self.by_id(account_id)

    async def by_id(self, account_id: str) -> Account | None:
        """The account of that id."""
        try:
            return self._accounts[account_id]
        except KeyError:
            return await self._read_account(account_id)

    async def _read_account(self, account_id: str) -> Account | None:
        before = self._invalidations
        found = await self._read(account_entry(account_id))
        try:
            account = Account.model_validate_json(found) if found else None
        except ValidationError:
            log.exception("account_unreadable", extra={"account": account_id})
            raise StoreUnavailable("an account cannot be read") from None
        if before == self._invalidations:
            self._accounts[account_id] = account
        return account

    async def secret(self) -> Secret:
        """The site's secret, made by whichever process comes first; raises StoreUnavailable."""
        found = await self._read(SECRET_SITE)
        if found is None:
            with bus_errors_as_unavailable(), suppress(Conflict):
                await self._bucket.put(SECRET_SITE, secrets.token_hex(SECRET_BYTES).encode(), revision=0)
            found = await self._read(SECRET_SITE)
        if found is None:
            raise StoreUnavailable("the site's secret cannot be read")
        return Secret(bytes.fromhex(found.decode()))

    async def _read(self, key: str) -> bytes | None:
        with bus_errors_as_unavailable():
            entry = await self._bucket.get(key, READ_TIMEOUT_S)
        return entry.value if entry else None

    def invalidate(self) -> None:
        """Has all accounts read anew."""
        self._invalidations += 1
        self._ids.clear()
        self._accounts.clear()
