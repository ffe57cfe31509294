"""A third kind of worker: embeddings that say how long each text is and how many vowels it has."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from prometheus_client import CollectorRegistry

from callboard_contracts.chat import TokenUsage
from callboard_contracts.config import Config
from callboard_contracts.embedding import EmbeddingJob, EmbeddingResult
from callboard_contracts.errors import ErrorCode, ErrorInfo
from callboard_contracts.quota import Work
from callboard_contracts.workers import OfferedModel
from callboard_kit.bus import Bus
from callboard_kit.lifecycle import Shutdown
from callboard_worker.engine import EngineFailed, EngineUnavailable, backoff_s
from callboard_worker.handler import read_job
from callboard_worker.metrics import WorkerMetrics
from callboard_worker.outcomes import Outcome, keep_outcome, outcome_of
from callboard_worker.pool import WorkerPool
from callboard_worker.running import RunningJob
from callboard_worker.runtime import Worker
from callboard_worker.takeover import kept_result, take_over

Vector = tuple[float, ...]

LATE = ErrorInfo(code=ErrorCode.DEADLINE_EXCEEDED, message="The texts were not embedded before the deadline.")
STALLED = ErrorInfo(code=ErrorCode.ENGINE_FAILED, message="The engine fell silent.")


class EchoEngine:
    """Embeds a text without a model; texts may ask for a fault."""

    in_process = True

    def __init__(self) -> None:
        self.away_times = 0
        self.active = 0

    async def load(self) -> None:
        """Has nothing to load."""

    async def ready(self) -> str | None:
        return None

    def broken(self) -> str | None:
        return None

    async def close(self) -> None:
        """Has nothing to close."""

    async def embed(self, text: str) -> Vector:
        if self.away_times:
            self.away_times -= 1
            raise EngineUnavailable
        if text == "fail":
            raise EngineFailed
        self.active += 1
        try:
            await asyncio.sleep(60 if text == "hang" else 0)
        finally:
            self.active -= 1
        return float(len(text)), float(sum(text.count(vowel) for vowel in "aeiou"))


@dataclass(frozen=True, slots=True)
class PriorAttempt:
    source: str
    result: EmbeddingResult | None


class EmbeddingJobs:
    """The kind of job that makes vectors of texts."""

    def __init__(self, bus: Bus, engine: EchoEngine, pool: WorkerPool, metrics: WorkerMetrics) -> None:
        self._bus = bus
        self._engine = engine
        self._pool = pool
        self._metrics = metrics

    def parse(self, data: bytes) -> EmbeddingJob:
        return read_job(EmbeddingJob, data)

    async def run(self, running: RunningJob[EmbeddingJob]) -> None:
        job, vectors = running.job, list[Vector]()
        if running.attempt > 1:
            prior = await take_over(job, running.attempt, self._kept(job), self._metrics)
            if prior.result is not None:
                await self._keep(job, prior.result)
                return

        async def work() -> Outcome[str]:
            for text in job.request.inputs:
                vectors.append(await self._embed(running, text))
            return Outcome("stop")

        outcome = await outcome_of(running, work, {"deadline": LATE, "stalled": STALLED}.__getitem__, self._metrics)
        self._metrics.jobs.labels(outcome.reason).inc()
        usage = TokenUsage(prompt_tokens=sum(map(len, job.request.inputs[: len(vectors)])))
        whole = () if outcome.reason != "stop" else tuple(vectors)
        await self._keep(job, self._result(job, vectors=whole, usage=usage, error=outcome.error))

    async def answer_dead(self, job: EmbeddingJob, error: ErrorInfo) -> None:
        await self._keep(job, self._result(job, error=error))

    async def close(self) -> None:
        """Has nothing under way."""

    async def _embed(self, running: RunningJob[EmbeddingJob], text: str) -> Vector:
        tries = 0
        while True:
            running.heard_at = asyncio.get_running_loop().time()
            try:
                return await self._engine.embed(text)
            except EngineUnavailable:
                await asyncio.sleep(backoff_s(tries))
                tries += 1

    async def _kept(self, job: EmbeddingJob) -> PriorAttempt:
        return PriorAttempt("result", await kept_result(self._bus, job.request_id, EmbeddingResult))

    def _result(self, job: EmbeddingJob, **fields: object) -> EmbeddingResult:
        return EmbeddingResult.model_validate({"request_id": job.request_id, "model": job.request.model, **fields})

    async def _keep(self, job: EmbeddingJob, result: EmbeddingResult) -> None:
        work = Work(prompt_tokens=result.usage.prompt_tokens)
        outcome = "error" if result.error else "stop" if result.vectors else "cancelled"
        await keep_outcome(
            self._bus,
            job,
            kind="embedding",
            model=job.request.model,
            pool=self._pool.name,
            work=work,
            outcome=outcome,
            result=result,
        )


async def run_echo_worker(config: Config, pool: WorkerPool, engine: EchoEngine, shutdown: Shutdown) -> None:
    """Runs a worker of this kind."""
    metrics = WorkerMetrics("echo", ("result",), CollectorRegistry())

    def offers() -> Sequence[OfferedModel]:
        return [OfferedModel(name="echo", abilities=("embedding",))]

    await Worker(pool, engine, metrics, offers, lambda bus: EmbeddingJobs(bus, engine, pool, metrics), shutdown).run(
        config
    )
