"""Whether the bus stores messages, against a real server whose files may not grow."""

import asyncio
import resource
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import pytest

from callboard_contracts.config import Config, NatsSection
from callboard_contracts.streams import stored_streams
from callboard_kit import store_health
from callboard_kit.bus import Bus, BusUnavailable
from callboard_kit.provisioning import apply_streams
from callboard_kit.store_health import StoreHealth
from tests.support.nats_server import NatsServer

pytestmark = pytest.mark.integration


@asynccontextmanager
async def watched(server: NatsServer) -> AsyncGenerator[tuple[Bus, StoreHealth]]:
    """A connection and the check of its store."""
    bus = await Bus.connect(NatsSection(url=server.url), "test", lambda: None)
    await apply_streams(bus, Config())
    health = StoreHealth(bus, "test", stored_streams(Config()))
    task = asyncio.ensure_future(health.run())
    try:
        yield bus, health
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await bus.close()


async def fill_stream(bus: Bus) -> None:
    for number in range(20):
        await bus.publish_stored("job.chat.local.live.someone", b"x" * 1000, f"job-{number}", 3.0)


async def becomes(health: StoreHealth, reason: str | None) -> None:
    async with asyncio.timeout(15):
        while not (health.reason is None if reason is None else reason in (health.reason or "")):
            await asyncio.sleep(0.02)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_health, "CHECK_INTERVAL_S", 0.1)
    monkeypatch.setattr(store_health, "CHECK_TIMEOUT_S", 1.0)


async def test_a_stream_that_could_not_be_written_is_named_until_the_server_is_started_again(
    server: NatsServer,
) -> None:
    async with watched(server) as (bus, health):
        await asyncio.sleep(0.5)
        assert health.reason is None
        server.limit_files(4096)
        with pytest.raises(BusUnavailable):
            await fill_stream(bus)
        server.limit_files(resource.RLIM_INFINITY)
        await becomes(health, "the stream CHAT could not be written")
        await asyncio.to_thread(server.kill)
        await asyncio.to_thread(server.start)
        await becomes(health, None)
        await bus.publish_stored("job.chat.local.live.someone", b"job", "last")


async def test_a_store_that_takes_nothing_is_noticed_without_a_request(server: NatsServer) -> None:
    async with watched(server) as (_, health):
        server.limit_files(0)
        await becomes(health, "the bus does not store messages")
        assert health.reason is not None
