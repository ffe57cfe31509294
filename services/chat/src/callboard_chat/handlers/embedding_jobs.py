"""Runs one embedding job after another: texts in, frames of vectors out, usage and result kept before it is done."""

import asyncio
import logging
import time
from base64 import b64encode
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Literal

from callboard_chat import metrics
from callboard_chat.domain.embedding import Embedding, InputTooLong, embedding_refusal
from callboard_chat.domain.models import ServedModel
from callboard_chat.domain.ports import ChatEngine, Embedded
from callboard_chat.domain.prompt_statistics import PromptStatistics
from callboard_chat.domain.retries import Retries
from callboard_chat.handlers.input_quota import InputQuota
from callboard_chat.settings import PoolSettings
from callboard_contracts import subjects
from callboard_contracts.chat import TokenUsage
from callboard_contracts.embedding import (
    EmbeddingEnd,
    EmbeddingEndReason,
    EmbeddingFrame,
    EmbeddingJob,
    EmbeddingResult,
    order_of_embedding_frames,
    packed,
)
from callboard_contracts.errors import ErrorCode, ErrorInfo
from callboard_contracts.prompt_size import USUAL_TOKENS_PER_BYTE, embedding_tokens, text_bytes
from callboard_kit import tracing
from callboard_kit.bus import Bus
from callboard_worker.engine import EngineError
from callboard_worker.handler import read_job
from callboard_worker.hold_extensions import HoldExtensions, JobHolds
from callboard_worker.outcomes import Outcome, keep_outcome, outcome_of
from callboard_worker.prior_frames import FrameKind, PriorFrames, find_prior_frames, sent_frames
from callboard_worker.running import RunningJob
from callboard_worker.takeover import take_over

log = logging.getLogger(__name__)

PriorEmbedding = PriorFrames[EmbeddingFrame, EmbeddingEnd, EmbeddingResult]
FRAMES = FrameKind(
    EmbeddingFrame,
    EmbeddingResult,
    order_of_embedding_frames,
    lambda frame: frame.end,
    max_frames=8192,
    is_whole=lambda result: bool(result.vectors or result.error),
)
DEADLINE = ErrorInfo(code=ErrorCode.DEADLINE_EXCEEDED, message="The texts were not embedded before the deadline.")
STALLED = ErrorInfo(code=ErrorCode.ENGINE_FAILED, message="The engine fell silent while it embedded the texts.")


class EmbeddingJobs:
    """The kind of job that makes vectors of texts; see `JobKind`."""

    def __init__(
        self,
        bus: Bus,
        engine: ChatEngine,
        pool: PoolSettings,
        extensions: HoldExtensions,
        statistics: Mapping[str, PromptStatistics],
    ) -> None:
        self._bus = bus
        self._engine = engine
        self._pool = pool
        self._extensions = extensions
        self._statistics = statistics
        self._figures = {name: metrics.EmbeddingFigures(name) for name in pool.models}
        self._other = metrics.EmbeddingFigures("other")

    def parse(self, data: bytes) -> EmbeddingJob:
        """Reads a job; raises ValueError."""
        return read_job(EmbeddingJob, data)

    async def run(self, running: RunningJob[EmbeddingJob]) -> None:
        """Embeds the texts of one job; see `JobKind`."""
        job, clock = running.job, time.monotonic
        tracing.annotate(
            {
                "gen_ai.operation.name": "embeddings",
                "gen_ai.provider.name": self._pool.backend,
                "gen_ai.request.model": job.request.model,
                "callboard.pool": self._pool.name,
            },
            name=f"embeddings {job.request.model}",
        )
        prior: PriorEmbedding = PriorFrames("none")
        if running.attempt > 1:
            search = find_prior_frames(self._bus, FRAMES, running)
            prior = await take_over(job, running.attempt, search, metrics.WORKER)
        quota = self._quota(job, prior, lambda: running.left_s)
        if prior.end is not None or prior.result is not None:
            await self._close_again(running, prior, quota)
            return
        embedding = Embedding(job.request, running.attempt, prior.frames)

        async def resend(seq: int) -> None:
            for frame in embedding.sent_since(seq):
                await self._send(job, frame)

        running.resend = resend
        outcome: Outcome[EmbeddingEndReason] = Outcome("cancelled")
        if prior.wanted:
            work = partial(self._embed, running, embedding, quota)
            outcome = await outcome_of(running, work, self._explain, metrics.WORKER)
        frame = embedding.end(outcome.reason, outcome.error, running.queue_s, clock() - running.started_at)
        assert frame.end is not None
        await self._send(job, frame, flush=True)
        self._observe(running, embedding, frame.end)
        await self._keep(job, frame.end, embedding.result(job.request_id, frame.end), quota)

    async def answer_dead(self, job: EmbeddingJob, error: ErrorInfo) -> None:
        """Ends the request with an error, unless it has an end."""
        prior = await sent_frames(self._bus, FRAMES, job)
        quota = self._quota(job, prior, lambda: 0.0)
        if prior.end is not None:
            await self._keep(job, prior.end, None, quota)
            return
        attempt = max((frame.attempt for frame in prior.frames), default=1)
        embedding = Embedding(job.request, attempt, prior.frames)
        frame = embedding.end("error", error)
        assert frame.end is not None
        end = frame.end
        if error.code is ErrorCode.WORKER_DIED:
            # What the engine read counts against whoever sent what ended it.
            context = self._context_tokens(job.request.model)
            read = embedding_tokens(job.request.inputs, USUAL_TOKENS_PER_BYTE, context)
            end = end.model_copy(update={"usage": TokenUsage(prompt_tokens=read)})
            frame = frame.model_copy(update={"end": end})
        await self._send(job, frame, flush=True)
        await self._keep(job, end, embedding.result(job.request_id, end), quota)

    async def close(self) -> None:
        """Has nothing of its own under way."""

    def _explain(self, reason: Literal["deadline", "stalled"]) -> ErrorInfo:
        if reason == "deadline":
            return DEADLINE
        metrics.ENGINE_ERRORS.labels(self._pool.backend, "stalled").inc()
        return STALLED

    async def _embed(
        self, running: RunningJob[EmbeddingJob], embedding: Embedding, quota: InputQuota
    ) -> Outcome[EmbeddingEndReason]:
        request = running.job.request
        if refused := embedding_refusal(request, self._pool.models, self._engine.abilities):
            return Outcome("error", refused)
        model = self._pool.models[request.model]
        retries = Retries(can_continue=True)
        while not embedding.complete:
            first, inputs = embedding.done, embedding.next_inputs()
            answer = await self._ask_engine(running, model, inputs, first)
            if isinstance(answer, ErrorInfo):
                metrics.ENGINE_ERRORS.labels(self._pool.backend, answer.code.value).inc()
                delay_s = retries.delay_s(answer, said=False, left_s=running.left_s)
                if delay_s is None:
                    return Outcome("error", answer)
                metrics.WORKER.engine_retries.labels(self._pool.backend).inc()
                await asyncio.sleep(delay_s)
                continue
            frame = embedding.take(answer, len(inputs))
            await quota.cover(embedding.tokens, embedding.expected_tokens(embedding.tokens))
            await self._send(running.job, frame)
        return Outcome("stop")

    async def _ask_engine(
        self, running: RunningJob[EmbeddingJob], model: ServedModel, inputs: Sequence[str], first: int
    ) -> Embedded | ErrorInfo:
        """What the engine makes of some texts, or what went wrong."""
        context = model.context_tokens
        truncate = running.job.request.truncate
        running.heard_at = time.monotonic()
        try:
            return await self._engine.embed(model.engine_model, inputs, context, truncate=truncate)
        except InputTooLong as error:
            return error.explained(context, inputs, first)
        except EngineError as error:
            return error.info
        finally:
            # While quota is asked, nothing is expected of the engine.
            running.heard_at = None

    async def _close_again(self, running: RunningJob[EmbeddingJob], prior: PriorEmbedding, quota: InputQuota) -> None:
        """Repeats the acknowledged steps of a job that had come to its end before its worker was lost."""
        job, end = running.job, prior.end
        if prior.result is not None:
            frame = frame_of(prior.result, running.attempt)
            end = frame.end
            await self._send(job, frame, flush=True)
        assert end is not None
        await self._keep(job, end, prior.result, quota)

    async def _send(self, job: EmbeddingJob, frame: EmbeddingFrame, *, flush: bool = False) -> None:
        await self._bus.publish(subjects.out(job.edge, job.request_id), frame.compact(), flush=flush)
        metrics.FRAMES.inc()

    def _quota(self, job: EmbeddingJob, prior: PriorEmbedding, left_s: Callable[[], float]) -> InputQuota:
        return InputQuota(JobHolds(self._extensions, job, prior.extensions, left_s, metrics.WORKER))

    async def _keep(
        self, job: EmbeddingJob, end: EmbeddingEnd, result: EmbeddingResult | None, quota: InputQuota
    ) -> None:
        await keep_outcome(
            self._bus,
            job,
            kind="embedding",
            model=job.request.model,
            pool=self._pool.name,
            work=quota.charged(end.usage.prompt_tokens),
            outcome=end.reason,
            extensions=quota.extensions,
            result=result,
        )

    def _context_tokens(self, name: str) -> int:
        model = self._pool.models.get(name)
        return model.context_tokens if model else self._pool.context_tokens

    def _observe(self, running: RunningJob[EmbeddingJob], embedding: Embedding, end: EmbeddingEnd) -> None:
        request = running.job.request
        figures = self._figures.get(request.model, self._other)
        figures.duration.observe(time.monotonic() - running.started_at, tracing.ids())
        figures.input_tokens.observe(end.usage.prompt_tokens)
        figures.inputs.inc(embedding.done)
        if end.reason == "stop" and not end.truncated:
            size = sum(text_bytes(text) for text in request.inputs)
            self._statistics[self._pool.models[request.model].name].count(size, embedding.tokens)
        code = end.error.code.value if end.error else None
        metrics.WORKER.count_job(code or end.reason)
        tracing.annotate(
            {"gen_ai.usage.input_tokens": end.usage.prompt_tokens, **({"error.type": code} if code else {})}
        )
        ids = {"request_id": running.job.request_id, "attempt": running.attempt, "model": request.model}
        log.info("job_ended", extra={**ids, "reason": end.reason, "code": code})


def frame_of(result: EmbeddingResult, attempt: int) -> EmbeddingFrame:
    """A kept result as one frame, in place of all that were sent before."""
    end = EmbeddingEnd(reason="error" if result.error else "stop", usage=result.usage, error=result.error)
    vectors = tuple(b64encode(packed(vector)).decode() for vector in result.vectors)
    return EmbeddingFrame(seq=0, attempt=attempt, vectors=vectors, end=end)
