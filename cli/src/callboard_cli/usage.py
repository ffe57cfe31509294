"""`callboard usage`: shows use, exports usage events, verifies the counters, and shows the audit trail of a request."""

import argparse
import math
import sys
import time
from contextlib import nullcontext
from pathlib import Path

from callboard_admin.accounts import Accounts
from callboard_admin.periods import parse_start, show_time
from callboard_admin.usage_exports import ExportFormat, open_export
from callboard_admin.usage_records import TENANT, UsageRecords
from callboard_cli.bus_command import run_on_bus
from callboard_cli.failures import CommandError, ExitCode
from callboard_cli.subcommands import Subparsers
from callboard_cli.tables import print_table
from callboard_contracts.config import Config
from callboard_contracts.quota import UNITS_PER_TOKEN, VerifyReply
from callboard_kit.bus import Bus


def register(subparsers: Subparsers) -> None:
    """Adds the commands."""
    parser = subparsers.add_parser("usage", help="show, export and verify use")
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    show = actions.add_parser("show", help="tokens charged to each account and tenant")
    show.add_argument("who", nargs="?", help="an account's id or name, a key, or a tenant; default: all")
    show.add_argument("--since", default="24h", help="a period such as 24h or 30d, or a date; default: 24h")
    show.add_argument("--until", help="the same; default: now")
    show.set_defaults(run=_show)
    export = actions.add_parser("export", help="write usage events as CSV or Parquet")
    export.add_argument("file", type=Path, help="the target, .csv or .parquet; - is CSV to standard output")
    export.add_argument("--since", default="30d", help="a period such as 24h or 30d, or a date; default: 30d")
    export.add_argument("--until", help="the same; default: now")
    export.set_defaults(run=_export)
    verify = actions.add_parser("verify", help="recompute every counter from the usage events; fails on drift")
    verify.add_argument("--since", default="24h", help="a period such as 24h or 30d, or a date; default: 24h")
    verify.add_argument("--repair", action="store_true", help="correct the counters that differ, as after a power cut")
    verify.add_argument("--json", action="store_true", help="the whole report as JSON")
    verify.set_defaults(run=_verify)
    audit = actions.add_parser("audit", help="show what quota did for one request")
    audit.add_argument("request_id", help="the request's id, as in the header x-request-id")
    audit.set_defaults(run=_audit)


def _span(arguments: argparse.Namespace) -> tuple[float, float | None]:
    """Returns the start, and the end if one is given."""
    now = time.time()
    since = parse_start(arguments.since, now, "since")
    until = parse_start(arguments.until, now, "until") if getattr(arguments, "until", None) else None
    if since >= (until or now):
        raise CommandError("--since: that is not before the end", ExitCode.USAGE)
    return since, until


def _show(arguments: argparse.Namespace) -> int:
    since, until = _span(arguments)

    async def act(bus: Bus, _config: Config) -> int:
        accounts = {account.id: account for account in await Accounts.on(bus).all()}
        only: str | None = None
        if arguments.who:
            is_tenant = TENANT.fullmatch(arguments.who)
            only = arguments.who if is_tenant else (await Accounts.on(bus).find(arguments.who))[0].id
        used = await UsageRecords(bus).used(since, until or time.time(), only)
        rows = [("TENANT", "NAME", "TIER", "TOKENS")]
        for tenant, units in sorted(used.items(), key=lambda item: -item[1]):
            account = accounts.get(tenant)
            tokens = f"{units / UNITS_PER_TOKEN:.3f}".rstrip("0").rstrip(".")
            rows.append((tenant, account.name if account else "", account.tier if account else "", tokens))
        print_table(rows)
        return ExitCode.OK

    return run_on_bus(arguments, act)


def _export(arguments: argparse.Namespace) -> int:
    since, until = _span(arguments)
    target: Path = arguments.file
    if str(target) != "-" and target.suffix not in {".csv", ".parquet"}:
        raise CommandError(f"export: found {target.name!r}, allowed are .csv, .parquet or -", ExitCode.USAGE)
    file_format: ExportFormat = "parquet" if target.suffix == ".parquet" else "csv"

    async def act(bus: Bus, _config: Config) -> int:
        export = open_export(file_format)
        count = 0
        with nullcontext(sys.stdout.buffer) if str(target) == "-" else target.open("wb") as file:
            async for rows in UsageRecords(bus).events(since, until or math.inf):
                file.write(export.add(rows))
                count += len(rows)
            file.write(export.finish())
        sys.stderr.write(f"{count} usage events\n")
        return ExitCode.OK

    return run_on_bus(arguments, act)


def _verify(arguments: argparse.Namespace) -> int:
    since, _until = _span(arguments)

    async def act(bus: Bus, _config: Config) -> int:
        reply = await UsageRecords(bus).verify(since, repair=arguments.repair)
        if arguments.json:
            print(reply.model_dump_json(indent=2))
        else:
            _print_report(reply)
        return ExitCode.FAILED if reply.drift_count else ExitCode.OK

    return run_on_bus(arguments, act)


def _print_report(reply: VerifyReply) -> None:
    print(f"{reply.events} usage events, {reply.counters} counters, {reply.open_holds} open holds")
    print(f"ignored events: {reply.ignored_count}")
    for ignored in reply.ignored:
        print(f"  {ignored.seq}  {ignored.request_id or '-'}  {ignored.reason}")
    if reply.corrected_count:
        print(f"corrected counters: {reply.corrected_count}")
    print(f"drift: {reply.drift_units / UNITS_PER_TOKEN:g} tokens in {reply.drift_count} counters")
    for drift in reply.drift:
        expected = drift.events + drift.open
        print(f"  {drift.tenant}  {drift.metric}  {drift.bucket}  counted {drift.counted}, expected {expected}")


def _audit(arguments: argparse.Namespace) -> int:
    async def act(bus: Bus, _config: Config) -> int:
        rows = [("AT", "WHAT", "TENANT", "TOKENS", "REASON", "HOLD")]
        for event in await UsageRecords(bus).audit_trail(arguments.request_id):
            tokens = f"{event.units / UNITS_PER_TOKEN:g}"
            rows.append((show_time(event.at), event.kind, event.tenant, tokens, event.reason, event.hold_id))
        print_table(rows)
        return ExitCode.OK

    return run_on_bus(arguments, act)
