import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from callboard_contracts.config import Config, NatsSection
from callboard_contracts.pools import ChatPoolSection, ChatSection
from callboard_kit.bus import Bus
from callboard_kit.provisioning import apply_streams
from tests.support.nats_server import NatsServer


@pytest.fixture
def server(tmp_path: Path) -> Iterator[NatsServer]:
    """A real server of the test's own."""
    server = NatsServer(tmp_path / "nats")
    server.start()
    yield server
    server.stop()


@pytest.fixture
def config(server: NatsServer) -> Config:
    """A configuration with one chat pool, where one tenant may queue four jobs."""
    pool = ChatPoolSection(backend="fake", max_queued_per_tenant=4)
    return Config(nats=NatsSection(url=server.url), chat=ChatSection(pools={"main": pool}))


@pytest.fixture
async def bus(config: Config) -> AsyncIterator[Bus]:
    """A connection to a server whose streams are declared."""
    bus = await Bus.connect(config.nats, "test", lambda: None)
    await apply_streams(bus, config)
    yield bus
    async with asyncio.timeout(10):
        await bus.close()
