"""`callboard usage`: shows what was used, exports usage events, verifies the books, and tells a request's story."""

import argparse
import asyncio
import csv
import json
import re
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Generator
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path
from typing import IO

from pydantic import ValidationError

from callboard_cli.configuration import read_config
from callboard_cli.failures import CommandError, ExitCode
from callboard_cli.keys import AccountBook
from callboard_cli.subcommands import Subparsers
from callboard_contracts import subjects
from callboard_contracts.quota import UNITS_PER_TOKEN, AuditEvent, UsageEvent, VerifyReply, VerifyRequest
from callboard_contracts.streams import AUDIT, QUOTA, USAGE
from callboard_kit.bus import Bus, BusError, BusUnavailable, NoResponders
from callboard_kit.direct import read_last_of_each, read_subject

VERIFY_TIMEOUT_S = 600.0
READ_TIMEOUT_S = 5.0
BATCH = 1000
HOUR_S = 3600
_PERIODS_S = {"h": HOUR_S, "d": 24 * HOUR_S, "w": 7 * 24 * HOUR_S}
COLUMNS: tuple[str, ...] = (
    "seq",
    "at",
    "request_id",
    "tenant",
    "kind",
    "model",
    "pool",
    "outcome",
    "prompt_tokens",
    "completion_tokens",
    "audio_ms",
)
NUMBERS = frozenset({"seq", "prompt_tokens", "completion_tokens", "audio_ms"})
Row = dict[str, str | int]


def register(subparsers: Subparsers) -> None:
    """Adds the commands."""
    parser = subparsers.add_parser("usage", help="show, export and verify what was used")
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    show = actions.add_parser("show", help="tokens charged to each account and tenant")
    show.add_argument("who", nargs="?", help="an account's id or name, a key, or a tenant; default: everybody")
    show.add_argument("--since", default="24h", help="a period such as 24h or 30d, or a date; default: 24h")
    show.set_defaults(run=_show)
    export = actions.add_parser("export", help="write usage events as CSV or Parquet")
    export.add_argument("file", type=Path, help="where to; .csv or .parquet says the form, - is CSV to standard output")
    export.add_argument("--since", default="30d", help="a period such as 24h or 30d, or a date; default: 30d")
    export.set_defaults(run=_export)
    verify = actions.add_parser("verify", help="compute every counter again from the usage events; fails on any drift")
    verify.add_argument("--since", default="24h", help="a period such as 24h or 30d, or a date; default: 24h")
    verify.add_argument("--json", action="store_true", help="the whole report as JSON")
    verify.set_defaults(run=_verify)
    audit = actions.add_parser("audit", help="everything that quota did about one request")
    audit.add_argument("request_id", help="the request's id, as in the header x-request-id")
    audit.set_defaults(run=_audit)


def parse_since(text: str, now: float) -> float:
    """The Unix time that a period until now or a date (its start, UTC) means; raises CommandError for anything else."""
    period = re.fullmatch(r"(\d{1,6})([hdw])", text)
    if period:
        return now - int(period[1]) * _PERIODS_S[period[2]]
    try:
        date = datetime.fromisoformat(text)
    except ValueError:
        raise CommandError(
            f"--since: found {text!r}, allowed are a period such as 30d or a date", ExitCode.USAGE
        ) from None
    return (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp()


def _with_bus(arguments: argparse.Namespace, act: Callable[[Bus], Awaitable[int]]) -> int:
    config = read_config(arguments.config).config

    async def connected() -> int:
        try:
            bus = await Bus.connect(config.nats, "callboard-usage", lambda: None)
        except BusUnavailable as error:
            raise CommandError(f"usage: {error}") from None
        try:
            return await act(bus)
        except NoResponders:
            raise CommandError("usage: no quota process answers", ExitCode.NOT_READY) from None
        except BusError as error:
            raise CommandError(f"usage: {error}") from None
        finally:
            await bus.close()

    return asyncio.run(connected())


def _show(arguments: argparse.Namespace) -> int:
    now = time.time()
    since = parse_since(arguments.since, now)

    async def act(bus: Bus) -> int:
        accounts = {account.id: account for account in await AccountBook(bus).all()}
        only: str | None = None
        if arguments.who:
            known = re.fullmatch(r"[im]_[0-9a-f]{16}|site|anonymous", arguments.who)
            only = arguments.who if known else (await AccountBook(bus).find(arguments.who))[0].id
        rows = [("TENANT", "NAME", "TIER", "TOKENS")]
        for tenant, units in sorted((await _used(bus, since, now, only)).items(), key=lambda item: -item[1]):
            account = accounts.get(tenant)
            tokens = f"{units / UNITS_PER_TOKEN:.3f}".rstrip("0").rstrip(".")
            rows.append((tenant, account.name if account else "", account.tier if account else "", tokens))
        print_table(rows)
        return ExitCode.OK

    return _with_bus(arguments, act)


async def _used(bus: Bus, since: float, now: float, tenant: str | None) -> dict[str, int]:
    """What each tenant's hour counters add up to."""
    sums: dict[str, int] = {}
    first = int(since // HOUR_S)
    for hour in range(first, int(now // HOUR_S) + 1):
        bucket = datetime.fromtimestamp(hour * HOUR_S, UTC).strftime("h%Y%m%d%H")
        names = await _counter_names(bus, subjects.used_in(tenant or "*", "units", bucket))
        for start in range(0, len(names), BATCH):
            for message in await read_last_of_each(bus, QUOTA, names[start : start + BATCH], READ_TIMEOUT_S):
                who = message.subject.split(".")[2]
                sums[who] = sums.get(who, 0) + int(json.loads(message.data)["val"])
    return sums


async def _counter_names(bus: Bus, pattern: str) -> list[str]:
    names: list[str] = []
    while True:
        body = {"subjects_filter": pattern, "offset": len(names)}
        info = await bus.api(f"STREAM.INFO.{QUOTA}", body, READ_TIMEOUT_S)
        found = list(info["state"].get("subjects") or ())
        names += found
        if not found or len(names) >= info.get("total", 0):
            return names


def _export(arguments: argparse.Namespace) -> int:
    since = parse_since(arguments.since, time.time())
    target: Path = arguments.file
    if str(target) != "-" and target.suffix not in {".csv", ".parquet"}:
        raise CommandError(f"export: found {target.name!r}, allowed are .csv, .parquet or -", ExitCode.USAGE)

    async def act(bus: Bus) -> int:
        count = 0
        with _writer(target) as write:
            async for rows in _events(bus, since):
                write(rows)
                count += len(rows)
        sys.stderr.write(f"{count} usage events\n")
        return ExitCode.OK

    return _with_bus(arguments, act)


async def _events(bus: Bus, since: float) -> AsyncIterator[list[Row]]:
    seq = 1
    while messages := await read_subject(bus, USAGE, "usage.*", seq, BATCH, READ_TIMEOUT_S, stream_may_miss=False):
        seq = messages[-1].seq + 1
        rows: list[Row] = []
        for message in messages:
            try:
                event = UsageEvent.model_validate_json(message.data)
            except ValidationError:
                continue  # `verify` lists it.
            if event.at >= since:
                rows.append(_row(message.seq, event))
        yield rows


def _row(seq: int, event: UsageEvent) -> Row:
    return {
        "seq": seq,
        "at": datetime.fromtimestamp(event.at, UTC).isoformat(timespec="milliseconds"),
        "request_id": event.request_id,
        "tenant": event.tenant,
        "kind": event.kind,
        "model": event.model,
        "pool": event.pool,
        "outcome": event.outcome,
        **event.work.model_dump(),
    }


@contextmanager
def _writer(target: Path) -> Generator[Callable[[list[Row]], None]]:
    """Opens the file in the form that its name asks for; what it yields appends rows."""
    if target.suffix == ".parquet":
        with _parquet_writer(target) as write:
            yield write
    elif str(target) == "-":
        yield _csv_writer(sys.stdout)
    else:
        with target.open("w", encoding="utf-8", newline="") as file:
            yield _csv_writer(file)


def _csv_writer(file: IO[str]) -> Callable[[list[Row]], None]:
    writer = csv.DictWriter(file, COLUMNS)
    writer.writeheader()
    return writer.writerows


@contextmanager
def _parquet_writer(target: Path) -> Generator[Callable[[list[Row]], None]]:
    try:
        arrow, parquet = import_module("pyarrow"), import_module("pyarrow.parquet")
    except ImportError:
        raise CommandError(
            "export: Parquet needs the package pyarrow: pip install 'callboard-cli[parquet]'", ExitCode.MISSING_PROGRAM
        ) from None
    schema = arrow.schema([(name, arrow.int64() if name in NUMBERS else arrow.string()) for name in COLUMNS])
    with parquet.ParquetWriter(target, schema) as writer:
        yield lambda rows: writer.write_table(arrow.Table.from_pylist(rows, schema=schema))


def _verify(arguments: argparse.Namespace) -> int:
    since = parse_since(arguments.since, time.time())

    async def act(bus: Bus) -> int:
        body = VerifyRequest(since=since).model_dump_json().encode()
        reply = VerifyReply.model_validate_json(await bus.request(subjects.QUOTA_VERIFY, body, VERIFY_TIMEOUT_S))
        if reply.error:
            raise CommandError(f"verify: {reply.error.message}")
        if arguments.json:
            print(reply.model_dump_json(indent=2))
        else:
            _print_report(reply)
        return ExitCode.FAILED if reply.drift_count else ExitCode.OK

    return _with_bus(arguments, act)


def _print_report(reply: VerifyReply) -> None:
    print(f"{reply.events} usage events, {reply.counters} counters, {reply.open_holds} open holds")
    print(f"ignored events: {reply.ignored_count}")
    for ignored in reply.ignored:
        print(f"  {ignored.seq}  {ignored.request_id or '-'}  {ignored.reason}")
    print(f"drift: {reply.drift_units / UNITS_PER_TOKEN:g} tokens in {reply.drift_count} counters")
    for drift in reply.drift:
        expected = drift.events + drift.open
        print(f"  {drift.tenant}  {drift.metric}  {drift.bucket}  counted {drift.counted}, expected {expected}")


def _audit(arguments: argparse.Namespace) -> int:
    try:
        subject = subjects.audit(arguments.request_id)
    except ValueError:
        raise CommandError("audit: that is not a request id", ExitCode.USAGE) from None

    async def act(bus: Bus) -> int:
        messages = await read_subject(bus, AUDIT, subject, timeout_s=READ_TIMEOUT_S, stream_may_miss=False)
        events = sorted((AuditEvent.model_validate_json(one.data) for one in messages), key=lambda event: event.at)
        if not events:
            raise CommandError("audit: nothing is known of that request")
        rows = [("AT", "WHAT", "TENANT", "TOKENS", "REASON", "HOLD")]
        for event in events:
            at = datetime.fromtimestamp(event.at, UTC).isoformat(timespec="milliseconds")
            tokens = f"{event.units / UNITS_PER_TOKEN:g}"
            rows.append((at, event.kind, event.tenant, tokens, event.reason, event.hold_id))
        print_table(rows)
        return ExitCode.OK

    return _with_bus(arguments, act)


def print_table(rows: list[tuple[str, ...]]) -> None:
    """Prints rows with aligned columns."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
