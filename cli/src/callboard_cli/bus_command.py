"""Commands that work on the bus of a running installation."""

import argparse
import asyncio
from collections.abc import Awaitable, Callable

from callboard_cli.configuration import read_config
from callboard_cli.failures import CommandError, ExitCode, command_error
from callboard_contracts.config import Config
from callboard_contracts.errors import CallboardError
from callboard_kit.bus import Bus, BusError, BusUnavailable, NoResponders


def run_on_bus(command: str, arguments: argparse.Namespace, act: Callable[[Bus, Config], Awaitable[int]]) -> int:
    """Connects to the bus of the configuration, acts, and returns the exit code.

    Raises:
        CommandError: what went wrong, in one line that begins with the command.
    """
    config = read_config(arguments.config).config

    async def connected() -> int:
        try:
            bus = await Bus.connect(config.nats, f"callboard-{command}", lambda: None)
        except BusUnavailable as error:
            raise CommandError(f"{command}: {error}") from None
        try:
            return await act(bus, config)
        except CallboardError as error:
            raise command_error(command, error) from None
        except NoResponders:
            raise CommandError(f"{command}: no quota process answers", ExitCode.NOT_READY) from None
        except BusError as error:
            raise CommandError(f"{command}: the bus did not do its part: {error}") from None
        finally:
            await bus.close()

    return asyncio.run(connected())
