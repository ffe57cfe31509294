"""What a worker says of itself on a real server, and how it is forgotten."""

import asyncio
import time
from collections.abc import Callable

import pytest

from callboard_contracts.streams import BUCKET_WORKERS
from callboard_contracts.workers import OfferedModel, PoolRecord, WorkerInfo
from callboard_kit.bucket import Bucket
from callboard_kit.bus import Bus
from callboard_kit.stream_reads import read_last
from callboard_worker import announcing
from callboard_worker.announcing import Announcer

pytestmark = pytest.mark.integration

ENTRY = "worker.chat.main.w1"


class Announced:
    """A worker that announces itself, and what the bucket holds of it."""

    def __init__(self, bus: Bus) -> None:
        self.bus = bus
        self.bucket = Bucket(bus, BUCKET_WORKERS)
        self.ready = True
        self.announcer = Announcer(bus, self.describe)

    def describe(self) -> WorkerInfo:
        model = OfferedModel(name="owl")
        return WorkerInfo(
            id="w1", service="chat", pool="main", backend="fake", models=(model,), slots=2, ready=self.ready, at=1.0
        )

    async def entry(self) -> WorkerInfo | None:
        found = await self.bucket.get(ENTRY)
        return WorkerInfo.model_validate_json(found.value) if found else None

    async def until(self, condition: Callable[[WorkerInfo | None], bool], timeout_s: float = 10.0) -> None:
        async with asyncio.timeout(timeout_s):
            while not condition(await self.entry()):
                await asyncio.sleep(0.02)


@pytest.fixture
def worker(bus: Bus) -> Announced:
    return Announced(bus)


async def test_worker_and_its_pool_are_announced_and_the_worker_withdraws(worker: Announced) -> None:
    began = time.time()
    task = asyncio.ensure_future(worker.announcer.run())
    await worker.until(lambda entry: entry == worker.describe())
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await worker.announcer.withdraw()
    assert await worker.entry() is None
    assert await worker.bucket.list("worker.>") == []
    record = await worker.bucket.get("pool.chat.main")
    assert record is not None
    pool = PoolRecord.model_validate_json(record.value)
    assert pool.last_started_at >= began
    assert pool.models == worker.describe().models


async def test_change_is_announced_at_once(worker: Announced) -> None:
    task = asyncio.ensure_future(worker.announcer.run())
    await worker.until(lambda entry: entry is not None and entry.ready)
    worker.ready = False
    worker.announcer.renew()
    await worker.until(lambda entry: entry is not None and not entry.ready, timeout_s=15)
    entry = await worker.entry()
    assert entry is not None
    assert not entry.ready
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_worker_that_dies_is_forgotten_and_its_pool_is_not(
    worker: Announced, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(announcing, "ANNOUNCE_LIFE_S", 2)
    monkeypatch.setattr(announcing, "ANNOUNCE_INTERVAL_S", 0.3)
    task = asyncio.ensure_future(worker.announcer.run())
    await worker.until(lambda entry: entry is not None)
    # It outlives its first life, because it is renewed.
    await asyncio.sleep(2.5)
    assert await worker.entry() is not None
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await worker.until(lambda entry: entry is None)
    assert await worker.bucket.get("pool.chat.main") is not None


async def test_marker_of_a_withdrawn_worker_is_gone_after_a_while(
    worker: Announced, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(announcing, "ANNOUNCE_LIFE_S", 1)
    task = asyncio.ensure_future(worker.announcer.run())
    await worker.until(lambda entry: entry is not None)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await worker.announcer.withdraw()
    async with asyncio.timeout(10):
        while await read_last(worker.bus, f"KV_{BUCKET_WORKERS}", f"$KV.{BUCKET_WORKERS}.{ENTRY}") is not None:
            await asyncio.sleep(0.05)
    state = (await worker.bus.api(f"STREAM.INFO.KV_{BUCKET_WORKERS}", {}))["state"]
    assert state["messages"] == 1


async def test_bucket_that_is_away_is_announced_to_later(worker: Announced, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(announcing, "ANNOUNCE_INTERVAL_S", 0.1)
    config = (await worker.bus.api(f"STREAM.INFO.KV_{BUCKET_WORKERS}", {}))["config"]
    await worker.bus.api(f"STREAM.DELETE.KV_{BUCKET_WORKERS}", {})
    task = asyncio.ensure_future(worker.announcer.run())
    await asyncio.sleep(0.3)
    assert not task.done()
    await worker.bus.api(f"STREAM.CREATE.KV_{BUCKET_WORKERS}", config)
    await worker.until(lambda entry: entry is not None)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
