"""`callboard keys`: creates, lists, changes, rotates and revokes API keys."""

import argparse
import json
import re
import sys
import time
from datetime import UTC, datetime

from callboard_admin.accounts import Accounts, check_tier
from callboard_admin.periods import parse_end
from callboard_cli.bus_command import run_on_bus
from callboard_cli.failures import CommandError, ExitCode
from callboard_cli.subcommands import Subparsers
from callboard_cli.tables import print_table
from callboard_contracts.accounts import DIGEST_SHOWN, AccountKey
from callboard_contracts.config import Config, LimitsSection
from callboard_kit.bus import Bus

WHO_HELP = "the account's id or name, a key, or the start of a key's digest"
LIMIT_HELP = f"a limit in place of the tier's, or none for the tier's; {', '.join(LimitsSection.model_fields)}"


def register(subparsers: Subparsers) -> None:
    """Adds the commands."""
    parser = subparsers.add_parser("keys", help="create, list, change, rotate and revoke API keys")
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    create = actions.add_parser("create", help="create a key and show it, this once")
    create.add_argument("--name", required=True, help="the name of the account, for lists")
    create.add_argument("--tier", help="the tier whose limits apply; default: quota.default_tier")
    create.add_argument(
        "--expires", help="when it ends: 90d, 12h, 30m, 2w or a date such as 2027-01-31; default: never"
    )
    _add_limit(create)
    create.set_defaults(run=_create)
    listing = actions.add_parser("list", help="show every key, by the start of its digest")
    listing.add_argument("--json", action="store_true", help="as JSON, with all fields")
    listing.set_defaults(run=_list)
    change = actions.add_parser("change", help="change an account's tier or its own limits")
    change.add_argument("who", help=WHO_HELP)
    change.add_argument("--tier", help="the new tier")
    _add_limit(change)
    change.set_defaults(run=_change)
    rotate = actions.add_parser("rotate", help="create a new key for an account and expire the old ones")
    rotate.add_argument("who", help=WHO_HELP)
    rotate.add_argument(
        "--keep", default="0m", help="how long the old keys still work, such as 24h; default: not at all"
    )
    rotate.add_argument("--expires", help="when the new key ends; default: never")
    rotate.set_defaults(run=_rotate)
    revoke = actions.add_parser("revoke", help="refuse a key from now on; an account's id or name means all its keys")
    revoke.add_argument("who", help=WHO_HELP)
    revoke.set_defaults(run=_revoke)


def _add_limit(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--limit", action="append", default=[], metavar="NAME=NUMBER", help=LIMIT_HELP)


def _create(arguments: argparse.Namespace) -> int:
    expires_at = _end(arguments.expires, "expires", time.time())
    limits = dict(_limit(text) for text in arguments.limit)

    async def act(bus: Bus, config: Config) -> int:
        accounts = Accounts.on(bus)
        tier = check_tier(arguments.tier or config.quota.default_tier, config.quota.tiers)
        account, key = await accounts.create(arguments.name, tier, expires_at, limits)
        print(key)
        _say(f"account {account.id}, tier {tier}; the key is not stored and will not be shown again")
        return ExitCode.OK

    return run_on_bus(arguments, act)


def _list(arguments: argparse.Namespace) -> int:
    async def act(bus: Bus, _config: Config) -> int:
        accounts = await Accounts.on(bus).all()
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
        print_table(rows)
        return ExitCode.OK

    return run_on_bus(arguments, act)


def _change(arguments: argparse.Namespace) -> int:
    limits = dict(_limit(text) for text in arguments.limit)

    async def act(bus: Bus, config: Config) -> int:
        accounts = Accounts.on(bus)
        tier = check_tier(arguments.tier, config.quota.tiers) if arguments.tier else None
        account, _key = await accounts.find(arguments.who)
        changed = await accounts.change(account.id, tier, limits)
        own = ", ".join(f"{name}={value}" for name, value in changed.limits.model_dump().items() if value is not None)
        _say(f"account {changed.id}: tier {changed.tier}, limits of its own: {own or 'none'}")
        return ExitCode.OK

    return run_on_bus(arguments, act)


def _rotate(arguments: argparse.Namespace) -> int:
    now = time.time()
    expires_at = _end(arguments.expires, "expires", now)
    old_until = _end(arguments.keep, "keep", now)

    async def act(bus: Bus, _config: Config) -> int:
        accounts = Accounts.on(bus)
        account, _key = await accounts.find(arguments.who)
        _account, key = await accounts.rotate(account.id, expires_at, old_until or now)
        print(key)
        _say(f"account {account.id}: the other keys end {'now' if old_until == now else _date(old_until or now)}")
        return ExitCode.OK

    return run_on_bus(arguments, act)


def _revoke(arguments: argparse.Namespace) -> int:
    async def act(bus: Bus, _config: Config) -> int:
        accounts = Accounts.on(bus)
        account, key = await accounts.find(arguments.who)
        await accounts.revoke(account.id, key.digest if key else None)
        _say(
            f"account {account.id}: {f'key {key.digest[:DIGEST_SHOWN]}' if key else 'every key'} is refused from now on"
        )
        return ExitCode.OK

    return run_on_bus(arguments, act)


def _end(text: str | None, option: str, now: float) -> float | None:
    return None if text is None else parse_end(text, now, option)


def _limit(text: str) -> tuple[str, int | None]:
    name, _, number = text.partition("=")
    if name not in LimitsSection.model_fields:
        allowed = ", ".join(LimitsSection.model_fields)
        raise CommandError(f"--limit: found {name!r}, allowed are {allowed}", ExitCode.USAGE)
    if number == "none":
        return name, None
    if not re.fullmatch(r"[0-9]{1,15}", number):
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
    """Writes a message to standard error, so that standard output holds only the key."""
    sys.stderr.write(f"{text}\n")
