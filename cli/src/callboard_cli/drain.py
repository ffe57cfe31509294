"""`callboard drain`: has workers take no more jobs, finish what runs, and end."""

import argparse
import asyncio

from callboard_admin.draining import DrainState, drain, find_workers, progress
from callboard_cli.bus_command import run_on_bus
from callboard_cli.failures import CommandError, ExitCode
from callboard_cli.subcommands import Subparsers
from callboard_contracts.config import Config
from callboard_contracts.workers import ANNOUNCE_LIFE_S
from callboard_kit.bus import Bus

MARGIN_S = 30.0
"""Beside the jobs themselves: the cancellation of those that are late, and the last announcement."""
ID_SHOWN = 12


def register(subparsers: Subparsers) -> None:
    """Adds the command."""
    parser = subparsers.add_parser(
        "drain",
        help="have workers take no more jobs, finish, and end",
        description="Has workers take no more jobs, finish those that run, and end with code 0; what is not done "
        "within the service's drain_timeout_s is handed to another worker. `callboard up`, Kubernetes and other "
        "supervisors start a process again that ended: there this is a restart that loses no job.",
    )
    parser.add_argument("target", nargs="*", help="a pool as in chat/local, or the start of a worker's id")
    parser.add_argument("--all", action="store_true", help="all workers of all pools")
    parser.add_argument("--no-wait", action="store_true", help="give the order and do not wait for the end")
    parser.add_argument("--timeout", type=float, metavar="S", help="how long to wait; default: the longest drain")
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    if bool(arguments.target) == arguments.all:
        raise CommandError("drain: name pools or workers, or --all", ExitCode.USAGE)
    if arguments.timeout is not None and not arguments.timeout > 0:
        raise CommandError("--timeout: found a time that is not positive", ExitCode.USAGE)

    async def act(bus: Bus, config: Config) -> int:
        workers = await find_workers(bus, arguments.target, everything=arguments.all)
        if not workers:
            print("no worker is there")
            return ExitCode.OK
        states = await drain(bus, workers)
        _show(states)
        if not arguments.no_wait:
            drain_s = max(section.drain_timeout_s for section in (config.chat, config.tts, config.stt))
            longest_s = drain_s + ANNOUNCE_LIFE_S + MARGIN_S
            states = await _wait(bus, states, arguments.timeout or longest_s)
        done = "draining" if arguments.no_wait else "ended"
        return ExitCode.OK if all(one.state == done for one in states) else ExitCode.FAILED

    return run_on_bus(arguments, act)


async def _wait(bus: Bus, states: list[DrainState], timeout_s: float) -> list[DrainState]:
    try:
        async with asyncio.timeout(timeout_s):
            async for after in progress(bus, states):
                _show([one for one in after if one not in states])
                states = after
    except TimeoutError:
        late = ", ".join(one.worker.id[:ID_SHOWN] for one in states if one.state == "draining")
        raise CommandError(f"drain: not ended within {timeout_s:g} s: {late}", ExitCode.NOT_READY) from None
    return states


def _show(states: list[DrainState]) -> None:
    for one in states:
        jobs = f", {one.running} running" if one.state == "draining" else ""
        worker = one.worker
        print(
            f"{worker.service}/{worker.pool}  {worker.id[:ID_SHOWN]}  {one.state.replace('_', ' ')}{jobs}", flush=True
        )
