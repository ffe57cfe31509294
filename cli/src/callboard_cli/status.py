"""`callboard status`: pools, workers, consumers, streams and holds at a glance."""

import argparse
from collections.abc import Iterable

from callboard_admin.site_status import ConsumerStatus, PoolStatus, SiteStatus, StreamStatus, site_status
from callboard_cli.bus_command import run_on_bus
from callboard_cli.failures import ExitCode
from callboard_cli.subcommands import Subparsers
from callboard_cli.tables import print_table
from callboard_contracts.config import Config
from callboard_contracts.workers import WorkerInfo
from callboard_kit.bus import Bus

ID_SHOWN = 12
MEBIBYTE = 1024 * 1024


def register(subparsers: Subparsers) -> None:
    """Adds the command."""
    parser = subparsers.add_parser(
        "status",
        help="show pools, workers, consumers, streams and holds",
        description="Shows how the site stands. A pool's oldest job counts also while a worker has it; what waits has "
        "no worker yet.",
    )
    parser.add_argument("--json", action="store_true", help="everything as JSON")
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    async def act(bus: Bus, config: Config) -> int:
        status = await site_status(bus, config)
        if arguments.json:
            print(status.model_dump_json(indent=2))
        else:
            _print(status)
        return ExitCode.OK

    return run_on_bus(arguments, act)


def _print(status: SiteStatus) -> None:
    _section("POOL READY DRAINING SLOTS WAITING RUNNING OLDEST-WAITING OLDEST-JOB", map(_pool, status.pools))
    _section("WORKER POOL BACKEND SLOTS STATE MODELS", map(_worker, status.workers))
    _section("CONSUMER STREAM WAITING UNACKED REDELIVERED PULLS STATE", map(_consumer, status.consumers))
    _section("STREAM MESSAGES MIB BOUND-MIB STORE OLDEST STATE", map(_stream, status.streams))
    holds = status.holds
    print(f"holds: {holds.open} open, {holds.overdue} overdue, oldest {age(holds.oldest_s)}")
    print(f"dead letters: {status.dead_letters}")
    for process in status.processes:
        print(f"process {process.name}: {process.state}, started again {process.restarts} times")


def _section(headings: str, rows: Iterable[tuple[str, ...]]) -> None:
    print_table([tuple(heading.replace("-", " ") for heading in headings.split()), *rows])
    print()


def _pool(one: PoolStatus) -> tuple[str, ...]:
    waiting = str(one.waiting_live + one.waiting_batch)
    if one.waiting_batch:
        waiting += f" ({one.waiting_batch} batch)"
    return (
        f"{one.service}/{one.pool}",
        f"{one.ready}/{one.workers}",
        str(one.draining),
        f"{one.slots_used}/{one.slots}",
        waiting,
        str(one.running),
        age(one.oldest_waiting_s),
        age(one.oldest_job_s),
    )


def _worker(one: WorkerInfo) -> tuple[str, ...]:
    state = "draining" if one.draining else "ready" if one.ready else "not ready"
    models = ", ".join(model.name for model in one.models)
    return one.id[:ID_SHOWN], f"{one.service}/{one.pool}", one.backend, f"{one.slots_used}/{one.slots}", state, models


def _consumer(one: ConsumerStatus) -> tuple[str, ...]:
    state = "missing" if one.missing else "" if one.declared else "not declared"
    counts = (one.waiting, one.unacknowledged, one.redelivered, one.open_pulls)
    return one.name, one.stream, *map(str, counts), state


def _stream(one: StreamStatus) -> tuple[str, ...]:
    state = "missing" if one.missing else ""
    if one.replicas > 1:
        state = f"leader {one.leader or 'none'}, {one.replicas_current}/{one.replicas} replicas"
    return (
        one.name,
        str(one.messages),
        f"{one.bytes / MEBIBYTE:.1f}",
        f"{one.max_bytes / MEBIBYTE:.0f}" if one.max_bytes else "",
        "memory" if one.memory else "file",
        age(one.oldest_s),
        state,
    )


def age(seconds: float | None) -> str:
    """A time that has passed, in the unit that suits it."""
    if seconds is None:
        return "-"
    if seconds < 120:
        return f"{seconds:.1f} s"
    if seconds < 2 * 3600:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.0f} h" if seconds < 2 * 86_400 else f"{seconds / 86_400:.0f} d"
