"""Runs one chat job after another: engine in, frames out, result and usage kept before the job is done."""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from functools import partial
from typing import Literal

from callboard_chat import metrics
from callboard_chat.domain.dialogue_cut import UNBOUNDED, fitted
from callboard_chat.domain.kudos_cost import kudos_cost
from callboard_chat.domain.models import ContextExceeded, estimated_prompt_tokens, format_of, refusal
from callboard_chat.domain.own_prompts import OwnPrompt, OwnPrompts
from callboard_chat.domain.ports import ChatEngine, Chunk, Continuation
from callboard_chat.domain.prior_attempt import History
from callboard_chat.domain.prompt_rendering import RenderedRequest, TextFit, rendered
from callboard_chat.domain.prompt_statistics import PromptStatistics
from callboard_chat.domain.reply import Reply
from callboard_chat.domain.reply_format import check_format, is_checked, uncheckable
from callboard_chat.domain.reply_statistics import ReplyStatistics
from callboard_chat.domain.retries import Retries, final_error
from callboard_chat.handlers.reply_notes import ReplyNotes
from callboard_chat.handlers.takeover import PriorAttempt, find_prior_attempt, find_what_was_sent
from callboard_chat.handlers.text_quota import TextQuota
from callboard_chat.settings import PoolSettings
from callboard_contracts import subjects
from callboard_contracts.chat import ChatEnd, ChatFrame, ChatJob, ChatRequest, ChatResult, EndReason, TokenUsage
from callboard_contracts.errors import ErrorCode, ErrorInfo
from callboard_contracts.prompt_size import usual_prompt_tokens
from callboard_contracts.quota import VolunteerWork, Work
from callboard_contracts.rooms import TurnEnded
from callboard_kit import tracing
from callboard_kit.bus import Bus
from callboard_worker.engine import EngineError
from callboard_worker.handler import read_job
from callboard_worker.hold_extensions import HoldExtensions, JobHolds
from callboard_worker.outcomes import Outcome, keep_outcome, outcome_of
from callboard_worker.running import RunningJob
from callboard_worker.takeover import kept_result, take_over

log = logging.getLogger(__name__)

StreamJob = Callable[[RunningJob[ChatJob], ChatRequest, Continuation | None], AsyncGenerator[Chunk, None]]
"""How an engine that has to know the job writes its reply; see `ChatEngine.stream`."""

RETURN_TIMEOUT_S = 5.0
"""How long the last holds may take to be given back before the worker ends."""
COUNT_TIMEOUT_S = 5.0
"""How long the tokens of a prompt may take to count before they are reckoned."""

DEADLINE = ErrorInfo(code=ErrorCode.DEADLINE_EXCEEDED, message="The reply was not finished before its deadline.")
STALLED = ErrorInfo(code=ErrorCode.ENGINE_FAILED, message="The engine fell silent in the middle of the reply.")
BROKEN = ErrorInfo(code=ErrorCode.ENGINE_UNAVAILABLE, message="The engine broke off.")
INTERRUPTED = ErrorInfo(code=ErrorCode.INTERRUPTED, message="The reply was interrupted by a restart.")


class ChatJobs:
    """The kind of job that makes a reply of a prompt; see `JobKind`."""

    def __init__(
        self,
        bus: Bus,
        engine: ChatEngine,
        pool: PoolSettings,
        extensions: HoldExtensions,
        statistics: Mapping[str, PromptStatistics],
        replies: Mapping[str, ReplyStatistics],
        stream_job: StreamJob | None = None,
    ) -> None:
        self._bus = bus
        self._engine = engine
        self._pool = pool
        self._extensions = extensions
        self._statistics = statistics
        self._notes = ReplyNotes(pool, statistics, replies)
        self._stream_job: StreamJob = stream_job or (lambda _running, request, said: engine.stream(request, said))
        self._own_prompts = OwnPrompts()

    def parse(self, data: bytes) -> ChatJob:
        """Reads a job; raises ValueError."""
        return read_job(ChatJob, data)

    async def run(self, running: RunningJob[ChatJob]) -> None:
        """Writes one reply to its end; see `JobKind`."""
        job = running.job
        model = job.request.model
        tracing.annotate(
            {
                "gen_ai.operation.name": "chat",
                "gen_ai.provider.name": self._pool.backend,
                "gen_ai.request.model": model,
                "gen_ai.request.max_tokens": job.request.max_output_tokens,
                "gen_ai.output.type": "text",
                "callboard.pool": self._pool.name,
            },
            name=f"chat {model}",
        )
        prior = PriorAttempt("none")
        if running.attempt > 1:
            search = find_prior_attempt(self._bus, running)
            prior = await take_over(job, running.attempt, search, metrics.WORKER)
            if prior.result is not None or prior.history.end is not None:
                await self._close_again(running, prior)
                return
        elif (
            job.request.turn is not None
            and (kept := await kept_result(self._bus, job.request_id, ChatResult)) is not None
        ):
            # The rooms service may store the job of a turn again, long after it was run.
            await self._close_again(running, PriorAttempt("result", result=kept))
            return
        quota = self._quota(job, prior, lambda: running.left_s)
        request = await self._fitted(job.request)
        prompt = OwnPrompt(self._own_prompts, job.tenant, request)
        shown, refused = self._rendered(request)
        reply = Reply(
            shown.request,
            running.attempt,
            prior.history,
            None if job.held else job.hold,
            check_prefill=not self._engine.honours_prefill,
            trims_start=shown.opens_reply,
            tells_restarts=running.is_batch,
            max_cached_tokens=prompt.shared_tokens,
        )

        async def resend(seq: int) -> None:
            for frame in reply.sent_since(seq):
                await self._send(job, frame)

        running.resend = resend
        running.used = lambda: reply.used
        outcome: Outcome[EndReason] = Outcome("cancelled")
        if prior.wanted:
            work = partial(self._generate, running, reply, quota, shown, refused)
            outcome = await outcome_of(running, work, self._explain, metrics.WORKER)
        if reply.tells_cached and reply.prompt_tokens is not None:
            prompt.add(reply.prompt_tokens)
        completed = outcome.reason not in {"cancelled", "error"}
        if not completed:
            await self._release(job, reply)
        frame = reply.end(outcome.reason, outcome.error, running.queue_s)
        end = frame.end
        assert end is not None
        await quota.cover_used(end.usage)
        ended_at = time.monotonic()
        result = reply.result(job.request_id, end)

        async def send_end() -> None:
            await self._send(job, frame)
            # It runs once what is sent here is written, since the client waits for that.
            asyncio.get_running_loop().call_soon(self._notes.end, running, request, reply, end, ended_at)

        await self._keep(job, end, result, quota, send_end)

    async def answer_dead(self, job: ChatJob, error: ErrorInfo) -> None:
        """Ends the reply with an error, unless it has an end; what was read and sent of it is settled."""
        prior, attempt = await find_what_was_sent(self._bus, job)
        quota = self._quota(job, prior)
        end = prior.history.end
        if end is not None:
            await self._keep(job, end, _result_of(job, prior.history), quota)
            return
        reply = Reply(job.request, attempt, prior.history)
        frame = reply.end("error", error)
        assert frame.end is not None
        end = frame.end
        if error.code is ErrorCode.WORKER_DIED and not prior.history.started:
            # What the engine read counts against whoever sent what ended it.
            usage = TokenUsage(prompt_tokens=estimated_prompt_tokens(job.request))
            end = end.model_copy(update={"usage": usage})
            frame = frame.model_copy(update={"end": end})
        await self._send(job, frame)
        await self._keep(job, end, reply.result(job.request_id, end), quota)

    async def close(self) -> None:
        """Waits for the holds that are on their way back."""
        await self._extensions.close(RETURN_TIMEOUT_S)

    def _explain(self, reason: Literal["deadline", "stalled"]) -> ErrorInfo:
        if reason == "deadline":
            return DEADLINE
        metrics.ENGINE_ERRORS.labels(self._pool.backend, "stalled").inc()
        return STALLED

    async def _fitted(self, request: ChatRequest) -> ChatRequest:
        """The request without the messages that its context has no room for, where they may go."""
        model = self._pool.models.get(request.model)
        if model is None or request.mode != "chat" or request.overflow == "refuse":
            return request
        if format_of(request, model) != "own":
            # The prompt is written here, and cut as a text.
            return request

        async def count(one: ChatRequest) -> int:
            if "tokenize" in self._engine.abilities:
                asked = one.model_copy(update={"model": model.engine_model})
                try:
                    async with asyncio.timeout(COUNT_TIMEOUT_S):
                        return len((await self._engine.tokenize(asked)).ids)
                except (EngineError, TimeoutError):
                    log.warning("prompt_not_counted", extra={"model": model.name})
            return usual_prompt_tokens(one, self._statistics[model.name].tokens_per_byte, UNBOUNDED)

        return await fitted(request, model.context_tokens, count)

    def _rendered(self, request: ChatRequest) -> tuple[RenderedRequest, ErrorInfo | None]:
        """The request as the engine gets it, and why it is refused if it is."""
        if refused := refusal(request, self._pool.models, self._engine.abilities):
            return RenderedRequest(request), refused
        model = self._pool.models[request.model]
        try:
            return rendered(request, model, self._engine), None
        except ContextExceeded as error:
            return RenderedRequest(request), error.explained(model.context_tokens)

    async def _generate(
        self,
        running: RunningJob[ChatJob],
        reply: Reply,
        quota: TextQuota,
        shown: RenderedRequest,
        refused: ErrorInfo | None,
    ) -> Outcome[EndReason]:
        """Has the engine write the reply, asking again where that can help."""
        request = running.job.request
        if refused := refused or await uncheckable(request):
            return Outcome("error", refused)
        model = self._pool.models[request.model]
        fit = None
        if shown.request.mode == "completion" and "tokenize" not in self._engine.abilities:
            fit = TextFit(self._statistics[model.name].tokens_per_byte)
        retries = Retries(self._pool.can_continue)
        while reply.finish is None:
            if (frame := reply.restarted()) is not None:
                await self._send(running.job, frame)
            asked = shown.continued(has_text=reply.has_text)
            if model.engine_model != asked.model:
                asked = asked.model_copy(update={"model": model.engine_model})
            error = await self._run_engine(running, reply, asked, quota, fit)
            if error is None:
                continue
            await self._release(running.job, reply)
            metrics.ENGINE_ERRORS.labels(self._pool.backend, error.code.value).inc()
            delay_s = retries.delay_s(error, said=reply.started, left_s=running.left_s)
            if delay_s is None:
                return Outcome("error", final_error(error, said=reply.started))
            log.info("engine_retry", extra={"request_id": running.job.request_id, "code": error.code.value})
            metrics.WORKER.engine_retries.labels(self._pool.backend).inc()
            running.heard_at = None
            await asyncio.sleep(delay_s)
            reply.begin_run()
        if reply.finish == "stop" and not reply.cut_at_stop and is_checked(request):
            await self._release(running.job, reply)
            violation = await check_format(request, reply.said.text)
            if violation is not None:
                metrics.ENGINE_ERRORS.labels(self._pool.backend, violation.code.value).inc()
                return Outcome("error", violation)
        return Outcome(reply.finish)

    async def _run_engine(
        self,
        running: RunningJob[ChatJob],
        reply: Reply,
        request: ChatRequest,
        quota: TextQuota,
        fit: TextFit | None,
    ) -> ErrorInfo | None:
        """One run of the engine; returns what went wrong, or None when the reply is complete or is to be tried shorter.

        `fit` cuts raw prompts for an engine that tells no tokens.
        """
        said = reply.said if reply.started else None
        if said is not None and not self._pool.can_continue:
            return INTERRUPTED
        clock = time.monotonic
        job = running.job
        first = not reply.started
        chunks = self._stream_job(running, fit.cut(request) if fit else request, said)
        try:
            async for chunk in chunks:
                if chunk.read_prompt_tokens is None:
                    running.heard_at = clock()
                if chunk.prompt_tokens is not None and chunk.finish is None:
                    quota.count_prompt(chunk.prompt_tokens)
                if (tokens := reply.tokens_with(chunk)) > quota.covered:
                    # While quota is asked, nothing is expected of the engine.
                    running.heard_at = None
                    await quota.cover(reply, tokens)
                    running.heard_at = clock()
                frame = reply.take(chunk)
                if frame is not None:
                    await self._send_or_hold_back(job, reply, chunk, frame, flush=first)
                    if first and frame.says_something:
                        first = False
                        self._notes.first(running, reply)
                if reply.finish is not None:
                    break
        except ContextExceeded as error:
            if fit is not None and not reply.started and fit.shorten(request):
                return None
            return error.explained(self._pool.models[job.request.model].context_tokens, job.request)
        except EngineError as error:
            return error.info
        finally:
            # This is what stops an engine that is still at work.
            await chunks.aclose()
        return None if reply.finish is not None else BROKEN

    async def _close_again(self, running: RunningJob[ChatJob], prior: PriorAttempt) -> None:
        """Repeats the acknowledged steps of a job that had come to its end before its worker was lost."""
        job, known = running.job, prior.history
        quota = self._quota(job, prior)
        if (kept := prior.result) is not None:
            if prior.wanted and (frame := _rest(kept, known, running.attempt)) is not None:
                await self._send(job, frame)
            await self._keep(job, kept.end, kept, quota)
            return
        assert known.end is not None
        await self._keep(job, known.end, _result_of(job, known), quota)

    async def _send(self, job: ChatJob, frame: ChatFrame, *, flush: bool = False) -> None:
        """Sends one frame to the job's edge; `flush` is for the first, which somebody waits for."""
        data = frame.compact()
        await self._bus.publish(subjects.out(job.edge, job.request_id), data, flush=flush)
        metrics.FRAMES.inc()

    async def _send_or_hold_back(
        self, job: ChatJob, reply: Reply, chunk: Chunk, frame: ChatFrame, *, flush: bool
    ) -> None:
        """Sends the frame for a chunk, or holds it back where the end of the reply comes next."""
        if chunk.last_follows or reply.finish is not None:
            await self._release(job, reply)
            reply.hold_back()
        else:
            await self._send(job, frame, flush=flush)

    async def _release(self, job: ChatJob, reply: Reply) -> None:
        """Sends what is held back for the end, where that is not what comes next."""
        if (frame := reply.release()) is not None:
            await self._send(job, frame)

    def _quota(self, job: ChatJob, prior: PriorAttempt, left_s: Callable[[], float] = lambda: 0.0) -> TextQuota:
        holds = JobHolds(self._extensions, job, prior.extensions, left_s, metrics.WORKER)
        return TextQuota(job, holds, prior.history)

    async def _keep(
        self,
        job: ChatJob,
        end: ChatEnd,
        result: ChatResult | None,
        quota: TextQuota,
        send_end: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        used = Work(prompt_tokens=end.usage.prompt_tokens, completion_tokens=end.usage.completion_tokens)
        charged = quota.charged(used)
        if charged is not used and charged != used:
            metrics.OVER_HOLD.inc()
            log.warning("used_more_than_held", extra={"request_id": job.request_id, "model": job.request.model})
        kudos = kudos_cost(self._pool.kudos, job, end, end.served_by.reward if end.served_by else None)
        if result is not None and kudos != result.kudos:
            result = result.model_copy(update={"kudos": kudos})
        await keep_outcome(
            self._bus,
            job,
            kind="chat",
            model=job.request.model,
            pool=self._pool.name,
            work=charged,
            outcome=end.reason,
            extensions=quota.extensions,
            result=result,
            kudos=kudos,
            volunteer=_volunteer_work(end),
            send_end=send_end,
        )
        if (turn := job.request.turn) is not None:
            ended = TurnEnded(room=turn.room, turn=turn.turn)
            subject = subjects.turn_ended(turn.room, turn.turn)
            await self._bus.publish_stored(subject, ended.encoded(), f"{job.request_id}.turn")


def _volunteer_work(end: ChatEnd) -> VolunteerWork | None:
    """Who is paid for a reply; nobody for one that failed."""
    by = end.served_by
    if by is None or end.reason == "error":
        return None
    return VolunteerWork(worker=by.worker_id, worker_name=by.worker_name, owner=by.account, reward=by.reward)


def _result_of(job: ChatJob, known: History) -> ChatResult | None:
    """The result of a reply whose frames have come to their end; None where some are missing."""
    if known.end is None or not known.whole:
        return None
    return ChatResult(
        request_id=job.request_id,
        model=job.request.model,
        text=known.said.text,
        thinking=known.said.thinking,
        tool_calls=known.tool_calls,
        logprobs=known.logprobs,
        end=known.end,
    )


def _rest(kept: ChatResult, received: History, attempt: int) -> ChatFrame | None:
    """The one frame that completes what an edge has received of a kept reply; None where it has to read it itself."""
    said = received.said
    known = kept.text.startswith(said.text) and kept.thinking.startswith(said.thinking)
    # Which tool calls the edge has is not known here.
    if not received.next_seq or not known or kept.tool_calls:
        return None
    return ChatFrame(
        seq=received.next_seq,
        attempt=attempt,
        text=kept.text[len(said.text) :],
        thinking=kept.thinking[len(said.thinking) :],
        end=kept.end,
    )
