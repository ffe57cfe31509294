"""`callboard backup` and `callboard restore`: the durable streams and buckets in one file."""

import argparse
import asyncio
import sys
from pathlib import Path

from callboard_admin.backups import back_up, backed_up, describe, read_manifest, restore
from callboard_cli.bus_command import run_on_bus_or_store
from callboard_cli.failures import CommandError, ExitCode
from callboard_cli.subcommands import Subparsers
from callboard_contracts.config import Config
from callboard_kit.bus import Bus
from callboard_kit.provisioning import apply_streams

RESTARTED = "the bus was stopped again; `callboard up` starts on what was restored"
RESTART = (
    "restart the bus before you start the services: only then it remembers the ids that keep usage from being counted "
    "twice"
)


def register(subparsers: Subparsers) -> None:
    """Adds the commands."""
    backup = subparsers.add_parser(
        "backup",
        help="write the durable streams and buckets into a file",
        description="Writes accounts, counters, usage, kudos, rooms and what else is kept into one file. Queued jobs, "
        "results and the keys of payloads are left out. Where `callboard up` is stopped, its bus is started meanwhile.",
    )
    backup.add_argument("file", type=Path, help="the file to write, which must not exist")
    backup.add_argument("--without-rooms", action="store_true", help="leave out what was said in rooms")
    backup.set_defaults(run=_backup)
    restoring = subparsers.add_parser(
        "restore",
        help="restore the durable streams and buckets from a file",
        description="Restores what `callboard backup` wrote, with all numbers and positions. All services must be "
        "stopped. Where `callboard up` is stopped, its bus is started meanwhile.",
    )
    restoring.add_argument("file", type=Path, help="a file that `callboard backup` wrote")
    restoring.add_argument("--replace", action="store_true", help="delete what the bus holds of these streams first")
    restoring.add_argument("--check", action="store_true", help="only check the file and say what it holds")
    restoring.set_defaults(run=_restore)


def _backup(arguments: argparse.Namespace) -> int:
    path: Path = arguments.file
    if path.exists():
        raise CommandError(f"{path}: exists already; a backup is never overwritten", ExitCode.USAGE)
    if not path.parent.is_dir():
        raise CommandError(f"{path.parent}: no such folder", ExitCode.USAGE)

    async def act(bus: Bus, config: Config) -> int:
        names = backed_up(config, rooms=not arguments.without_rooms)
        manifest = await back_up(bus, names, path, _say)
        size = await asyncio.to_thread(path.stat)
        print(f"{path}: {size.st_size / 1e6:.1f} MB")
        print("\n".join(describe(manifest)))
        return ExitCode.OK

    return run_on_bus_or_store(arguments, act)[0]


def _restore(arguments: argparse.Namespace) -> int:
    path: Path = arguments.file
    manifest = read_manifest(path)
    print("\n".join(describe(manifest)), flush=True)
    if arguments.check:
        return ExitCode.OK

    async def act(bus: Bus, config: Config) -> int:
        await restore(bus, path, manifest, config.nats.replicas, _say, replace=arguments.replace)
        await apply_streams(bus, config)
        return ExitCode.OK

    code, was_stopped = run_on_bus_or_store(arguments, act, replaces=True)
    print(RESTARTED if was_stopped else RESTART)
    return code


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")
