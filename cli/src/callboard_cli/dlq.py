"""`callboard dlq`: lists, shows, retries and drops dead letters."""

import argparse
import json
import sys
import time
from contextlib import suppress
from typing import Any

from callboard_admin.dead_letters import DeadLetterRecords, Retried, StoredLetter
from callboard_admin.periods import parse_start, show_time
from callboard_cli.bus_command import run_on_bus
from callboard_cli.failures import CommandError, ExitCode
from callboard_cli.subcommands import Subparsers
from callboard_cli.tables import print_table
from callboard_contracts.config import Config
from callboard_kit.bus import Bus

NAMES_HELP = "a dead letter's number or request id"
COLUMNS = ("number", "died_at", "pool", "deliveries", "content", "request_id")
HEADINGS = ("NUMBER", "DIED AT", "POOL", "DELIVERIES", "CONTENT", "REQUEST")
SPARE_S = 10.0
"""How long after its deadline a retry is waited for."""


def register(subparsers: Subparsers) -> None:
    """Adds the commands."""
    parser = subparsers.add_parser(
        "dlq",
        help="list, show, retry and drop dead letters",
        description="Dead letters are jobs that were delivered too often, or ended their workers. Their clients had an "
        "error for an answer. Ids are kept for 14 days, content only as long as its key: some twenty minutes.",
    )
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    listing = actions.add_parser("list", help="list the dead letters, the oldest first")
    listing.add_argument("--json", action="store_true", help="as JSON")
    listing.set_defaults(run=_list)
    show = actions.add_parser("show", help="show one dead letter, without its content")
    show.add_argument("name", help=NAMES_HELP)
    show.add_argument("--content", action="store_true", help="also what the client sent, as long as its key exists")
    show.set_defaults(run=_show)
    retry = actions.add_parser(
        "retry",
        help="run a dead job again, under a new id, for nobody",
        description="Runs the same request again to see whether the cause is mended. The client is not told and "
        "nothing is charged. A job that ended its workers may end another one.",
    )
    retry.add_argument("name", nargs="+", help=NAMES_HELP)
    retry.add_argument("--no-wait", action="store_true", help="do not wait for how it ends")
    retry.set_defaults(run=_retry)
    drop = actions.add_parser("drop", help="delete dead letters and their content")
    drop.add_argument("name", nargs="*", help=NAMES_HELP)
    drop.add_argument("--all", action="store_true", help="all of them")
    drop.add_argument("--before", help="those that died before a period ago such as 24h, or before a date")
    drop.set_defaults(run=_drop)


def _list(arguments: argparse.Namespace) -> int:
    async def act(bus: Bus, _config: Config) -> int:
        letters = await DeadLetterRecords(bus).all()
        if arguments.json:
            print(json.dumps([_fields(one) for one in letters], indent=2))
            return ExitCode.OK
        shown = map(_fields, letters)
        print_table([HEADINGS, *(tuple(str(one[name] or "-") for name in COLUMNS) for one in shown)])
        return ExitCode.OK

    return run_on_bus(arguments, act)


def _show(arguments: argparse.Namespace) -> int:
    async def act(bus: Bus, _config: Config) -> int:
        records = DeadLetterRecords(bus)
        for stored in await records.find([arguments.name]):
            for name, value in _fields(stored).items():
                print(f"{name}: {value}")
            if arguments.content:
                # As JSON, in ASCII, so that nothing in it steers a terminal.
                print(json.dumps(json.loads(await records.content(stored)), indent=2))
        return ExitCode.OK

    return run_on_bus(arguments, act)


def _retry(arguments: argparse.Namespace) -> int:
    async def act(bus: Bus, config: Config) -> int:
        records = DeadLetterRecords(bus)
        with suppress(TimeoutError):
            await bus.clock.measure()
        life_s = config.edge.request_timeout_s
        retried = [await records.retry(one, life_s) for one in await records.find(arguments.name)]
        for one in retried:
            print(f"{one.stored.seq}  queued again in {one.stored.pool} as {one.request_id}", flush=True)
        if arguments.no_wait:
            return ExitCode.OK
        ended = [await _ended(records, one, life_s + SPARE_S) for one in retried]
        return ExitCode.OK if all(ended) else ExitCode.FAILED

    return run_on_bus(arguments, act)


async def _ended(records: DeadLetterRecords, retried: Retried, timeout_s: float) -> bool:
    """Says how a retry ended, and returns whether it ended well."""
    event = await records.outcome(retried, timeout_s)
    if event is None:
        print(f"{retried.stored.seq}  not ended within {timeout_s:g} s")
        return False
    work = event.work
    used = f"{work.audio_ms / 1000:.1f} s of sound" if work.audio_ms else f"{work.completion_tokens} tokens"
    print(f"{retried.stored.seq}  {event.outcome}, {used}; the worker's log has {retried.request_id}")
    return event.outcome not in {"error", "cancelled"}


def _drop(arguments: argparse.Namespace) -> int:
    if sum((bool(arguments.name), arguments.all, arguments.before is not None)) != 1:
        raise CommandError("dlq drop: name dead letters, or --all, or --before", ExitCode.USAGE)
    before = parse_start(arguments.before, time.time(), "before") if arguments.before else None

    async def act(bus: Bus, _config: Config) -> int:
        records = DeadLetterRecords(bus)
        letters = await (records.find(arguments.name) if arguments.name else records.all())
        chosen = [one for one in letters if before is None or one.died_at < before]
        for one in chosen:
            await records.drop(one)
        sys.stderr.write(f"{len(chosen)} dead letters dropped\n")
        return ExitCode.OK

    return run_on_bus(arguments, act)


def _fields(stored: StoredLetter) -> dict[str, Any]:
    letter = stored.letter
    return {
        "number": stored.seq,
        "request_id": letter.request_id,
        "pool": stored.pool,
        "subject": letter.subject,
        "deliveries": letter.deliveries,
        "queued_at": letter.queued_at,
        "died_at": show_time(stored.died_at),
        "content": "kept" if stored.has_payload else "erased",
    }
