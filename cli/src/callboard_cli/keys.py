"""`callboard keys`: creates, lists, changes, rotates and revokes API keys.

A key is shown once, when it is made; only its SHA-256 is stored. Every change is written by compare-and-set and then
announced, so a revoked key is refused at once by every quota process.
"""

import argparse
import asyncio
import json
import re
import sys
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime

from callboard_cli.configuration import read_config
from callboard_cli.failures import CommandError, ExitCode
from callboard_cli.subcommands import Subparsers
from callboard_contracts.accounts import (
    ACCOUNT_PREFIX,
    DIGEST_SHOWN,
    KEY_PREFIX,
    Account,
    AccountKey,
    account_entry,
    key_digest,
    key_entry,
    new_account_id,
    new_key,
)
from callboard_contracts.config import Config, TierSection
from callboard_contracts.streams import BUCKET_ACCOUNTS
from callboard_contracts.subjects import CTL_ACCOUNTS
from callboard_kit.bucket import Bucket, Conflict
from callboard_kit.bus import Bus, BusError, BusUnavailable

MAX_TRIES = 10
_PERIODS_S = {"m": 60, "h": 3600, "d": 86_400, "w": 7 * 86_400}

Change = Callable[[Account], Account]


class AccountBook:
    """Reads and changes accounts on the bus."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._bucket = Bucket(bus, BUCKET_ACCOUNTS)

    async def create(self, name: str, tier: str, expires_at: float | None) -> tuple[Account, str]:
        """Makes an account with one key, and returns both; the key cannot be read again."""
        key, now = new_key(), time.time()
        first = AccountKey(digest=key_digest(key), created_at=now, expires_at=expires_at)
        account = Account(id=new_account_id(), name=name, tier=tier, keys=(first,), created_at=now)
        # The key's entry comes last: until it stands the key opens nothing, and a failure leaves nothing half open.
        await self._bucket.put(account_entry(account.id), account.model_dump_json().encode(), revision=0)
        await self._bucket.put(key_entry(first.digest), account.id.encode(), revision=0)
        await self._announce(account.id)
        return account, key

    async def all(self) -> list[Account]:
        """Every account, the oldest first."""
        entries = await self._bucket.list(f"{ACCOUNT_PREFIX}*")
        accounts = [Account.model_validate_json(entry.value) for entry in entries]
        return sorted(accounts, key=lambda account: account.created_at)

    async def find(self, text: str) -> tuple[Account, AccountKey | None]:
        """The account that a text names: its id or name, a key, or the start of a key's digest.

        Raises:
            CommandError: none or more than one is meant.
        """
        digest = key_digest(text) if text.startswith(KEY_PREFIX) else text
        found: list[tuple[Account, AccountKey | None]] = []
        for account in await self.all():
            if text in {account.id, account.name}:
                found.append((account, None))
            elif re.fullmatch(r"[0-9a-f]{8,64}", digest):
                found += [(account, key) for key in account.keys if key.digest.startswith(digest)]
        if len(found) != 1:
            shown = "the key" if text.startswith(KEY_PREFIX) else repr(text)
            raise CommandError(f"keys: {shown} names {len(found) or 'no'} key{'s' if len(found) > 1 else ''}")
        return found[0]

    async def change(self, account_id: str, change: Change) -> Account:
        """Changes an account as it stands now, whatever others change meanwhile."""
        for _ in range(MAX_TRIES):
            entry = await self._bucket.get(account_entry(account_id))
            if entry is None:
                raise CommandError(f"keys: account {account_id} is gone")
            account = change(Account.model_validate_json(entry.value))
            try:
                await self._bucket.put(entry.key, account.model_dump_json().encode(), entry.revision)
            except Conflict:
                continue
            await self._announce(account_id)
            return account
        raise CommandError(f"keys: account {account_id} is being changed by others; try again")

    async def add_key(self, account_id: str, expires_at: float | None, old_until: float | None) -> tuple[Account, str]:
        """Gives an account a further key; with `old_until` its other keys end then."""
        key = new_key()
        added = AccountKey(digest=key_digest(key), created_at=time.time(), expires_at=expires_at)

        def change(account: Account) -> Account:
            kept = account.keys
            if old_until is not None:
                kept = tuple(
                    one.model_copy(update={"expires_at": min(one.expires_at or old_until, old_until)}) for one in kept
                )
            return account.model_copy(update={"keys": (*kept, added)})

        await self._bucket.put(key_entry(added.digest), account_id.encode(), revision=0)
        return await self.change(account_id, change), key

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

        return await self.change(account_id, change)

    async def _announce(self, account_id: str) -> None:
        await self._bus.publish(CTL_ACCOUNTS, account_id.encode())
        await self._bus.connection.flush(timeout=2)


def register(subparsers: Subparsers) -> None:
    """Adds the commands."""
    parser = subparsers.add_parser("keys", help="create, list, change, rotate and revoke API keys")
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    create = actions.add_parser("create", help="make a key and show it, this once")
    create.add_argument("--name", required=True, help="whose key it is, for lists")
    create.add_argument("--tier", help="the tier whose limits apply; default: quota.default_tier")
    create.add_argument(
        "--expires", help="when it ends: 90d, 12h, 30m, 2w or a date such as 2027-01-31; default: never"
    )
    create.set_defaults(run=_create)
    listing = actions.add_parser("list", help="show every key, by the start of its digest")
    listing.add_argument("--json", action="store_true", help="as JSON, with all fields")
    listing.set_defaults(run=_list)
    change = actions.add_parser("change", help="give an account another tier or limits of its own")
    change.add_argument("who", help="the account's id or name, a key, or the start of a key's digest")
    change.add_argument("--tier", help="the new tier")
    change.add_argument(
        "--limit",
        action="append",
        default=[],
        metavar="NAME=NUMBER",
        help=f"a limit in place of the tier's; none as the number gives it back; {', '.join(TierSection.model_fields)}",
    )
    change.set_defaults(run=_change)
    rotate = actions.add_parser("rotate", help="make a new key for an account and let the old ones end")
    rotate.add_argument("who", help="the account's id or name, a key, or the start of a key's digest")
    rotate.add_argument(
        "--keep", default="0m", help="how long the old keys still work, such as 24h; default: not at all"
    )
    rotate.add_argument("--expires", help="when the new key ends; default: never")
    rotate.set_defaults(run=_rotate)
    revoke = actions.add_parser("revoke", help="refuse a key from now on; an account's id or name means all its keys")
    revoke.add_argument("who", help="a key, the start of its digest, or the account's id or name")
    revoke.set_defaults(run=_revoke)


def parse_expiry(text: str | None, now: float) -> float | None:
    """The Unix time that a period from now or a date (its start, UTC) means; raises CommandError for anything else."""
    if text is None:
        return None
    period = re.fullmatch(r"(\d{1,6})([mhdw])", text)
    if period:
        return now + int(period[1]) * _PERIODS_S[period[2]]
    try:
        date = datetime.fromisoformat(text)
    except ValueError:
        raise CommandError(
            f"--expires: found {text!r}, allowed are a period such as 90d or a date", ExitCode.USAGE
        ) from None
    at = (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp()
    if at <= now:
        raise CommandError(f"--expires: {text} is over already", ExitCode.USAGE)
    return at


def with_book(arguments: argparse.Namespace, act: Callable[[AccountBook, Config], Awaitable[int]]) -> int:
    """Connects to the bus, runs one action and turns trouble with the bus into one line."""
    config = read_config(arguments.config).config

    async def connected() -> int:
        try:
            bus = await Bus.connect(config.nats, "callboard-keys", lambda: None)
        except BusUnavailable as error:
            raise CommandError(f"keys: {error}") from None
        try:
            return await act(AccountBook(bus), config)
        except BusError as error:
            raise CommandError(f"keys: the bus did not take it: {error}") from None
        finally:
            await bus.close()

    return asyncio.run(connected())


def _create(arguments: argparse.Namespace) -> int:
    expires_at = parse_expiry(arguments.expires, time.time())

    async def act(book: AccountBook, config: Config) -> int:
        tier = _tier(arguments.tier or config.quota.default_tier, config)
        account, key = await book.create(arguments.name, tier, expires_at)
        print(key)
        _say(f"account {account.id}, tier {tier}; the key is not stored and will not be shown again")
        return ExitCode.OK

    if not 1 <= len(arguments.name) <= 200:
        raise CommandError("--name: 1 to 200 characters are allowed", ExitCode.USAGE)
    return with_book(arguments, act)


def _list(arguments: argparse.Namespace) -> int:
    async def act(book: AccountBook, _config: Config) -> int:
        accounts = await book.all()
        if arguments.json:
            print(json.dumps([account.model_dump(mode="json") for account in accounts], indent=2))
            return ExitCode.OK
        rows = [("ACCOUNT", "NAME", "TIER", "KEY", "CREATED", "STATE")]
        now = time.time()
        rows += [
            (account.id, account.name, account.tier, key.digest[:DIGEST_SHOWN], _date(key.created_at), _state(key, now))
            for account in accounts
            for key in account.keys
        ]
        widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
        for row in rows:
            print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
        return ExitCode.OK

    return with_book(arguments, act)


def _change(arguments: argparse.Namespace) -> int:
    limits = dict(_limit(text) for text in arguments.limit)

    async def act(book: AccountBook, config: Config) -> int:
        account, _key = await book.find(arguments.who)
        update: dict[str, object] = {"tier": _tier(arguments.tier, config)} if arguments.tier else {}

        def change(current: Account) -> Account:
            return current.model_copy(update={**update, "limits": current.limits.model_copy(update=limits)})

        changed = await book.change(account.id, change)
        own = ", ".join(f"{name}={value}" for name, value in changed.limits.model_dump().items() if value is not None)
        _say(f"account {changed.id}: tier {changed.tier}, limits of its own: {own or 'none'}")
        return ExitCode.OK

    return with_book(arguments, act)


def _rotate(arguments: argparse.Namespace) -> int:
    now = time.time()
    expires_at = parse_expiry(arguments.expires, now)
    old_until = parse_expiry(arguments.keep, now)

    async def act(book: AccountBook, _config: Config) -> int:
        account, _key = await book.find(arguments.who)
        _account, key = await book.add_key(account.id, expires_at, old_until)
        print(key)
        _say(f"account {account.id}: the other keys end {'now' if old_until == now else _date(old_until or now)}")
        return ExitCode.OK

    return with_book(arguments, act)


def _revoke(arguments: argparse.Namespace) -> int:
    async def act(book: AccountBook, _config: Config) -> int:
        account, key = await book.find(arguments.who)
        await book.revoke(account.id, key.digest if key else None)
        _say(
            f"account {account.id}: {f'key {key.digest[:DIGEST_SHOWN]}' if key else 'every key'} is refused from now on"
        )
        return ExitCode.OK

    return with_book(arguments, act)


def _tier(name: str, config: Config) -> str:
    if name not in config.quota.tiers:
        raise CommandError(
            f"--tier: found {name!r}, allowed are {', '.join(sorted(config.quota.tiers))}", ExitCode.USAGE
        )
    return name


def _limit(text: str) -> tuple[str, int | None]:
    name, _, number = text.partition("=")
    if name not in TierSection.model_fields:
        allowed = ", ".join(TierSection.model_fields)
        raise CommandError(f"--limit: found {name!r}, allowed are {allowed}", ExitCode.USAGE)
    if number == "none":
        return name, None
    if not re.fullmatch(r"\d{1,15}", number):
        raise CommandError(f"--limit: {name} needs a whole number or none, found {number!r}", ExitCode.USAGE)
    return name, int(number)


def _state(key: AccountKey, now: float) -> str:
    if key.revoked_at is not None:
        return f"revoked {_date(key.revoked_at)}"
    if key.expires_at is None:
        return "active"
    return f"{'active until' if key.valid_at(now) else 'expired'} {_date(key.expires_at)}"


def _date(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M")


def _say(text: str) -> None:
    """Words for the operator go to standard error, so that standard output holds only the key."""
    sys.stderr.write(f"{text}\n")
