"""A real bus, an edge's side of it, and chat workers on the fake engine inside the test."""

import asyncio
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from callboard_chat.app import run_worker
from callboard_chat.backends.fake import FakeEngine
from callboard_chat.settings import PoolSettings, pool_settings
from callboard_contracts.config import Config, NatsSection
from callboard_kit.bus import Bus
from callboard_kit.lifecycle import Shutdown
from callboard_kit.provisioning import apply_streams
from tests.integration.chat.edge_stub import MODEL, POOL, EdgeStub
from tests.support.nats_server import NatsServer

READY_TIMEOUT_S = 10.0


def config(server: NatsServer, **pool: Any) -> Config:
    """A configuration with one pool and one model."""
    return Config.model_validate(
        {
            "nats": {"url": server.url},
            "chat": {
                "pools": {POOL: {"backend": "fake", "slots": 4, **pool}},
                "models": {
                    MODEL: {"pool": POOL, "aliases": ["owl:latest"]},
                    "wren": {"pool": POOL, "tools": "refuse"},
                    "magpie": {"pool": POOL, "embeddings": True, "chat": False},
                },
                "drain_timeout_s": 5,
            },
        }
    )


class Worker:
    """One worker in this process, which can be told to stop or cut off as if it had been killed."""

    def __init__(self, settings: Config, pool: PoolSettings, engine: FakeEngine) -> None:
        self.engine = engine
        self.shutdown = Shutdown()
        self.task = asyncio.ensure_future(run_worker(settings, pool, engine, self.shutdown))

    async def stop(self) -> None:
        """Drains the worker and waits for its end."""
        self.shutdown.request_stop("test")
        async with asyncio.timeout(READY_TIMEOUT_S):
            await self.task


@asynccontextmanager
async def worker(server: NatsServer, engine: FakeEngine, **pool: Any) -> AsyncGenerator[Worker]:
    """Runs a worker inside the context."""
    settings = config(server, **pool)
    running = Worker(settings, pool_settings(settings, POOL, {}), engine)
    try:
        async with asyncio.timeout(READY_TIMEOUT_S):
            while not engine.state.loaded:
                await asyncio.sleep(0.01)
        yield running
    finally:
        if not running.task.done():
            await running.stop()


@pytest.fixture
def server(tmp_path: Path) -> Generator[NatsServer]:
    """A real server of the test's own."""
    server = NatsServer(tmp_path / "nats")
    server.start()
    yield server
    server.stop()


@asynccontextmanager
async def opened_edge_stub(server: NatsServer) -> AsyncGenerator[EdgeStub]:
    """An edge's side of the bus inside the context, for tests in which the bus restarts."""
    bus = await Bus.connect(NatsSection(url=server.url), "edge_stub", lambda: None)
    await apply_streams(bus, config(server))
    edge_stub = EdgeStub(bus)
    await edge_stub.open()
    try:
        yield edge_stub
    finally:
        await edge_stub.close()
        await bus.close()


@pytest.fixture
async def edge_stub(server: NatsServer) -> AsyncGenerator[EdgeStub]:
    """An edge's side of the bus."""
    async with opened_edge_stub(server) as edge_stub:
        yield edge_stub
