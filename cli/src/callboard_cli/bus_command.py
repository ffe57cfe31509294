"""Commands that work on the bus of a running installation."""

import argparse
import asyncio
from collections.abc import Awaitable, Callable

from callboard_cli.configuration import read_config
from callboard_cli.failures import CommandError, ExitCode
from callboard_contracts.config import Config
from callboard_kit.bus import Bus, BusError, BusUnavailable, NoResponders


def run_on_bus(arguments: argparse.Namespace, act: Callable[[Bus, Config], Awaitable[int]]) -> int:
    """Connects to the bus of the configuration, runs `act` on it, and returns the exit code.

    Raises:
        CommandError: the bus or quota failed.
        CallboardError: what `act` asked for cannot be done.
    """
    command = arguments.command
    config = read_config(arguments.config).config

    async def run() -> int:
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

    return asyncio.run(run())
