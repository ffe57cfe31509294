"""What every process opens at its start and closes at its end: the bus, and the window for those who watch it."""

import logging
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from callboard_contracts.config import NatsSection
from callboard_kit.bus import Bus, BusUnavailable
from callboard_kit.health import Observatory, Ready
from callboard_kit.lifecycle import StartError, Stopper

log = logging.getLogger(__name__)


@asynccontextmanager
async def opened_bus(settings: NatsSection, name: str, stopper: Stopper) -> AsyncGenerator[Bus]:
    """Connects the process to the bus; a connection that ends for good ends the process.

    Raises:
        StartError: nothing answers there.
    """
    try:
        bus = await Bus.connect(settings, name, lambda: stopper.request_stop("bus closed", failed=True))
    except BusUnavailable as error:
        raise StartError(str(error)) from None
    try:
        yield bus
    finally:
        await bus.close()


@asynccontextmanager
async def opened_observatory(setting: str, port: int, ready: Ready, host: str) -> AsyncGenerator[Observatory]:
    """Serves the process's health and figures; `setting` names where the port comes from.

    Raises:
        StartError: the port cannot be used.
    """
    observatory = Observatory(port, ready, host)
    try:
        await observatory.start()
    except OSError as error:
        raise StartError(f"{setting}: {port}: {error.strerror}") from None
    log.info("observatory_started", extra={"port": observatory.port})
    try:
        yield observatory
    finally:
        await observatory.close()
