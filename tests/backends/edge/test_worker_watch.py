"""The edge sees workers come, change and go, over a real nats-server."""

import asyncio
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from callboard_contracts.config import Config
from callboard_contracts.streams import BUCKET_WORKERS
from callboard_contracts.workers import PoolRecord, WorkerInfo, pool_entry, worker_entry
from callboard_edge.backends import worker_watch
from callboard_edge.backends.worker_watch import WorkerWatch
from callboard_edge.domain.workers import Workers
from callboard_kit.bus import Bus
from callboard_kit.provisioning import apply_streams
from tests.backends.edge.watches import until
from tests.support.nats_server import NatsServer

pytestmark = pytest.mark.backend

SEEN_WITHIN_S = 10.0


def info(worker_id: str, slots_used: int = 0) -> bytes:
    return WorkerInfo(
        id=worker_id, service="chat", pool="main", backend="fake", slots=4, slots_used=slots_used, at=0
    ).encoded()


@pytest.fixture
async def server(tmp_path: Path) -> AsyncGenerator[NatsServer]:
    server = NatsServer(tmp_path / "nats")
    await asyncio.to_thread(server.start)
    yield server
    await asyncio.to_thread(server.stop)


@pytest.fixture
async def bus(server: NatsServer) -> AsyncGenerator[Bus]:
    bus = await connected(server)
    yield bus
    await bus.close()


async def connected(server: NatsServer) -> Bus:
    config = Config.model_validate({"nats": {"url": server.url}})
    bus = await Bus.connect(config.nats, "test", lambda: None)
    await apply_streams(bus, config)
    return bus


async def put(bus: Bus, key: str, value: bytes) -> None:
    await bus.publish_stored(f"$KV.{BUCKET_WORKERS}.{key}", value, None)


async def test_workers_are_seen_at_the_start_and_as_they_announce_themselves(bus: Bus) -> None:
    await put(bus, worker_entry("chat", "main", "w1"), info("w1"))
    await put(bus, pool_entry("tts", "booth"), PoolRecord(last_started_at=1.0).encoded())
    workers = Workers()
    watch = WorkerWatch(bus, workers)
    await watch.start()
    assert [one.id for one in workers.of("chat", "main")] == ["w1"]
    assert (workers.state("tts", "booth"), workers.state("tts", "other")) == ("asleep", "unseen")
    await put(bus, worker_entry("chat", "main", "w2"), info("w2", slots_used=3))
    await until(lambda: len(workers.of("chat", "main")) == 2, SEEN_WITHIN_S)
    await put(bus, worker_entry("chat", "main", "w3"), b"nonsense")
    await bus.publish_stored(
        f"$KV.{BUCKET_WORKERS}.{worker_entry('chat', 'main', 'w1')}", b"", None, headers={"KV-Operation": "DEL"}
    )
    await until(lambda: [one.id for one in workers.of("chat", "main")] == ["w2"], SEEN_WITHIN_S)
    assert workers.of("chat", "main")[0].slots_used == 3
    await watch.close()


async def test_announcement_that_was_missed_is_read_after_a_reconnection(
    server: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_watch, "READ_INTERVAL_S", 60.0)
    # The client begins new tasks when it reconnects, so this connection is the test's own.
    bus = await connected(server)
    workers = Workers()
    watch = WorkerWatch(bus, workers)
    await watch.start()
    # Without its subscription the watch misses every announcement.
    await watch.close()
    watching = asyncio.ensure_future(watch.run())
    try:
        await asyncio.sleep(0.05)
        await put(bus, worker_entry("chat", "main", "w1"), info("w1"))
        assert not workers.of("chat", "main")
        await asyncio.to_thread(server.kill)
        await asyncio.to_thread(server.start)
        await until(lambda: bool(workers.of("chat", "main")), SEEN_WITHIN_S)
        assert [one.id for one in workers.of("chat", "main")] == ["w1"]
    finally:
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
        await bus.close()
