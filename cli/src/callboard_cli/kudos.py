"""`callboard kudos`: shows, credits, transfers and verifies kudos, and shows their history."""

import argparse
import re
import time
from decimal import Decimal

from callboard_admin.accounts import Accounts
from callboard_admin.kudos_records import KudosRecords
from callboard_admin.periods import parse_start, show_time
from callboard_cli.bus_command import run_on_bus
from callboard_cli.failures import CommandError, ExitCode
from callboard_cli.subcommands import Subparsers
from callboard_cli.tables import print_table
from callboard_contracts.config import Config
from callboard_contracts.kudos import KUDOS_SCALE, KudosTransaction
from callboard_kit.bus import Bus

WHO_HELP = "an account's id or name, or a key"
AMOUNT_HELP = "kudos, with at most three decimals"
ID_HELP = "the id of the transaction, so that a repeat counts once; default: a new one"
SINCE_HELP = "a period such as 30d, or a date; default: 30d"
_AMOUNT = re.compile(r"[0-9]{1,12}(\.[0-9]{1,3})?")


def register(subparsers: Subparsers) -> None:
    """Adds the commands."""
    parser = subparsers.add_parser("kudos", help="show, credit, transfer and verify kudos")
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    show = actions.add_parser("show", help="show the balance of an account")
    show.add_argument("who", help=WHO_HELP)
    show.set_defaults(run=_show)
    earn = actions.add_parser("earn", help="credit an account")
    earn.add_argument("who", help=WHO_HELP)
    earn.add_argument("amount", help=AMOUNT_HELP)
    earn.add_argument("--id", help=ID_HELP)
    earn.set_defaults(run=_earn)
    transfer = actions.add_parser("transfer", help="move kudos from one account to another")
    transfer.add_argument("source", help=WHO_HELP)
    transfer.add_argument("target", help=WHO_HELP)
    transfer.add_argument("amount", help=AMOUNT_HELP)
    transfer.add_argument("--id", help=ID_HELP)
    transfer.set_defaults(run=_transfer)
    history = actions.add_parser("history", help="show every change of an account's kudos")
    history.add_argument("who", help=WHO_HELP)
    history.set_defaults(run=_history)
    leaders = actions.add_parser("leaders", help="show whose volunteers earned most")
    leaders.add_argument("--since", default="30d", help=SINCE_HELP)
    leaders.add_argument("--limit", type=int, default=20, help="how many accounts are shown")
    leaders.set_defaults(run=_leaders)
    worker = actions.add_parser("worker", help="show what a volunteer was paid, by the id of its worker")
    worker.add_argument("worker", help="the worker's id")
    worker.add_argument("--since", default="30d", help=SINCE_HELP)
    worker.set_defaults(run=_worker)
    verify = actions.add_parser("verify", help="compare all balances with what was earned and spent; fails on drift")
    verify.set_defaults(run=_verify)


def parse_amount(text: str) -> int:
    """Parses an amount of kudos into thousandths; raises CommandError unless it is a plain decimal number above 0."""
    if not _AMOUNT.fullmatch(text) or not Decimal(text):
        raise CommandError(
            f"amount: found {text!r}, allowed is a number above 0 with at most three decimals", ExitCode.USAGE
        )
    return int(Decimal(text) * KUDOS_SCALE)


async def _account(bus: Bus, who: str) -> str:
    return (await Accounts.on(bus).find(who))[0].id


def _show(arguments: argparse.Namespace) -> int:
    async def act(bus: Bus, _config: Config) -> int:
        account = await _account(bus, arguments.who)
        print(f"{account}  {_text(await KudosRecords(bus).balance(account))}")
        return ExitCode.OK

    return run_on_bus(arguments, act)


def _earn(arguments: argparse.Namespace) -> int:
    amount = parse_amount(arguments.amount)

    async def act(bus: Bus, _config: Config) -> int:
        account = await _account(bus, arguments.who)
        _print(await KudosRecords(bus).earn(account, amount, arguments.id))
        return ExitCode.OK

    return run_on_bus(arguments, act)


def _transfer(arguments: argparse.Namespace) -> int:
    amount = parse_amount(arguments.amount)

    async def act(bus: Bus, _config: Config) -> int:
        source, target = await _account(bus, arguments.source), await _account(bus, arguments.target)
        _print(await KudosRecords(bus).transfer(source, target, amount, arguments.id))
        return ExitCode.OK

    return run_on_bus(arguments, act)


def _history(arguments: argparse.Namespace) -> int:
    async def act(bus: Bus, _config: Config) -> int:
        changes = KudosRecords(bus).history(await _account(bus, arguments.who))
        rows = [(show_time(one.at), _text(one.change), _text(one.balance), one.reason) async for one in changes]
        print_table([("AT", "CHANGE", "BALANCE", "BY"), *rows])
        return ExitCode.OK

    return run_on_bus(arguments, act)


def _leaders(arguments: argparse.Namespace) -> int:
    async def act(bus: Bus, _config: Config) -> int:
        since = parse_start(arguments.since, time.time(), "since")
        names = {account.id: account.name for account in await Accounts.on(bus).all()}
        records = KudosRecords(bus)
        rows = [
            (
                names.get(one.account, one.account),
                _text(one.total),
                _text(one.rewards),
                _text(one.uptime),
                _text(await records.balance(one.account)),
            )
            for one in await records.leaders(since, max(1, arguments.limit))
        ]
        print_table([("ACCOUNT", "EARNED", "FOR TEXTS", "FOR UPTIME", "BALANCE"), *rows])
        return ExitCode.OK

    return run_on_bus(arguments, act)


def _worker(arguments: argparse.Namespace) -> int:
    async def act(bus: Bus, _config: Config) -> int:
        since = parse_start(arguments.since, time.time(), "since")
        paid = KudosRecords(bus).payments(arguments.worker, since)
        rows = [(show_time(one.at), _text(one.amount), one.reason, one.account, one.id) async for one in paid]
        print_table([("AT", "KUDOS", "FOR", "ACCOUNT", "BY"), *rows])
        return ExitCode.OK

    return run_on_bus(arguments, act)


def _verify(arguments: argparse.Namespace) -> int:
    async def act(bus: Bus, _config: Config) -> int:
        result = await KudosRecords(bus).verify()
        print(f"earned {_text(result.earned)}, spent {_text(result.spent)}, held {_text(result.held)}")
        print(f"balances {_text(result.total)}")
        for problem in sorted(result.problems):
            print(problem)
        return ExitCode.FAILED if result.problems else ExitCode.OK

    return run_on_bus(arguments, act)


def _print(transaction: KudosTransaction) -> None:
    print(
        f"{transaction.account}  {_text(transaction.balance)}  {transaction.id}"
        f"{'  made before' if transaction.repeated else ''}"
    )


def _text(amount: int) -> str:
    return f"{Decimal(amount) / KUDOS_SCALE:f}"
