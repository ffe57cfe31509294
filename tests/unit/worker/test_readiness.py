"""What a worker says of itself, and what it makes of what stands in its engine's place."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any, cast

import pytest
from prometheus_client import CollectorRegistry

from callboard_kit.bus import Bus
from callboard_kit.lifecycle import Shutdown
from callboard_worker import runtime
from callboard_worker.engine import EngineUnavailable
from callboard_worker.metrics import WorkerMetrics
from callboard_worker.pool import WorkerPool
from callboard_worker.pull import PullLoop
from callboard_worker.runtime import Readiness, Worker

pytestmark = pytest.mark.unit

POOL = WorkerPool(
    service="chat",
    name="main",
    backend="fake",
    slots=1,
    url=None,
    api_key=None,
    metrics_port=0,
    memory_limit_mib=None,
    stall_timeout_s=5,
    drain_timeout_s=5,
)


class FickleEngine:
    """Is ready, or raises, as it is told."""

    in_process = True

    def __init__(self, *answers: str | Exception | None) -> None:
        self.answers = list(answers)
        self.stuck: str | None = None

    async def load(self) -> None:
        raise EngineUnavailable("no model file at /models/owl")

    async def ready(self) -> str | None:
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer

    def broken(self) -> str | None:
        return self.stuck

    async def close(self) -> None:
        pass


class Part:
    """Stands for the bus or the pull loop, which say whether they are there."""

    def __init__(self) -> None:
        self.connected = False
        self.served = False
        self.clock = self
        self.known = False


def worker_on(engine: FickleEngine, shutdown: Shutdown) -> Worker[Any]:
    return Worker(
        POOL, engine, WorkerMetrics("test", (), CollectorRegistry()), list, lambda _bus: cast("Any", None), shutdown
    )


@asynccontextmanager
async def watched(worker: Worker[Any]) -> AsyncGenerator["asyncio.Task[None]"]:
    watching = asyncio.ensure_future(worker._watch_engine())  # pyright: ignore[reportPrivateUsage]
    try:
        yield watching
    finally:
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)


def test_reasons_come_one_after_another() -> None:
    shutdown, part = Shutdown(), Part()
    readiness = Readiness(shutdown)
    assert readiness.reason() == "engine: loading"
    readiness.engine = None
    assert readiness.reason() == "bus: not connected"
    readiness.bus = cast("Bus", part)
    assert readiness.reason() == "bus: not connected"
    part.connected = True
    assert readiness.reason() == "clock: the bus has not told its time"
    part.known = True
    assert readiness.reason() is None
    readiness.loop = cast("PullLoop", part)
    assert readiness.reason() == "queue: not served"
    part.served = True
    assert readiness.reason() is None
    shutdown.request_stop("test")
    assert readiness.reason() == "stopping"


async def test_engine_whose_answer_makes_no_sense_is_not_ready_and_ends_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(runtime, "UNREADY_INTERVAL_S", 0.01)
    shutdown = Shutdown()
    worker = worker_on(FickleEngine(AttributeError("page"), ValueError("page"), "loading", None), shutdown)
    readiness = worker._readiness  # pyright: ignore[reportPrivateUsage]
    seen: list[str | None] = []
    async with watched(worker), asyncio.timeout(20):
        while readiness.engine is not None:
            if not seen or seen[-1] != readiness.engine:
                seen.append(readiness.engine)
            await asyncio.sleep(0.002)
    assert seen[-3:] == ["engine: AttributeError", "engine: ValueError", "loading"]
    assert not shutdown.stopping


async def test_engine_that_is_stuck_for_good_ends_the_process_with_an_error() -> None:
    shutdown, engine = Shutdown(), FickleEngine(None)
    engine.stuck = "the engine does not stop"
    async with watched(worker_on(engine, shutdown)) as watching, asyncio.timeout(20):
        await watching
    assert (shutdown.reason, shutdown.failed) == ("the engine does not stop", True)
