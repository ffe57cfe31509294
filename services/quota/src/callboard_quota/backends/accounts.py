"""Accounts from the bucket ACCOUNTS, remembered for a moment."""

import asyncio
import logging
import secrets
from collections import OrderedDict

from nats.aio.msg import Msg
from pydantic import ValidationError

from callboard_contracts.accounts import SECRET_SITE, Account, account_entry, key_entry
from callboard_contracts.streams import BUCKET_ACCOUNTS
from callboard_contracts.subjects import CTL_ACCOUNTS
from callboard_kit.bucket import Bucket, Conflict
from callboard_kit.bus import Bus, BusError
from callboard_quota.domain.ports import StoreUnavailable
from callboard_quota.domain.tenants import Secret

log = logging.getLogger(__name__)

REMEMBERED_S = 1.0
"""A change is announced to every process; this bounds how long a process that missed it goes on with the old one."""
MAX_REMEMBERED = 6_000
READ_TIMEOUT_S = 2.0
SECRET_BYTES = 32


class BucketAccounts:
    """Reads accounts at their source at most once a second each, and at once after a change is announced."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._bucket = Bucket(bus, BUCKET_ACCOUNTS)
        self._ids: OrderedDict[str, tuple[float, str | None]] = OrderedDict()
        self._accounts: OrderedDict[str, tuple[float, Account | None]] = OrderedDict()
        self._changes = 0
        bus.on_reconnect(self._forget_all)

    async def start(self) -> None:
        """Begins to listen for changes."""
        await self._bus.subscribe(CTL_ACCOUNTS, self._changed)

    async def by_digest(self, digest: str) -> Account | None:
        """The account that a key belongs to."""
        now = asyncio.get_running_loop().time()
        known = self._ids.get(digest)
        if known is None or (known[1] is None and now - known[0] > REMEMBERED_S):
            changes = self._changes
            found = await self._read(key_entry(digest))
            # A digest that names an account names it for ever; only the account says whether the key still opens it.
            known = (now, found.decode() if found else None)
            if changes == self._changes:
                self._ids[digest] = known
                _bound(self._ids)
        return await self.by_id(known[1]) if known[1] else None

    async def by_id(self, account_id: str) -> Account | None:
        """The account of that id."""
        now = asyncio.get_running_loop().time()
        known = self._accounts.get(account_id)
        if known is None or now - known[0] > REMEMBERED_S:
            changes = self._changes
            found = await self._read(account_entry(account_id))
            try:
                known = (now, Account.model_validate_json(found) if found else None)
            except ValidationError:
                log.exception("account_unreadable", extra={"account": account_id})
                raise StoreUnavailable("an account cannot be read") from None
            if changes == self._changes:
                self._accounts[account_id] = known
                _bound(self._accounts)
        return known[1]

    async def secret(self) -> Secret:
        """The site's secret, made by whichever process comes first; raises StoreUnavailable."""
        found = await self._read(SECRET_SITE)
        if found is None:
            try:
                await self._bucket.put(SECRET_SITE, secrets.token_hex(SECRET_BYTES).encode(), revision=0)
            except Conflict:
                log.info("secret_made_elsewhere")
            except BusError as error:
                raise StoreUnavailable(str(error)) from error
            found = await self._read(SECRET_SITE)
        if found is None:
            raise StoreUnavailable("the site's secret cannot be read")
        return Secret(bytes.fromhex(found.decode()))

    async def _read(self, key: str) -> bytes | None:
        try:
            entry = await self._bucket.get(key, READ_TIMEOUT_S)
        except BusError as error:
            raise StoreUnavailable(str(error)) from error
        return entry.value if entry else None

    async def _changed(self, _message: Msg) -> None:
        self._forget_all()

    def _forget_all(self) -> None:
        self._changes += 1
        self._ids.clear()
        self._accounts.clear()


def _bound(
    remembered: OrderedDict[str, tuple[float, Account | None]] | OrderedDict[str, tuple[float, str | None]],
) -> None:
    while len(remembered) > MAX_REMEMBERED:
        remembered.popitem(last=False)
