"""The chat worker as its own process, against a real bus and a stub engine over a real socket."""

import asyncio
import signal
import time
from collections.abc import Generator
from pathlib import Path

import pytest

from tests.integration.chat.edge_stub import MODEL, POOL, EdgeStub
from tests.support.nats_server import NatsServer
from tests.support.ports import free_port
from tests.support.processes import Service
from tests.support.stub_chat import StubChat, numbered

pytestmark = pytest.mark.integration

WORDS = 120
TEXT = "".join(f"w{n} " for n in range(WORDS))


@pytest.fixture
def stub() -> Generator[StubChat]:
    stub = StubChat()
    stub.start()
    yield stub
    stub.close()


class Crew:
    """Workers of one pool."""

    def __init__(self, server: NatsServer, stub: StubChat, folder: Path) -> None:
        self._server = server
        self._stub = stub
        self._folder = folder
        self.services: list[Service] = []

    async def add(self, shift_s: float = 0.0) -> Service:
        """Starts another worker, on a machine whose clock may be wrong, and waits until it is ready."""
        port = free_port()
        pool = {"backend": "openai", "url": self._stub.url, "slots": 4, "metrics_port": port}
        table = {
            "nats": {"url": self._server.url},
            "chat": {"pools": {POOL: pool}, "models": {MODEL: {"pool": POOL}}, "drain_timeout_s": 1},
        }
        name = f"chat-{len(self.services)}"
        service = Service(
            name,
            "tests.support.shifted_clock",
            table,
            self._folder,
            health_port=port,
            arguments=("--pool", POOL),
            environ={"SHIFTED_MODULE": "callboard_chat", "SHIFT_S": str(shift_s)},
        )
        self.services.append(service)
        await asyncio.to_thread(service.start)
        await asyncio.to_thread(service.wait_ready)
        return service


@pytest.fixture
def workers(server: NatsServer, stub: StubChat, tmp_path: Path) -> Generator[Crew]:
    workers = Crew(server, stub, tmp_path)
    yield workers
    for service in workers.services:
        if service.alive:
            service.running.kill()


async def test_a_worker_that_is_killed_is_replaced_in_mid_reply(
    edge_stub: EdgeStub, workers: Crew, stub: StubChat
) -> None:
    stub.plays(numbered(WORDS, 0.15))
    first = await workers.add()
    job = await edge_stub.post(limit=500)
    await edge_stub.until(lambda: len(edge_stub.of(job)) >= 10)
    second = await workers.add()
    await asyncio.to_thread(first.running.kill)
    last = await edge_stub.end(job, timeout_s=30)
    assert edge_stub.text(job) == TEXT
    assert last.attempt == 2
    usage = await edge_stub.usage(job)
    assert (usage.work.prompt_tokens, usage.work.completion_tokens) == (7, WORDS)
    await edge_stub.queue_is_empty()
    assert (await asyncio.to_thread(second.metrics))['callboard_chat_resumed_total{source="frames"}'] == 1


async def test_a_cancelled_reply_leaves_the_engine_within_a_quarter_second(
    edge_stub: EdgeStub, workers: Crew, stub: StubChat
) -> None:
    stub.plays(numbered(WORDS, 0.05))
    worker = await workers.add()
    job = await edge_stub.post(limit=500)
    await edge_stub.until(lambda: len(edge_stub.of(job)) >= 3)
    asked_at = time.time()
    await edge_stub.cancel(job)
    last = await edge_stub.end(job)
    assert last.end is not None
    assert last.end.reason == "cancelled"
    async with asyncio.timeout(20):
        while stub.active:
            await asyncio.sleep(0.01)
    assert stub.left_at - asked_at < 0.25
    async with asyncio.timeout(20):
        while (await asyncio.to_thread(worker.metrics))["callboard_chat_slots_used"]:
            await asyncio.sleep(0.01)
    assert (await edge_stub.usage(job)).work.completion_tokens == last.end.usage.completion_tokens


@pytest.mark.parametrize("shift_s", [3600.0, -3600.0])
async def test_a_worker_whose_clock_is_wrong_keeps_deadlines(
    edge_stub: EdgeStub, workers: Crew, stub: StubChat, shift_s: float
) -> None:
    await workers.add(shift_s)
    stub.plays(numbered(5))
    last = await edge_stub.end(job := await edge_stub.post())
    assert last.end is not None
    assert last.end.reason == "stop"
    assert last.end.durations.queue_s is not None
    assert last.end.durations.queue_s < 5
    assert abs((await edge_stub.usage(job)).at - time.time()) < 30
    stub.plays(numbered(WORDS, 0.1))
    late = await edge_stub.end(await edge_stub.post(limit=500, life_s=1.5))
    assert late.end is not None
    assert late.end.error is not None
    assert late.end.error.code == "deadline_exceeded"


async def test_a_worker_told_to_stop_finishes_short_replies_and_hands_on_long_ones(
    edge_stub: EdgeStub, workers: Crew, stub: StubChat
) -> None:
    first = await workers.add()
    stub.plays(numbered(20, 0.02))
    short = await edge_stub.post(limit=500)
    await edge_stub.until(lambda: bool(edge_stub.of(short)))
    stub.plays(numbered(WORDS, 0.03))
    long = await edge_stub.post(limit=500)
    await edge_stub.until(lambda: bool(edge_stub.of(long)))
    first.running.signal(signal.SIGTERM)
    await workers.add()
    assert (await edge_stub.end(short)).attempt == 1
    assert (await edge_stub.end(long)).attempt == 2
    assert edge_stub.text(long) == TEXT
    assert await asyncio.to_thread(first.running.wait) == 0


async def test_a_worker_keeps_words_out_of_its_logs(edge_stub: EdgeStub, workers: Crew, stub: StubChat) -> None:
    worker = await workers.add()
    stub.plays(numbered(5))
    await edge_stub.end(await edge_stub.post(messages=({"role": "user", "content": "secret question"},)))
    stub.stub.script.fail_status, stub.stub.script.fail_times = 400, 1
    await edge_stub.end(await edge_stub.post())
    logs = worker.logs()
    assert {"job_ended", "started"} <= {line["event"] for line in logs}
    assert not any(line["event"] == "not_json" for line in logs)
    assert "secret" not in str(logs)


async def test_a_pool_that_does_not_exist_is_one_clear_line(server: NatsServer, tmp_path: Path) -> None:
    table = {"nats": {"url": server.url}, "chat": {"pools": {POOL: {"backend": "fake"}}}}
    service = Service("chat", "callboard_chat", table, tmp_path, health_port=None, arguments=("--pool", "attic"))
    await asyncio.to_thread(service.start)
    assert await asyncio.to_thread(service.running.wait) == 1
    lines = [line for line in service.running.output().splitlines() if not line.startswith("{")]
    assert lines == ["callboard chat: chat.pools: found 'attic', allowed are main"]


async def test_a_runaway_engine_ends_its_own_worker_at_the_memory_limit(
    edge_stub: EdgeStub, server: NatsServer, tmp_path: Path
) -> None:
    port = free_port()
    pool = {"backend": "fake", "metrics_port": port, "memory_limit_mib": 700}
    table = {"nats": {"url": server.url}, "chat": {"pools": {POOL: pool}, "models": {MODEL: {"pool": POOL}}}}
    module = "tests.integration.chat.runaway_worker"
    worker = Service("chat", module, table, tmp_path, health_port=port, arguments=("--pool", POOL))
    await asyncio.to_thread(worker.start)
    await asyncio.to_thread(worker.wait_ready)
    metrics = await asyncio.to_thread(worker.metrics)
    assert metrics["callboard_chat_memory_limit_bytes"] == 700 * 1024**2
    assert 0 < metrics["callboard_chat_memory_allocated_bytes"] < 400 * 1024**2
    job = await edge_stub.post()
    assert await asyncio.to_thread(worker.running.wait) == -signal.SIGABRT
    assert edge_stub.of(job) == []
