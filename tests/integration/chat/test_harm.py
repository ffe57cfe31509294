"""A job that freezes the engine or kills the worker is answered and set aside, and its neighbours finish elsewhere."""

import asyncio
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

from callboard_contracts.chat import ChatFrame
from callboard_contracts.errors import ErrorCode
from callboard_kit.lifecycle import EXIT_STUCK
from callboard_kit.stream_reads import read_last
from tests.integration.chat.edge_stub import MODEL, POOL, EdgeStub
from tests.integration.chat.scripted_worker import TEXT
from tests.support.nats_server import NatsServer
from tests.support.ports import free_port
from tests.support.processes import Service

pytestmark = [pytest.mark.integration, pytest.mark.timeout(400)]

HARMLESS, FREEZE, KILL = [({"role": "user", "content": word},) for word in ("harmless", "freeze", "kill")]


class Crew:
    """Workers of one pool, one after another."""

    def __init__(self, server: NatsServer, folder: Path) -> None:
        self._server = server
        self._folder = folder
        self.services: list[Service] = []

    async def add(self, **pool: Any) -> Service:
        port = free_port()
        section = {"backend": "fake", "slots": 4, "metrics_port": port, "watchdog_timeout_s": 6, **pool}
        table = {
            "nats": {"url": self._server.url},
            "chat": {"pools": {POOL: section}, "models": {MODEL: {"pool": POOL}}, "drain_timeout_s": 60},
        }
        module = "tests.integration.chat.scripted_worker"
        name = f"chat-{len(self.services)}"
        service = Service(name, module, table, self._folder, health_port=port, arguments=("--pool", POOL), forked=True)
        self.services.append(service)
        await asyncio.to_thread(service.start)
        await asyncio.to_thread(service.wait_ready)
        return service


@pytest.fixture
def workers(server: NatsServer, tmp_path: Path) -> Generator[Crew]:
    crew = Crew(server, tmp_path)
    yield crew
    for service in crew.services:
        if service.alive:
            service.running.kill()


def error_of(last: ChatFrame) -> ErrorCode | None:
    assert last.end is not None
    return last.end.error.code if last.end.error else None


async def test_worker_with_a_frozen_engine_ends_and_its_other_jobs_go_on_elsewhere(
    edge_stub: EdgeStub, workers: Crew
) -> None:
    first = await workers.add(stall_timeout_s=1)
    neighbour = await edge_stub.post(limit=500, messages=HARMLESS, life_s=80)
    await edge_stub.until(lambda: bool(edge_stub.of(neighbour)))
    frozen = await edge_stub.post(limit=500, messages=FREEZE, life_s=80)
    await edge_stub.until(lambda: bool(edge_stub.of(frozen)))
    second = await workers.add()
    assert error_of(await edge_stub.end(frozen, timeout_s=40)) is ErrorCode.WORKER_DIED
    assert await asyncio.to_thread(first.running.wait) == EXIT_STUCK
    stuck = next(line for line in first.logs() if line["event"] == "engine_stuck")
    assert stuck["reason"] == "the engine does not stop"
    last = await edge_stub.end(neighbour, timeout_s=40)
    assert (last.attempt, edge_stub.text(neighbour)) == (2, TEXT)
    assert (await edge_stub.usage(frozen)).work.completion_tokens == 1
    assert (await read_last(edge_stub.bus, "DLQ", "dlq.chat")) is not None
    await edge_stub.queue_is_empty()
    assert (await asyncio.to_thread(second.metrics))['callboard_chat_worker_deaths_total{reason="stuck"}'] == 1


async def test_job_that_killed_two_workers_is_answered_and_its_neighbour_finishes(
    edge_stub: EdgeStub, workers: Crew
) -> None:
    first = await workers.add()
    neighbour = await edge_stub.post(limit=500, messages=HARMLESS, life_s=80)
    await edge_stub.until(lambda: bool(edge_stub.of(neighbour)))
    killer = await edge_stub.post(limit=500, messages=KILL, life_s=80)
    await asyncio.to_thread(first.running.wait, 30)
    second = await workers.add()
    await asyncio.to_thread(second.running.wait, 30)
    third = await workers.add()
    last = await edge_stub.end(killer, timeout_s=40)
    assert error_of(last) is ErrorCode.WORKER_DIED
    assert (await asyncio.to_thread(third.metrics))['callboard_chat_worker_deaths_total{reason="killed"}'] >= 1
    usage = await edge_stub.usage(killer)
    assert usage.work.prompt_tokens > 0
    assert usage.work.completion_tokens == sum(frame.tokens for frame in edge_stub.of(killer))
    assert error_of(await edge_stub.end(neighbour, timeout_s=40)) is None
    assert edge_stub.text(neighbour) == TEXT
    await edge_stub.queue_is_empty()
