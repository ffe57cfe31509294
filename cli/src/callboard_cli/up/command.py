"""`callboard up`: runs all of Callboard on this machine."""

import argparse
import asyncio
import sys
import time

from callboard_cli.configuration import read_config
from callboard_cli.failures import ExitCode, Interrupted
from callboard_cli.models.cache import ModelCache
from callboard_cli.models.catalogue import needed_by
from callboard_cli.models.fetching import ensure
from callboard_cli.models.progress import Progress
from callboard_cli.subcommands import Subparsers
from callboard_cli.up.banner import banner
from callboard_cli.up.ports import check_ports
from callboard_cli.up.services import plan
from callboard_cli.up.store import StoreLock
from callboard_cli.up.supervision import Supervision
from callboard_kit.bus_credentials import create_password, with_local_credentials
from callboard_kit.model_files import model_folder


def register(subparsers: Subparsers) -> None:
    """Adds the command."""
    parser = subparsers.add_parser("up", help="start everything on this machine and stay until Ctrl-C")
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    try:
        _up(arguments)
    except Interrupted:
        say("stopped before it was up")
    return ExitCode.OK


def _up(arguments: argparse.Namespace) -> None:
    started_at = time.monotonic()
    configuration = read_config(arguments.config)
    config = configuration.config
    lock = StoreLock(config.site.data_dir)
    lock.acquire()
    try:
        check_ports(config)
        create_password(config.site)
        config = with_local_credentials(config)
        ensure(needed_by(config), ModelCache(model_folder(config.site)), Progress())
        service_plan = plan(config, configuration.path)
        supervision = Supervision(config, service_plan, config.site.data_dir, say)

        def ready() -> None:
            took_s = time.monotonic() - started_at
            print(banner(config, service_plan.edge_port, took_s, str(config.site.data_dir)), flush=True)

        asyncio.run(supervision.run(ready))
        say("stopped")
    finally:
        lock.release()


def say(text: str) -> None:
    """Writes a message to standard error, apart from the command's output."""
    sys.stderr.write(f"callboard: {text}\n")
    sys.stderr.flush()
