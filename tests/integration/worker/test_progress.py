"""What running jobs have used is kept on disk, for whoever settles them when their worker is lost."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import pytest

from callboard_contracts.config import Config
from callboard_contracts.quota import Work
from callboard_kit.bus import Bus
from callboard_kit.provisioning import apply_streams
from callboard_worker.progress import record_progress, recorded_progress
from tests.support.nats_server import NatsServer

pytestmark = pytest.mark.integration


async def recorded(bus: Bus, request_id: str, work: Work) -> None:
    """Waits until that is what is known of a job."""
    async with asyncio.timeout(10):
        while await recorded_progress(bus, request_id) != work:
            await asyncio.sleep(0.02)


@asynccontextmanager
async def connected(server: NatsServer, config: Config) -> AsyncGenerator[Bus]:
    """A connection of the test's own to a server that restarts."""
    bus = await Bus.connect(config.nats, "test", lambda: None)
    try:
        await apply_streams(bus, config)
        yield bus
    finally:
        await bus.close()


async def test_newest_record_of_any_worker_survives_the_bus(server: NatsServer, config: Config) -> None:
    async with connected(server, config) as bus:
        used = {"r1": Work(prompt_tokens=7, completion_tokens=100)}
        first = asyncio.ensure_future(record_progress(bus, "w1", lambda: used))
        await recorded(bus, "r1", used["r1"])
        used = {"r1": Work(prompt_tokens=7, completion_tokens=371), "r2": Work(audio_ms=900)}
        await recorded(bus, "r1", used["r1"])
        first.cancel()
        second = asyncio.ensure_future(record_progress(bus, "w2", lambda: {"r1": Work(completion_tokens=20)}))
        async with asyncio.timeout(10):
            while (await bus.api("STREAM.INFO.PROGRESS", {}))["state"]["messages"] < 2:
                await asyncio.sleep(0.02)
        second.cancel()
        await asyncio.gather(first, second, return_exceptions=True)
        assert await recorded_progress(bus, "r1") == used["r1"]
        assert await recorded_progress(bus, "unknown") is None
    await asyncio.to_thread(server.kill)
    await asyncio.to_thread(server.start)
    async with connected(server, config) as bus:
        assert await recorded_progress(bus, "r1") == used["r1"]
        assert await recorded_progress(bus, "r2") == Work(audio_ms=900)
