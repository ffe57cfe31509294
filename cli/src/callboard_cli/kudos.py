"""`callboard kudos`: shows what accounts have, credits and moves it, tells its history, and verifies the books."""

import argparse
import asyncio
import re
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal

from callboard_cli.configuration import read_config
from callboard_cli.failures import CommandError, ExitCode, command_error
from callboard_cli.subcommands import Subparsers
from callboard_contracts import subjects
from callboard_contracts.errors import CallboardError
from callboard_contracts.headers import INCREMENT, MSG_ID
from callboard_contracts.kudos import (
    KUDOS_SCALE,
    KudosBalanceRequest,
    KudosEarnRequest,
    KudosReply,
    KudosTransferRequest,
)
from callboard_contracts.model import Message
from callboard_contracts.quota import AuditEvent
from callboard_contracts.streams import DEALS, KUDOS
from callboard_kit.account_book import AccountBook
from callboard_kit.bus import Bus, BusError, BusUnavailable, NoResponders
from callboard_kit.direct import StoredMessage, read_subject

ASK_TIMEOUT_S = 15.0
READ_TIMEOUT_S = 5.0
BATCH = 4096
LOOKS = 5
PAUSE_S = 0.5
"""Deals go on while the books are read, so only what stays wrong over several looks is wrong."""
ID_BYTES = 8
TIME = "Nats-Time-Stamp"
WHO_HELP = "an account's id or name, or a key"
_AMOUNT = re.compile(r"[0-9]{1,12}(\.[0-9]{1,3})?")


def register(subparsers: Subparsers) -> None:
    """Adds the commands."""
    parser = subparsers.add_parser("kudos", help="show, credit, transfer and verify kudos")
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    show = actions.add_parser("show", help="what an account has")
    show.add_argument("who", help=WHO_HELP)
    show.set_defaults(run=_show)
    earn = actions.add_parser("earn", help="credit an account")
    earn.add_argument("who", help=WHO_HELP)
    earn.add_argument("amount", help="kudos, with at most three decimals")
    earn.add_argument("--id", help="names the deal, so that a repeat counts once; default: a new one")
    earn.set_defaults(run=_earn)
    transfer = actions.add_parser("transfer", help="move kudos from one account to another")
    transfer.add_argument("source", help=WHO_HELP)
    transfer.add_argument("target", help=WHO_HELP)
    transfer.add_argument("amount", help="kudos, with at most three decimals")
    transfer.add_argument("--id", help="names the deal, so that a repeat counts once; default: a new one")
    transfer.set_defaults(run=_transfer)
    history = actions.add_parser("history", help="every change of an account's kudos")
    history.add_argument("who", help=WHO_HELP)
    history.set_defaults(run=_history)
    verify = actions.add_parser("verify", help="compare all balances with what was earned and spent; fails on drift")
    verify.set_defaults(run=_verify)


def parse_amount(text: str) -> int:
    """An amount of kudos in thousandths; raises CommandError for anything but a plain decimal number above zero."""
    if not _AMOUNT.fullmatch(text) or not Decimal(text):
        raise CommandError(
            f"amount: found {text!r}, allowed is a number above 0 with at most three decimals", ExitCode.USAGE
        )
    return int(Decimal(text) * KUDOS_SCALE)


def _with_bus(arguments: argparse.Namespace, act: Callable[[Bus], Awaitable[int]]) -> int:
    config = read_config(arguments.config).config

    async def connected() -> int:
        try:
            bus = await Bus.connect(config.nats, "callboard-kudos", lambda: None)
        except BusUnavailable as error:
            raise CommandError(f"kudos: {error}") from None
        try:
            return await act(bus)
        except CallboardError as error:
            raise command_error("kudos", error) from None
        except NoResponders:
            raise CommandError("kudos: no quota process answers", ExitCode.NOT_READY) from None
        except BusError as error:
            raise CommandError(f"kudos: {error}") from None
        finally:
            await bus.close()

    return asyncio.run(connected())


async def _account(bus: Bus, who: str) -> str:
    return (await AccountBook.on(bus).find(who))[0].id


async def _ask(bus: Bus, subject: str, request: Message) -> KudosReply:
    body = request.model_dump_json().encode()
    reply = KudosReply.model_validate_json(await bus.request(subject, body, ASK_TIMEOUT_S))
    if reply.error:
        raise CommandError(f"kudos: {reply.error.message}")
    return reply


def _show(arguments: argparse.Namespace) -> int:
    async def act(bus: Bus) -> int:
        account = await _account(bus, arguments.who)
        reply = await _ask(bus, subjects.QUOTA_KUDOS_SHOW, KudosBalanceRequest(account=account))
        print(f"{reply.account}  {_text(reply.balance)}")
        return ExitCode.OK

    return _with_bus(arguments, act)


def _earn(arguments: argparse.Namespace) -> int:
    amount = parse_amount(arguments.amount)

    async def act(bus: Bus) -> int:
        account = await _account(bus, arguments.who)
        request = KudosEarnRequest(id=arguments.id or _new_id(), account=account, amount=amount)
        _print(request.id, await _ask(bus, subjects.QUOTA_KUDOS_EARN, request))
        return ExitCode.OK

    return _with_bus(arguments, act)


def _transfer(arguments: argparse.Namespace) -> int:
    amount = parse_amount(arguments.amount)

    async def act(bus: Bus) -> int:
        source, target = await _account(bus, arguments.source), await _account(bus, arguments.target)
        request = KudosTransferRequest(id=arguments.id or _new_id(), source=source, target=target, amount=amount)
        _print(request.id, await _ask(bus, subjects.QUOTA_KUDOS_TRANSFER, request))
        return ExitCode.OK

    return _with_bus(arguments, act)


def _history(arguments: argparse.Namespace) -> int:
    async def act(bus: Bus) -> int:
        account = await _account(bus, arguments.who)
        balance = 0
        for message in await _all(bus, KUDOS, subjects.kudos(account)):
            change = -int(message.headers[INCREMENT])
            balance += change
            if change:
                at = datetime.fromisoformat(message.headers[TIME]).isoformat(timespec="seconds")
                print(f"{at}  {_text(change):>12}  {_text(balance):>12}  {message.headers.get(MSG_ID, '')}")
        return ExitCode.OK

    return _with_bus(arguments, act)


@dataclass(slots=True)
class Sums:
    """What the stream of kudos says, told apart by deals and by holds for requests."""

    balances: dict[str, int] = field(default_factory=dict[str, int])
    holds: dict[str, dict[str, int]] = field(default_factory=dict[str, dict[str, int]])
    """By hold and account: what was given less what was taken."""
    ended: set[str] = field(default_factory=set[str])

    def add(self, account: str, change: int, msg_id: str) -> None:
        """Adds one change of an account."""
        hold_id, _, step = msg_id.rpartition(".")
        self.balances[account] = self.balances.get(account, 0) + change
        changes = self.holds.setdefault(hold_id, {})
        changes[account] = changes.get(account, 0) + change
        if step.startswith("s"):
            self.ended.add(hold_id)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What verification found, in thousandths of kudos; `problems` names what does not agree."""

    earned: int
    spent: int
    held: int
    total: int
    problems: frozenset[str]


def judge(sums: Sums, fates: dict[str, AuditEvent]) -> Verdict:
    """Compares the changes with how each deal ended."""
    problems = {f"{account} is below zero" for account, balance in sums.balances.items() if balance < 0}
    earned = spent = held = 0
    for hold_id, fate in fates.items():
        changes = sums.holds.get(hold_id, {})
        wanted = fate.kudos if fate.kind == "settled" and fate.reason == "earn" else 0
        earned += wanted
        moved = sum(change for change in changes.values() if change > 0)
        halves = fate.kudos if fate.kind == "settled" else 0
        if sum(changes.values()) != wanted or moved != halves:
            problems.add(f"deal {fate.request_id} is not whole")
    for hold_id, changes in sums.holds.items():
        if hold_id in fates:
            continue
        net = -sum(changes.values())
        if net < 0:
            problems.add(f"hold {hold_id} gave more than it took")
        if hold_id in sums.ended:
            spent += net
        else:
            held += net
    total = sum(sums.balances.values())
    if total != earned - spent - held:
        problems.add(f"balances differ by {_text(total - earned + spent + held)}")
    return Verdict(earned, spent, held, total, frozenset(problems))


def _verify(arguments: argparse.Namespace) -> int:
    async def act(bus: Bus) -> int:
        verdict = await _look(bus)
        for _ in range(LOOKS - 1):
            if not verdict.problems:
                break
            await asyncio.sleep(PAUSE_S)
            again = await _look(bus)
            verdict = Verdict(again.earned, again.spent, again.held, again.total, again.problems & verdict.problems)
        print(f"earned {_text(verdict.earned)}, spent {_text(verdict.spent)}, held {_text(verdict.held)}")
        print(f"balances {_text(verdict.total)}")
        for problem in sorted(verdict.problems):
            print(problem)
        return ExitCode.FAILED if verdict.problems else ExitCode.OK

    return _with_bus(arguments, act)


async def _look(bus: Bus) -> Verdict:
    sums = Sums()
    for message in await _all(bus, KUDOS, subjects.kudos("*")):
        account = message.subject.rpartition(".")[2]
        sums.add(account, -int(message.headers[INCREMENT]), message.headers.get(MSG_ID, ""))
    deals = [AuditEvent.model_validate_json(one.data) for one in await _all(bus, DEALS, subjects.deal("*"))]
    return judge(sums, {fate.hold_id: fate for fate in deals})


async def _all(bus: Bus, stream: str, subject: str) -> list[StoredMessage]:
    found: list[StoredMessage] = []
    while True:
        start_seq = found[-1].seq + 1 if found else 1
        batch = await read_subject(bus, stream, subject, start_seq, BATCH, READ_TIMEOUT_S, stream_may_miss=False)
        if not batch:
            return found
        found += batch


def _print(deal_id: str, reply: KudosReply) -> None:
    print(f"{reply.account}  {_text(reply.balance)}  {deal_id}{'  made before' if reply.repeated else ''}")


def _new_id() -> str:
    now = datetime.now(UTC).strftime("%Y%m%d%H%M%S")
    return f"{now}-{secrets.token_hex(ID_BYTES)}"


def _text(amount: int) -> str:
    return f"{Decimal(amount) / KUDOS_SCALE:f}"
