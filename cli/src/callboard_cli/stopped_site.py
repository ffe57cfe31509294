"""The bus of a site on this machine while `callboard up` is stopped: started for one command, and stopped after it."""

import asyncio
import os
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from callboard_cli.failures import CommandError, ExitCode
from callboard_cli.up import bus_server
from callboard_cli.up.child import Child
from callboard_cli.up.ports import ConfiguredPort, bind_error, bus_address
from callboard_cli.up.probes import BusProbes
from callboard_cli.up.store import StoreLock
from callboard_contracts.config import Config
from callboard_kit.bus_credentials import (
    bus_folder,
    create_password,
    is_local,
    private_folder,
    with_local_credentials,
    with_local_store,
)

START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 20.0
POLL_S = 0.05


def site_is_stopped(config: Config) -> bool:
    """Whether the bus is one that `callboard up` would start on this machine, and nothing listens there."""
    if not is_local(config.nats.url):
        return False
    host, port = bus_address(config)
    return bind_error(ConfiguredPort("nats.url", host, port)) is None


@asynccontextmanager
async def started_bus(config: Config) -> AsyncGenerator[Config]:
    """Runs the site's own bus on its store inside the context; gives the configuration with its credentials.

    Raises:
        CommandError: the store is in use, or the server does not start.
    """
    lock = StoreLock(config.site.data_dir)
    await asyncio.to_thread(lock.acquire)
    try:
        child, config = await _start(config)
        try:
            await _until_ready(child, config)
            yield config
        finally:
            await child.stop(STOP_TIMEOUT_S)
    finally:
        lock.release()


async def _start(config: Config) -> tuple[Child, Config]:
    folder, logs = bus_folder(config.site), config.site.data_dir / "logs"
    await asyncio.to_thread(create_password, config.site)
    await asyncio.to_thread(private_folder, logs)
    config = with_local_store(with_local_credentials(config))
    server = bus_server.binary()
    path = await asyncio.to_thread(bus_server.write_configuration, config.nats, *bus_address(config), folder)
    await asyncio.to_thread(bus_server.check_configuration, server, path)
    environ = bus_server.environment(os.environ)
    child = await Child.start("nats", [str(server), "-c", str(path)], environ, logs, lambda _name, _event: None)
    return child, config


async def _until_ready(child: Child, config: Config) -> None:
    probes = BusProbes(bus_folder(config.site), lambda _text: None)
    try:
        async with asyncio.timeout(START_TIMEOUT_S):
            while not await probes.ready(child):
                if not child.alive:
                    raise CommandError(child.exit_report(), ExitCode.CHILD_ENDED)
                await asyncio.sleep(POLL_S)
    except TimeoutError:
        raise CommandError(f"nats-server was not ready within {START_TIMEOUT_S:.0f} s", ExitCode.NOT_READY) from None
