"""What is noted of each reply: metrics, the log, and the statistics that a worker announces."""

import logging
import time
from collections.abc import Mapping

from callboard_chat import metrics
from callboard_chat.domain.front_cut import may_be_cut
from callboard_chat.domain.prompt_statistics import PromptStatistics
from callboard_chat.domain.reply import Reply
from callboard_chat.domain.reply_statistics import ReplyStatistics
from callboard_chat.settings import PoolSettings
from callboard_contracts.chat import ChatEnd, ChatJob, ChatRequest
from callboard_kit import tracing
from callboard_worker.running import RunningJob

log = logging.getLogger(__name__)


class ReplyNotes:
    """Takes note of the replies of one pool."""

    def __init__(
        self, pool: PoolSettings, statistics: Mapping[str, PromptStatistics], replies: Mapping[str, ReplyStatistics]
    ) -> None:
        self._pool = pool
        self._statistics = statistics
        self._replies = replies
        self._figures = {name: metrics.ModelFigures(name) for name in pool.models}
        self._other = metrics.ModelFigures("other")

    def first(self, running: RunningJob[ChatJob], reply: Reply) -> None:
        """Takes note that the first piece of a reply has been sent."""
        reply.first_at = time.monotonic()
        first_token_s = reply.first_at - running.started_at
        self._model_figures(running.job).first_token.observe(first_token_s, tracing.ids())
        tracing.annotate({"callboard.time_to_first_token_s": first_token_s})

    def end(
        self, running: RunningJob[ChatJob], request: ChatRequest, reply: Reply, end: ChatEnd, ended_at: float
    ) -> None:
        """Takes note of a reply that has come to its end, at a time of the monotonic clock."""
        if end.reason not in {"cancelled", "error"}:
            # Time for which a job waited for hands says nothing of how fast it was written.
            worked_s = ended_at - running.started_at if reply.worked_s is None else reply.worked_s
            self._learn(request, end, worked_s)
        self._observe(running, reply, end, ended_at)

    def _learn(self, request: ChatRequest, end: ChatEnd, worked_s: float) -> None:
        model = self._pool.models.get(request.model)
        by = end.served_by
        if model is None or (by is not None and (self._pool.sharing is not None or by.notes.state != "ok")):
            # The figures of a shared pool are its own engine's, which counts its tokens; a withheld text has none.
            return
        self._replies[model.name].learn(end.usage.completion_tokens, worked_s)
        if not may_be_cut(request, end.usage.prompt_tokens, model.context_tokens):
            self._statistics[model.name].learn(request, end.usage.prompt_tokens)

    def _observe(self, running: RunningJob[ChatJob], reply: Reply, end: ChatEnd, ended_at: float) -> None:
        figures = self._model_figures(running.job)
        figures.duration.observe(ended_at - running.started_at, tracing.ids())
        figures.input_tokens.observe(end.usage.prompt_tokens)
        figures.output_tokens.observe(end.usage.completion_tokens)
        if reply.engine_cached_tokens:
            figures.cached_tokens.inc(reply.engine_cached_tokens)
        if reply.first_at is not None and end.usage.completion_tokens > 1:
            figures.per_token.observe((ended_at - reply.first_at) / (end.usage.completion_tokens - 1))
        code = end.error.code.value if end.error else None
        metrics.WORKER.count_job(code or end.reason)
        tracing.annotate(
            {
                "gen_ai.usage.input_tokens": end.usage.prompt_tokens,
                "gen_ai.usage.output_tokens": end.usage.completion_tokens,
                "gen_ai.response.finish_reasons": (end.reason,),
                **({"error.type": code} if code else {}),
            }
        )
        ids = {"request_id": running.job.request_id, "attempt": running.attempt, "model": running.job.request.model}
        log.info("job_ended", extra={**ids, "reason": end.reason, "code": code})

    def _model_figures(self, job: ChatJob) -> metrics.ModelFigures:
        return self._figures.get(job.request.model, self._other)
