"""Commands that work on the bus of an installation."""

import argparse
import asyncio
from collections.abc import Awaitable, Callable

from callboard_cli.configuration import read_config
from callboard_cli.failures import CommandError, ExitCode
from callboard_cli.stopped_site import site_is_stopped, started_bus
from callboard_cli.up.store_check import StoreCheck
from callboard_contracts.config import Config
from callboard_kit.bus import Bus, BusError, BusUnavailable, NoResponders
from callboard_kit.bus_credentials import bus_folder

Act = Callable[[Bus, Config], Awaitable[int]]


def run_on_bus(arguments: argparse.Namespace, act: Act) -> int:
    """Connects to the bus of the configuration, runs `act` on it, and returns the exit code.

    Raises:
        CommandError: the bus or quota failed.
        CallboardError: what `act` asked for cannot be done.
    """
    return asyncio.run(_connected(arguments.command, read_config(arguments.config).config, act))


def run_on_bus_or_store(arguments: argparse.Namespace, act: Act, *, replaces: bool = False) -> tuple[int, bool]:
    """Does the same as `run_on_bus`, but starts the bus of a site of this machine that is stopped, and stops it after.

    Returns the exit code, and whether the site was stopped. Where `act` replaces what is stored, `up` is told, so that
    it does not take that for a loss at its next start.

    Raises:
        CommandError: the bus failed, or does not start.
        CallboardError: what `act` asked for cannot be done.
    """
    config = read_config(arguments.config).config
    stopped = site_is_stopped(config)

    async def run() -> int:
        if not stopped:
            return await _connected(arguments.command, config, act)
        async with started_bus(config) as own:
            return await _connected(arguments.command, own, recorded if replaces else act)

    async def recorded(bus: Bus, own: Config) -> int:
        code = await act(bus, own)
        await StoreCheck(bus, own, bus_folder(own.site)).record()
        return code

    return asyncio.run(run()), stopped


async def _connected(command: str, config: Config, act: Act) -> int:
    try:
        bus = await Bus.connect(config.nats, f"callboard-{command}", lambda: None)
    except BusUnavailable as error:
        raise CommandError(f"{command}: {error}") from None
    try:
        return await act(bus, config)
    except NoResponders:
        raise CommandError(f"{command}: no quota process answers", ExitCode.NOT_READY) from None
    except BusError as error:
        raise CommandError(f"{command}: the bus failed: {error}") from None
    finally:
        await bus.close()
