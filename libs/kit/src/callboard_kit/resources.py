"""What every process opens at its start and closes at its end: the bus connection and the ops server."""

import logging
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager

from callboard_contracts.config import NatsSection
from callboard_kit.bus import Bus, BusUnavailable
from callboard_kit.lifecycle import Shutdown, StartError, TaskSupervisor
from callboard_kit.metrics import CLOCK_SKEW
from callboard_kit.ops_server import OpsServer, Ready

log = logging.getLogger(__name__)


@asynccontextmanager
async def bus_connection(settings: NatsSection, name: str, shutdown: Shutdown) -> AsyncGenerator[Bus]:
    """Connects the process to the bus and follows its clock; a connection that ends for good ends the process.

    Raises:
        StartError: nothing answers there.
    """
    try:
        bus = await Bus.connect(settings, name, lambda: shutdown.request_stop("bus closed", failed=True))
    except BusUnavailable as error:
        raise StartError(str(error)) from None
    try:
        CLOCK_SKEW.set_function(lambda: bus.clock.machine_ahead_s)
        async with TaskSupervisor(shutdown) as supervisor:
            supervisor.start(bus.clock.follow(), "bus-clock")
            yield bus
    finally:
        await bus.close()


@asynccontextmanager
async def ops_server(
    setting: str, port: int, ready: Ready, host: str, labels: Mapping[str, str] | None = None
) -> AsyncGenerator[OpsServer]:
    """Serves health and metrics; `setting` names the key that the port comes from, `labels` are on every series.

    Raises:
        StartError: the port cannot be used.
    """
    ops = OpsServer(port, ready, host, labels)
    try:
        await ops.start()
    except OSError as error:
        raise StartError(f"{setting}: {port}: {error.strerror}") from None
    log.info("ops_server_started", extra={"port": ops.port})
    try:
        yield ops
    finally:
        await ops.close()
