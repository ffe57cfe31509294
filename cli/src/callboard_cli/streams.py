"""`callboard streams apply`: declares every stream, consumer and bucket of Callboard on the bus."""

import argparse
import asyncio
import logging
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path

from callboard_cli.configuration import read_config
from callboard_cli.failures import CommandError
from callboard_cli.subcommands import Subparsers
from callboard_contracts.config import Config
from callboard_kit.bus import ApiError, Bus, BusError, BusUnavailable
from callboard_kit.lifecycle import is_set_within
from callboard_kit.logs import setup_logs
from callboard_kit.provisioning import apply_streams, remove_consumer, unused_consumers
from callboard_kit.settings import SettingsError

log = logging.getLogger(__name__)

RETRY_S = 1.0
READ_INTERVAL_S = 2.0


def register(subparsers: Subparsers) -> None:
    """Adds the command."""
    parser = subparsers.add_parser("streams", help="declare streams, consumers and buckets on the bus")
    actions = parser.add_subparsers(dest="action", required=True, metavar="apply")
    applying = actions.add_parser("apply", help="declare what the configuration needs; safe to repeat")
    applying.add_argument(
        "--watch",
        action="store_true",
        help="keep running and apply again when the configuration changes and after each reconnect, since memory "
        "streams end with their server",
    )
    applying.add_argument(
        "--prune",
        action="store_true",
        help="remove the consumers of pools that are not in the configuration, with the jobs that wait there",
    )
    applying.set_defaults(run=_apply)


def _apply(arguments: argparse.Namespace) -> int:
    config = read_config(arguments.config).config
    if arguments.watch:
        setup_logs("streams", config.site.log_level)
    return asyncio.run(_run(config, arguments))


async def _run(config: Config, arguments: argparse.Namespace) -> int:
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
    streams = AppliedStreams(bus, config, arguments.config, prune=arguments.prune)
    try:
        await streams.apply()
        if arguments.watch:
            async with asyncio.TaskGroup() as group:
                group.create_task(keep_applied(streams.apply, due, stop))
                group.create_task(streams.follow(due, stop))
    except (ApiError, BusUnavailable) as error:
        raise CommandError(f"streams: the bus refused: {error}") from None
    finally:
        await bus.close()
    return 0


class AppliedStreams:
    """The declarations of a configuration on the bus; what they change is printed."""

    def __init__(self, bus: Bus, config: Config, file: Path | None, *, prune: bool) -> None:
        self._bus = bus
        self._config = config
        self._file = file
        self._prune = prune
        self._complaint = ""

    async def apply(self) -> None:
        """Applies the declarations; raises BusError."""
        touched = await apply_streams(self._bus, self._config)
        lines = [f"applied: {', '.join(touched)}" if touched else "everything is as declared"]
        for consumer in await unused_consumers(self._bus, self._config):
            what = f"consumer {consumer.name} of {consumer.stream}"
            if self._prune:
                await remove_consumer(self._bus, consumer)
                lines.append(f"removed: {what}, with {consumer.jobs} jobs")
            else:
                lines.append(
                    f"kept: {what}, whose pool is not in the configuration; {consumer.jobs} jobs wait there "
                    "(--prune removes both)"
                )
        print("\n".join(lines), flush=True)

    async def follow(self, due: asyncio.Event, stop: asyncio.Event) -> None:
        """Sets `due` whenever the configuration has changed, until `stop` is set; one that is wrong changes nothing."""
        while not await is_set_within(stop, READ_INTERVAL_S):
            if await self._read():
                due.set()

    async def _read(self) -> bool:
        """Reads the configuration again; says whether it has changed."""
        try:
            config = (await asyncio.to_thread(read_config, self._file)).config
        except SettingsError as error:
            if str(error) != self._complaint:
                self._complaint = str(error)
                log.warning("settings_refused", extra={"reason": str(error)})
            return False
        self._complaint = ""
        changed = config != self._config
        self._config = config
        return changed


async def keep_applied(apply: Callable[[], Awaitable[object]], due: asyncio.Event, stop: asyncio.Event) -> None:
    """Applies declarations again whenever that is due, until `stop` is set; retries failures every second."""
    while await due.wait() and not stop.is_set():
        due.clear()
        try:
            await apply()
        except BusError:
            due.set()
            await is_set_within(stop, RETRY_S)
