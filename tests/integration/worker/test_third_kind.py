"""A kind of worker that this repository does not have runs on the runtime alone: see `echo_embedding`."""

import asyncio
import time
import uuid
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager

import pytest

from callboard_contracts import subjects
from callboard_contracts.config import Config
from callboard_contracts.embedding import EmbeddingJob, EmbeddingRequest, EmbeddingResult
from callboard_contracts.errors import ErrorCode
from callboard_contracts.interest import EdgeHeartbeat
from callboard_contracts.jobs import JOB_VERSION
from callboard_contracts.quota import UsageEvent
from callboard_contracts.streams import BUCKET_WORKERS
from callboard_contracts.workers import WorkerInfo
from callboard_kit.bucket import Bucket
from callboard_kit.bus import Bus
from callboard_kit.lifecycle import Shutdown
from callboard_kit.stream_reads import read_last, read_subject
from callboard_worker import running as running_module
from callboard_worker.pool import WorkerPool
from tests.integration.worker.echo_embedding import EchoEngine, run_echo_worker

pytestmark = pytest.mark.integration

EDGE = "e1"


def pool(**over: float) -> WorkerPool:
    return WorkerPool(
        service="chat",
        name="main",
        backend="echo",
        slots=2,
        url=None,
        api_key=None,
        metrics_port=0,
        memory_limit_mib=None,
        stall_timeout_s=over.get("stall_timeout_s", 5),
        drain_timeout_s=over.get("drain_timeout_s", 5),
    )


@asynccontextmanager
async def worker(config: Config, engine: EchoEngine, **over: float) -> AsyncGenerator["asyncio.Task[None]"]:
    shutdown = Shutdown()
    task = asyncio.ensure_future(run_echo_worker(config, pool(**over), engine, shutdown))
    try:
        yield task
    finally:
        shutdown.request_stop("test")
        async with asyncio.timeout(15):
            await task


async def post(bus: Bus, *texts: str, life_s: float = 30, job_class: subjects.JobClass = "live") -> EmbeddingJob:
    now = time.time()
    job = EmbeddingJob(
        version=JOB_VERSION,
        request_id=uuid.uuid4().hex,
        edge=EDGE,
        tenant="t1",
        request=EmbeddingRequest(model="echo", inputs=texts),
        created_at=now,
        deadline_at=now + life_s,
    )
    await bus.publish_stored(subjects.job("chat", "main", job_class, "t1"), job.encoded(), job.request_id)
    return job


async def result_of(bus: Bus, job: EmbeddingJob) -> EmbeddingResult:
    async with asyncio.timeout(15):
        while (kept := await read_last(bus, "RESULT", subjects.result(job.request_id))) is None:
            await asyncio.sleep(0.02)
    return EmbeddingResult.model_validate_json(await bus.cipher.decrypt(kept.data))


async def usage_of(bus: Bus, job: EmbeddingJob) -> list[UsageEvent]:
    stored = await read_subject(bus, "USAGE", "usage.*")
    events = [UsageEvent.model_validate_json(message.data) for message in stored]
    return [event for event in events if event.request_id == job.request_id]


async def eventually(condition: Callable[[], bool], timeout_s: float = 15) -> None:
    async with asyncio.timeout(timeout_s):
        while not condition():
            await asyncio.sleep(0.01)


async def queue_is_empty(bus: Bus) -> None:
    async with asyncio.timeout(15):
        while (await bus.api("STREAM.INFO.CHAT", {}))["state"]["messages"]:
            await asyncio.sleep(0.02)


async def test_texts_become_vectors_that_are_kept_and_charged(bus: Bus, config: Config) -> None:
    engine = EchoEngine()
    engine.away_times = 2
    async with worker(config, engine):
        job = await post(bus, "owl", "aerie")
        result = await result_of(bus, job)
        await queue_is_empty(bus)
    assert result.vectors == ((3.0, 1.0), (5.0, 4.0))
    (event,) = await usage_of(bus, job)
    assert (event.kind, event.outcome, event.work.prompt_tokens, event.pool) == ("embedding", "stop", 8, "main")


async def test_worker_is_announced_while_it_runs_and_not_after(bus: Bus, config: Config) -> None:
    bucket = Bucket(bus, BUCKET_WORKERS)
    async with worker(config, EchoEngine()):
        async with asyncio.timeout(15):
            while not (entries := await bucket.list("worker.chat.main.*")) or b'"ready":false' in entries[0].value:
                await asyncio.sleep(0.02)
        info = WorkerInfo.model_validate_json(entries[0].value)
        assert (info.backend, info.slots, info.slots_used, info.draining) == ("echo", 2, 0, False)
        assert info.models[0].abilities == ("embedding",)
    assert await bucket.list("worker.>") == []
    assert len(await bucket.list("pool.>")) == 1


async def test_drain_is_announced_at_once(bus: Bus, config: Config) -> None:
    seen: list[WorkerInfo] = []
    prefix = f"$KV.{BUCKET_WORKERS}.worker.>"
    await bus.subscribe_now(
        prefix, lambda message: seen.append(WorkerInfo.model_validate_json(message.data)) if message.data else None
    )
    async with worker(config, EchoEngine(), drain_timeout_s=1):
        await eventually(lambda: any(info.ready for info in seen))
        await post(bus, "hang")
        await asyncio.sleep(0.3)
    assert [(info.draining, info.ready, info.slots_used) for info in seen][-1] == (True, False, 1)


async def test_failure_deadline_and_silence_are_answered(bus: Bus, config: Config) -> None:
    async with worker(config, EchoEngine(), stall_timeout_s=0.5):
        failed, silent = await post(bus, "owl", "fail"), await post(bus, "hang")
        late = await post(bus, "owl", life_s=-1)
        errors = [(await result_of(bus, job)).error for job in (failed, silent, late)]
        await queue_is_empty(bus)
    codes = [error.code for error in errors if error]
    assert codes == [ErrorCode.ENGINE_FAILED, ErrorCode.ENGINE_FAILED, ErrorCode.DEADLINE_EXCEEDED]
    (event,) = await usage_of(bus, failed)
    assert (event.outcome, event.work.prompt_tokens) == ("error", 3)


async def test_cancelled_job_leaves_the_engine_and_the_queue(bus: Bus, config: Config) -> None:
    engine = EchoEngine()
    async with worker(config, engine):
        job = await post(bus, "owl", "hang")
        await eventually(lambda: engine.active == 1)
        await bus.publish(subjects.cancel(job.request_id))
        await eventually(lambda: engine.active == 0, timeout_s=15)
        await queue_is_empty(bus)
    (event,) = await usage_of(bus, job)
    assert event.outcome == "cancelled"


async def test_live_job_of_a_silent_edge_is_cancelled_and_a_batch_job_is_not(
    bus: Bus, config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(running_module, "EDGE_LOST_S", 0.5)
    engine = EchoEngine()
    async with worker(config, engine):
        live, batch = await post(bus, "hang"), await post(bus, "hang", job_class="batch")
        await eventually(lambda: engine.active == 2)
        for _ in range(5):
            await bus.publish(subjects.interest(EDGE), EdgeHeartbeat(edge=EDGE, open=(live.request_id,)).encoded())
            await asyncio.sleep(0.2)
        assert engine.active == 2
        await eventually(lambda: engine.active == 1)
        assert (await result_of(bus, live)).vectors == ()
        await asyncio.sleep(0.7)
        assert engine.active == 1
        await bus.publish(subjects.cancel(batch.request_id))
        await result_of(bus, batch)


async def test_finished_job_that_comes_again_is_only_settled_again(bus: Bus, config: Config) -> None:
    """Its worker died between the result and the acknowledgement."""
    job = await post(bus, "owl", "hang")
    pull = await bus.connection.jetstream().pull_subscribe_bind("chat-main-live", "CHAT")
    (message,) = await pull.fetch(1, timeout=5)
    kept = EmbeddingResult(request_id=job.request_id, model="echo", vectors=((3.0, 1.0),))
    await bus.publish_stored(subjects.result(job.request_id), kept.encoded(), f"{job.request_id}.result")
    await message.nak()
    async with worker(config, EchoEngine()):
        await queue_is_empty(bus)
    (event,) = await usage_of(bus, job)
    assert event.outcome == "stop"
    assert await result_of(bus, job) == kept


async def test_worker_that_drains_hands_its_job_on(bus: Bus, config: Config) -> None:
    first, second = EchoEngine(), EchoEngine()
    async with worker(config, first, drain_timeout_s=0.2):
        job = await post(bus, "hang")
        await eventually(lambda: first.active == 1)
    assert (first.active, await usage_of(bus, job)) == (0, [])
    async with worker(config, second):
        await eventually(lambda: second.active == 1)
        await bus.publish(subjects.cancel(job.request_id))
        await queue_is_empty(bus)


async def test_job_that_used_up_its_deliveries_is_answered(bus: Bus, config: Config) -> None:
    settings = (await bus.api("CONSUMER.INFO.CHAT.chat-main-live", {}))["config"]
    body = {"stream_name": "CHAT", "config": {**settings, "max_deliver": 1}}
    await bus.api("CONSUMER.CREATE.CHAT.chat-main-live.job.chat.main.live.*", body)
    async with worker(config, EchoEngine(), drain_timeout_s=0.2):
        job = await post(bus, "hang")
        await asyncio.sleep(0.5)
    async with worker(config, EchoEngine()):
        result = await result_of(bus, job)
        await queue_is_empty(bus)
    assert result.error is not None
    assert result.error.code is ErrorCode.INTERRUPTED
