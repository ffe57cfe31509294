"""`callboard streams apply`: declares every stream, consumer and bucket of Callboard on the bus."""

import argparse
import asyncio
import signal
from contextlib import suppress

from callboard_cli.configuration import read_config
from callboard_cli.failures import CommandError
from callboard_cli.subcommands import Subparsers
from callboard_contracts.config import Config
from callboard_kit.bus import ApiError, Bus, BusError, BusUnavailable
from callboard_kit.logs import setup_logs
from callboard_kit.provisioning import apply_streams

RETRY_S = 1.0


def register(subparsers: Subparsers) -> None:
    """Adds the command."""
    parser = subparsers.add_parser("streams", help="declare streams, consumers and buckets on the bus")
    actions = parser.add_subparsers(dest="action", required=True, metavar="apply")
    applying = actions.add_parser("apply", help="declare what the configuration needs; safe to repeat")
    applying.add_argument(
        "--watch",
        action="store_true",
        help="keep running and apply again after each reconnect, since memory streams end with their server",
    )
    applying.set_defaults(run=_apply)


def _apply(arguments: argparse.Namespace) -> int:
    config = read_config(arguments.config).config
    if arguments.watch:
        setup_logs("streams", config.site.log_level)
    return asyncio.run(_run(config, watch=arguments.watch))


async def _run(config: Config, *, watch: bool) -> int:
    stop, due = asyncio.Event(), asyncio.Event()

    def end() -> None:
        stop.set()
        due.set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, end)
    try:
        bus = await Bus.connect(config.nats, "callboard-streams", end)
    except BusUnavailable as error:
        raise CommandError(f"streams: {error}") from None
    bus.on_reconnect(due.set)
    try:
        print(_summary(await apply_streams(bus, config)), flush=True)
        if watch:
            await keep_applied(bus, config, due, stop)
    except (ApiError, BusUnavailable) as error:
        raise CommandError(f"streams: the bus refused: {error}") from None
    finally:
        await bus.close()
    return 0


async def keep_applied(bus: Bus, config: Config, due: asyncio.Event, stop: asyncio.Event) -> None:
    """Applies the declarations again whenever that is due, until `stop` is set; retries failures every second."""
    while await due.wait() and not stop.is_set():
        due.clear()
        try:
            await apply_streams(bus, config)
        except BusError:
            due.set()
            with suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), RETRY_S)


def _summary(touched: list[str]) -> str:
    return f"applied: {', '.join(touched)}" if touched else "everything is as declared"
