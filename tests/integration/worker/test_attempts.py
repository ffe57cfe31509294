"""A job that workers give back does not count as one that ends them, and a stuck engine's jobs go on elsewhere."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import pytest

from callboard_contracts import subjects
from callboard_contracts.config import Config
from callboard_contracts.embedding import EmbeddingJob
from callboard_contracts.errors import ErrorCode
from callboard_contracts.jobs import AttemptRecord, DeadLetter
from callboard_contracts.streams import ATTEMPTS
from callboard_kit.bus import Bus
from callboard_kit.lifecycle import Shutdown
from callboard_kit.stream_reads import read_last
from callboard_worker.attempts import MAX_WORKER_DEATHS
from tests.integration.worker.echo_embedding import EchoEngine, run_echo_worker
from tests.integration.worker.test_third_kind import eventually, pool, post, queue_is_empty, result_of

pytestmark = pytest.mark.integration


class PatientEngine(EchoEngine):
    """Takes its time with every text until it is told to go on, and may be stuck."""

    def __init__(self, *, patient: bool) -> None:
        super().__init__()
        self.patient = patient
        self.stuck: str | None = None
        self.closed = False

    def broken(self) -> str | None:
        return self.stuck

    async def embed(self, text: str) -> tuple[float, ...]:
        return await super().embed("hang" if self.patient else text)

    async def close(self) -> None:
        self.closed = True


@asynccontextmanager
async def worker(config: Config, engine: EchoEngine, shutdown: Shutdown) -> AsyncGenerator["asyncio.Task[None]"]:
    task = asyncio.ensure_future(run_echo_worker(config, pool(drain_timeout_s=0.05), engine, shutdown))
    try:
        yield task
    finally:
        shutdown.request_stop("test")
        async with asyncio.timeout(20):
            await task


async def record_of(bus: Bus, job: EmbeddingJob) -> AttemptRecord:
    stored = await read_last(bus, ATTEMPTS, subjects.attempt(job.request_id))
    assert stored is not None
    return AttemptRecord.model_validate_json(stored.data)


async def test_job_that_is_drained_many_times_is_not_set_aside(bus: Bus, config: Config) -> None:
    job = await post(bus, "owl")
    for _ in range(MAX_WORKER_DEATHS + 1):
        engine = PatientEngine(patient=True)
        async with worker(config, engine, Shutdown()):
            await eventually(lambda engine=engine: engine.active == 1)
        assert (await record_of(bus, job)).state == "returned"
    async with worker(config, PatientEngine(patient=False), Shutdown()):
        result = await result_of(bus, job)
        await queue_is_empty(bus)
    assert (result.error, result.vectors) == (None, ((3.0, 1.0),))
    assert (await record_of(bus, job)).deaths == 0


async def test_attempts_of_workers_that_are_gone_are_counted(bus: Bus, config: Config) -> None:
    job = await post(bus, "owl")
    engine = PatientEngine(patient=True)
    async with worker(config, engine, Shutdown()):
        await eventually(lambda: engine.active == 1)
    gone = AttemptRecord(attempt=1, worker="gone", deaths=MAX_WORKER_DEATHS - 1)
    await bus.publish_stored(subjects.attempt(job.request_id), gone.encoded(), None)
    async with worker(config, PatientEngine(patient=False), Shutdown()):
        result = await result_of(bus, job)
        await queue_is_empty(bus)
    assert result.error is not None
    assert result.error.code is ErrorCode.WORKER_DIED
    letter = await read_last(bus, "DLQ", "dlq.chat")
    assert letter is not None
    assert DeadLetter.model_validate_json(letter.data).request_id == job.request_id


async def test_one_death_is_forgiven(bus: Bus, config: Config) -> None:
    job = await post(bus, "owl")
    engine = PatientEngine(patient=True)
    async with worker(config, engine, Shutdown()):
        await eventually(lambda: engine.active == 1)
    gone = AttemptRecord(attempt=1, worker="gone")
    await bus.publish_stored(subjects.attempt(job.request_id), gone.encoded(), None)
    async with worker(config, PatientEngine(patient=False), Shutdown()):
        assert (await result_of(bus, job)).error is None
    assert (await record_of(bus, job)).deaths == 1


async def test_stuck_engine_is_left_and_its_jobs_go_on_elsewhere(bus: Bus, config: Config) -> None:
    jobs = [await post(bus, "owl"), await post(bus, "aerie")]
    engine, shutdown = PatientEngine(patient=True), Shutdown()
    async with worker(config, engine, shutdown) as task:
        await eventually(lambda: engine.active == 2)
        engine.stuck = "it does not answer"
        async with asyncio.timeout(15):
            await task
    assert (shutdown.failed, shutdown.stuck, engine.closed) == (True, True, False)
    assert [(await record_of(bus, job)).state for job in jobs] == ["died", "died"]
    async with worker(config, PatientEngine(patient=False), Shutdown()):
        assert [(await result_of(bus, job)).error for job in jobs] == [None, None]
        await queue_is_empty(bus)


async def test_only_job_of_a_stuck_engine_is_answered(bus: Bus, config: Config) -> None:
    job = await post(bus, "owl")
    engine, shutdown = PatientEngine(patient=True), Shutdown()
    async with worker(config, engine, shutdown) as task:
        await eventually(lambda: engine.active == 1)
        engine.stuck = "it does not answer"
        async with asyncio.timeout(15):
            await task
    error = (await result_of(bus, job)).error
    assert error is not None
    assert error.code is ErrorCode.WORKER_DIED
    await queue_is_empty(bus)
