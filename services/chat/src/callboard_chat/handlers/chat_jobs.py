"""Runs one chat job after another: engine in, frames out, result and usage kept before the job is done."""

import asyncio
import logging
import time
from contextlib import aclosing
from dataclasses import dataclass

from pydantic import ValidationError

from callboard_chat import metrics
from callboard_chat.domain.hold_limits import within
from callboard_chat.domain.models import refusal
from callboard_chat.domain.ports import ChatEngine
from callboard_chat.domain.prior_attempt import history
from callboard_chat.domain.reply import Reply
from callboard_chat.domain.retries import Retries, final_error
from callboard_chat.handlers.takeover import PriorAttempt, find_prior_attempt
from callboard_chat.settings import PoolSettings
from callboard_contracts import subjects
from callboard_contracts.chat import ChatEnd, ChatFrame, ChatJob, ChatRequest, ChatResult, EndReason
from callboard_contracts.errors import CallboardError, ErrorCode, ErrorInfo
from callboard_contracts.quota import UsageEvent, Work
from callboard_contracts.streams import OUT
from callboard_kit.bus import Bus, BusError, PublishRefused
from callboard_kit.pull import Delivery, Superseded
from callboard_kit.stream_reads import read_subject
from callboard_worker.running import RunningJob, RunningJobs

log = logging.getLogger(__name__)

DEADLINE = ErrorInfo(code=ErrorCode.DEADLINE_EXCEEDED, message="The reply was not finished before its deadline.")
STALLED = ErrorInfo(code=ErrorCode.ENGINE_FAILED, message="The engine fell silent in the middle of the reply.")
BROKEN = ErrorInfo(code=ErrorCode.ENGINE_UNAVAILABLE, message="The engine broke off.")
DEAD = ErrorInfo(code=ErrorCode.INTERRUPTED, message="The work was started several times and never finished.")
INTERNAL = ErrorInfo(code=ErrorCode.INTERNAL, message="The worker failed; its log has the request id.")


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a reply ended."""

    reason: EndReason
    error: ErrorInfo | None = None


class ChatJobs:
    """The handler of a pool's job queue."""

    def __init__(self, bus: Bus, engine: ChatEngine, pool: PoolSettings, running: RunningJobs) -> None:
        self._bus = bus
        self._engine = engine
        self._pool = pool
        self._running = running
        self._figures = {name: metrics.ModelFigures(name) for name in pool.models}
        self._other = metrics.ModelFigures("other")

    async def handle(self, delivery: Delivery) -> None:
        """Runs one job to its end; when it returns, the job may be acknowledged.

        Raises:
            Nak: another worker, or this one later, is to take the job.
            Superseded: another worker, or an earlier call, has it.
            ValidationError: it is not a job; the bus hands it out again until it is a dead letter.
        """
        job = _read(delivery.data)
        is_batch = subjects.job_class_of(delivery.subject) == "batch"
        with self._running.entered(job, delivery.attempt, is_batch=is_batch) as running:
            prior = None
            if delivery.attempt > 1:
                prior = await find_prior_attempt(self._bus, job, delivery.attempt, is_batch=is_batch)
                metrics.RESUMED.labels(prior.source).inc()
                log.info(
                    "job_taken_over",
                    extra={"request_id": job.request_id, "attempt": delivery.attempt, "source": prior.source},
                )
                if prior.result is not None or prior.history.end is not None:
                    await self._close_again(running, prior)
                    return
            else:
                metrics.QUEUE_WAIT.observe(max(0.0, time.time() - job.created_at))
            reply = Reply(job.request, delivery.attempt, prior.history if prior else None, job.hold)

            async def resend(seq: int) -> None:
                for frame in reply.sent_since(seq):
                    await send_frame(self._bus, job, frame)

            running.resend = resend
            wanted = prior is None or prior.wanted
            outcome = await self._outcome(running, reply) if wanted else Outcome("cancelled")
            frame = reply.end(outcome.reason, outcome.error)
            await send_frame(self._bus, job, frame)
            self._observe(running, reply, frame)
            assert frame.end is not None
            await self._keep(job, reply.result(job.request_id, frame.end))

    async def on_dead(self, data: bytes) -> None:
        """Answers for a job that was handed out too often: an error for the client, the hold settled with nothing."""
        try:
            job = _read(data)
        except ValidationError:
            return
        frames = await read_subject(self._bus, OUT, subjects.out("*", job.request_id))
        sent = [ChatFrame.model_validate_json(message.data) for message in frames]
        known = history(sent)
        end = known.end
        if end is None:
            end = ChatEnd(reason="error", error=DEAD)
            attempt = max((frame.attempt for frame in sent), default=1)
            await send_frame(self._bus, job, ChatFrame(seq=known.next_seq, attempt=attempt, end=end))
        metrics.JOBS.labels("dead").inc()
        await self._keep(job, ChatResult(request_id=job.request_id, model=job.request.model, text="", end=end))

    async def _outcome(self, running: RunningJob[ChatJob], reply: Reply) -> Outcome:
        job = running.job
        if refused := refusal(job.request, self._pool.models):
            return Outcome("error", refused)
        if running.left_s <= 0:
            return Outcome("error", DEADLINE)
        if running.cancel_scope.reason is not None:
            return self._interrupted(running)
        try:
            with running.cancel_scope:
                return await self._generate(running, reply)
        except BusError:
            raise
        except Exception:
            # A fault in this program is answered, not repeated: it would most likely only happen again.
            log.exception("reply_failed", extra={"request_id": job.request_id})
            return Outcome("error", INTERNAL)
        return self._interrupted(running)

    def _interrupted(self, running: RunningJob[ChatJob]) -> Outcome:
        cancel_scope = running.cancel_scope
        if cancel_scope.at_s is not None:
            metrics.CANCEL_LATENCY.observe(asyncio.get_running_loop().time() - cancel_scope.at_s)
        match cancel_scope.reason:
            case "superseded":
                raise Superseded
            case "deadline":
                return Outcome("error", DEADLINE)
            case "stalled":
                metrics.ENGINE_ERRORS.labels(self._pool.backend, "stalled").inc()
                return Outcome("error", STALLED)
            case _:
                return Outcome("cancelled")

    async def _generate(self, running: RunningJob[ChatJob], reply: Reply) -> Outcome:
        """Has the engine write the reply, asking again where that can help."""
        request = running.job.request
        model = self._pool.models[request.model]
        if model.engine_model != request.model:
            request = request.model_copy(update={"model": model.engine_model})
        retries = Retries(self._pool.can_continue)
        while reply.finish is None:
            error = await self._run_engine(running, reply, request)
            if error is None:
                continue
            metrics.ENGINE_ERRORS.labels(self._pool.backend, error.code.value).inc()
            delay_s = retries.delay_s(error, said=reply.started, left_s=running.left_s)
            if delay_s is None:
                return Outcome("error", final_error(error, said=reply.started))
            log.info("engine_retry", extra={"request_id": running.job.request_id, "code": error.code.value})
            metrics.ENGINE_RETRIES.labels(self._pool.backend).inc()
            running.heard_at = None
            await asyncio.sleep(delay_s)
            reply.begin_run()
        return Outcome(reply.finish)

    async def _run_engine(self, running: RunningJob[ChatJob], reply: Reply, request: ChatRequest) -> ErrorInfo | None:
        """One run of the engine; returns what went wrong, or None when the reply is complete."""
        said = reply.said if reply.started else None
        if said is not None and not self._pool.can_continue:
            return ErrorInfo(code=ErrorCode.INTERRUPTED, message="The reply was interrupted by a restart.")
        clock = asyncio.get_running_loop().time
        job = running.job
        first = not reply.started
        try:
            async with aclosing(self._engine.stream(request, said)) as chunks:
                async for chunk in chunks:
                    running.heard_at = clock()
                    frame = reply.take(chunk)
                    if frame is not None:
                        await send_frame(self._bus, job, frame, flush=first)
                        if first:
                            first = False
                            reply.first_at = running.heard_at
                            self._model_figures(job).first_token.observe(running.heard_at - running.started_at)
                    if reply.finish is not None:
                        break
        except CallboardError as error:
            return error.info
        return None if reply.finish is not None else BROKEN

    async def _close_again(self, running: RunningJob[ChatJob], prior: PriorAttempt) -> None:
        """Repeats the acknowledged steps of a job that had come to its end before its worker was lost."""
        job = running.job
        if prior.result is not None:
            received = prior.history
            end = prior.result.end
            said, result = received.said, prior.result
            known = result.text.startswith(said.text) and result.thinking.startswith(said.thinking)
            # Which tool calls the edge has is not known here; it reads the kept result itself.
            if prior.wanted and received.next_seq and known and not result.tool_calls:
                frame = ChatFrame(
                    seq=received.next_seq,
                    attempt=running.attempt,
                    text=result.text[len(said.text) :],
                    thinking=result.thinking[len(said.thinking) :],
                    end=end,
                )
                await send_frame(self._bus, job, frame)
            await self._keep(job, prior.result)
            return
        assert prior.history.end is not None
        said = prior.history.said
        result = ChatResult(
            request_id=job.request_id,
            model=job.request.model,
            text=said.text,
            thinking=said.thinking,
            tool_calls=prior.history.tool_calls,
            end=prior.history.end,
        )
        await self._keep(job, result, whole=prior.history.whole)

    async def _keep(self, job: ChatJob, result: ChatResult, *, whole: bool = True) -> None:
        """Stores the result and the usage event; both repeat under the same id without effect."""
        end = result.end
        used = Work(prompt_tokens=end.usage.prompt_tokens, completion_tokens=end.usage.completion_tokens)
        charged = within(job.hold, used)
        if charged != used:
            metrics.OVER_HOLD.inc()
            log.warning("used_more_than_held", extra={"request_id": job.request_id, "model": job.request.model})
        event = UsageEvent(
            request_id=job.request_id,
            tenant=job.tenant,
            kind="chat",
            model=job.request.model,
            pool=self._pool.name,
            work=charged,
            outcome=end.reason,
            hold=job.hold,
            at=time.time(),
        )
        async with asyncio.TaskGroup() as group:
            group.create_task(
                self._bus.publish_stored(subjects.usage(job.tenant), event.encoded(), f"{job.request_id}.chat")
            )
            if whole:
                group.create_task(self._keep_result(job, result))

    async def _keep_result(self, job: ChatJob, result: ChatResult) -> None:
        subject = subjects.result(job.request_id)
        try:
            await self._bus.publish_stored(subject, result.encoded(), f"{job.request_id}.result")
        except PublishRefused:
            # The client has its frames; only polling for this one reply is lost, and the usage must still count.
            log.exception("result_refused", extra={"request_id": job.request_id})

    def _model_figures(self, job: ChatJob) -> metrics.ModelFigures:
        return self._figures.get(job.request.model, self._other)

    def _observe(self, running: RunningJob[ChatJob], reply: Reply, frame: ChatFrame) -> None:
        end = frame.end
        assert end is not None
        figures = self._model_figures(running.job)
        now = asyncio.get_running_loop().time()
        figures.duration.observe(now - running.started_at)
        figures.input_tokens.observe(end.usage.prompt_tokens)
        figures.output_tokens.observe(end.usage.completion_tokens)
        if reply.first_at is not None and end.usage.completion_tokens > 1:
            figures.per_token.observe((now - reply.first_at) / (end.usage.completion_tokens - 1))
        metrics.JOBS.labels(end.error.code.value if end.error else end.reason).inc()
        ids = {"request_id": running.job.request_id, "attempt": running.attempt, "model": running.job.request.model}
        log.info(
            "job_ended",
            extra={**ids, "reason": end.reason, "code": end.error.code.value if end.error else None},
        )


async def send_frame(bus: Bus, job: ChatJob, frame: ChatFrame, *, flush: bool = False) -> None:
    """Sends one frame to the job's edge; `flush` is for the first, which somebody waits for.

    Raises:
        BusUnavailable: too much is waiting for the bus to come back.
    """
    subject = subjects.out(job.edge, job.request_id)
    await bus.publish(subject, frame.model_dump_json(exclude_defaults=True).encode(), flush=flush)
    metrics.FRAMES.inc()


def _read(data: bytes) -> ChatJob:
    return ChatJob.model_validate_json(data)
