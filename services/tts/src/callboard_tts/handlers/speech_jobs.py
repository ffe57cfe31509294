"""Runs one speech job after another: pieces to the engine, segments out, usage kept before the job is done."""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Literal

from callboard_contracts.errors import ErrorCode, ErrorInfo
from callboard_contracts.quota import Hold, Work
from callboard_contracts.speech import SpeechEnd, SpeechEndReason, SpeechJob
from callboard_kit import tracing
from callboard_kit.bus import Bus
from callboard_tts import metrics
from callboard_tts.domain.hold_limits import usual_ms
from callboard_tts.domain.pieces import PieceBatch
from callboard_tts.domain.ports import SpeechEngine
from callboard_tts.domain.pronunciation import WordLists
from callboard_tts.domain.scheduling import Playback
from callboard_tts.domain.segments import Progress
from callboard_tts.domain.utterance import NOTHING_TO_SPEAK, SpeechDefaults, Utterance, plan_utterance, whole_text
from callboard_tts.domain.voices import Voice
from callboard_tts.handlers.audio_quota import AudioQuota, QuotaExhausted, QuotaGatedWriter
from callboard_tts.handlers.engine_lanes import EngineLanes
from callboard_tts.handlers.narration import Narrator
from callboard_tts.handlers.segment_writer import SegmentWriter
from callboard_tts.handlers.synthesis import Synthesis
from callboard_tts.handlers.takeover import PriorAttempt, find_prior_attempt, find_what_was_sent
from callboard_tts.settings import PoolSettings
from callboard_worker.engine import EngineError, EngineRefused
from callboard_worker.handler import read_job
from callboard_worker.hold_extensions import HoldExtensions, JobHolds
from callboard_worker.outcomes import Outcome, keep_outcome, outcome_of
from callboard_worker.pull import Nak
from callboard_worker.running import RunningJob
from callboard_worker.takeover import take_over

log = logging.getLogger(__name__)

ELSEWHERE_DELAY_S = 0.1
"""How long a job that this worker could not keep fed waits for another worker, once, before it is refused."""
RETURN_TIMEOUT_S = 5.0
"""How long the last holds may take to be given back before the worker ends."""

DEADLINE = ErrorInfo(code=ErrorCode.DEADLINE_EXCEEDED, message="The speech was not finished before its deadline.")
UNAVAILABLE = ErrorInfo(code=ErrorCode.ENGINE_UNAVAILABLE, message="The speech engine could not be reached.")
FAILED = ErrorInfo(code=ErrorCode.ENGINE_FAILED, message="The speech engine failed on this text.")
NO_WORD_TIMES = ErrorInfo(
    code=ErrorCode.UNSUPPORTED, message="This model cannot tell when each word sounds.", param="word_times"
)
STALLED = ErrorInfo(code=ErrorCode.ENGINE_FAILED, message="The speech engine took too long for a piece of this text.")


class SpeechJobs:
    """The kind of job that makes sound of a text; see `JobKind`."""

    def __init__(self, bus: Bus, engine: SpeechEngine, extensions: HoldExtensions, pool: PoolSettings) -> None:
        self._bus = bus
        self._engine = engine
        self._extensions = extensions
        self._pool = pool
        self._defaults = SpeechDefaults(
            pool.max_input_characters,
            pool.comma_pause_ms,
            pool.sentence_pause_ms,
            WordLists(pool.words, pool.voice_words),
            pool.role_play,
            pool.role_play_voice,
        )
        self._narrator = Narrator(bus)
        self._lanes = EngineLanes(pool.lanes, pool.ahead_s, pool.admission_timeout_s)

    def parse(self, data: bytes) -> SpeechJob:
        """Reads a job; raises ValueError."""
        return read_job(SpeechJob, data)

    async def run(self, running: RunningJob[SpeechJob]) -> None:
        """Speaks one utterance to its end; see `JobKind`."""
        job, pool = running.job, self._pool
        model = job.request.model
        tracing.annotate(
            {
                "gen_ai.operation.name": "generate_content",
                "gen_ai.provider.name": pool.backend,
                "gen_ai.request.model": model,
                "gen_ai.output.type": "speech",
                "callboard.pool": pool.name,
            },
            name=f"generate_content {model}",
        )
        prior = PriorAttempt("nowhere", Progress())
        rest_s = usual_ms(job.request.text, job.request.speed) / 1000
        playback = Playback(job.tenant, running.is_batch, rest_s, is_whole=job.narrates is None)
        if running.attempt == 1 and self._lanes.shortage_s(playback):
            raise Nak(ELSEWHERE_DELAY_S)
        if running.attempt > 1:
            search = find_prior_attempt(self._bus, running)
            prior = await take_over(job, running.attempt, search, metrics.WORKER)
        progress = prior.progress
        if progress.end is not None:
            await self._keep(job, progress.end, progress.extensions)
            return
        writer = SegmentWriter(self._bus, job, running.attempt, progress)
        running.used = lambda: Work(audio_ms=writer.audio_ms)
        job_holds = JobHolds(self._extensions, job, progress.extensions, lambda: running.left_s, metrics.WORKER)
        holds = AudioQuota(job_holds, pool.hold_slice_ms)
        try:
            outcome: Outcome[SpeechEndReason] = Outcome("cancelled")
            if prior.wanted:
                outcome = await self._outcome(running, progress, playback, writer, holds)
            end = SpeechEnd(reason=outcome.reason, audio_ms=writer.audio_ms, error=outcome.error)
            await holds.stop()
            # Where nobody waits, no segment before this one may be left to name the holds.
            await writer.end(end, progress.piece, holds.drain_pending() if prior.wanted else holds.extensions)
            _observe(job, end, time.monotonic() - running.started_at)
            await self._keep(job, end, holds.extensions)
        finally:
            await holds.close()

    async def answer_dead(self, job: SpeechJob, error: ErrorInfo) -> None:
        """Ends the utterance with an error, unless it has an end; what was sent is settled."""
        progress, attempt = await find_what_was_sent(self._bus, job)
        end = progress.end
        if end is None:
            end = SpeechEnd(reason="error", audio_ms=progress.audio_ms, error=error)
            await SegmentWriter(self._bus, job, attempt, progress).end(end, progress.piece)
        await self._keep(job, end, progress.extensions)

    async def close(self) -> None:
        """Waits for the holds that are on their way back."""
        await self._extensions.close(RETURN_TIMEOUT_S)

    async def _outcome(
        self,
        running: RunningJob[SpeechJob],
        progress: Progress,
        playback: Playback,
        writer: SegmentWriter,
        holds: AudioQuota,
    ) -> Outcome[SpeechEndReason]:
        job = running.job
        model = self._pool.models.get(job.request.model)
        engine_model = model.engine_model if model else job.request.model
        synthesis = Synthesis(self._engine, self._lanes, self._pool.backend, engine_model, running, progress, playback)
        # Nobody asks again for what is polled or said in a room.
        for_ever, is_new = running.is_batch or job.in_room, progress.next_n == 0

        async def work() -> Outcome[SpeechEndReason]:
            if job.request.word_times and not self._engine.tells_word_times:
                return Outcome("error", NO_WORD_TIMES)
            utterance = plan_utterance(job.request, self._defaults, *self._voices(job))
            gate = QuotaGatedWriter(writer, holds, utterance, job.request.speed, progress.piece)
            try:
                async with self._lanes.admitted(playback, for_ever=for_ever, is_new=is_new):
                    await synthesis.speak(utterance, self._batches(job, utterance), gate)
            except QuotaExhausted as error:
                limited = error.info.code is ErrorCode.QUOTA_EXCEEDED
                return Outcome("limit" if limited else "error", error.info)
            except EngineError as error:
                return Outcome("error", self._told(job, error))
            # Words that no reader knows are left out, which may have been all of them. A reply may have no words.
            return Outcome("stop") if writer.audio_ms or job.narrates else Outcome("error", NOTHING_TO_SPEAK)

        def explain(reason: Literal["deadline", "stalled"]) -> ErrorInfo:
            if reason == "stalled":
                self._count_error("stalled")
                return STALLED
            return UNAVAILABLE if synthesis.engine_away else DEADLINE

        return await outcome_of(running, work, explain, metrics.WORKER)

    async def _batches(self, job: SpeechJob, utterance: Utterance) -> AsyncGenerator[PieceBatch]:
        """The pieces of the job's text, or of the reply that it narrates as that is written."""
        if job.narrates is None:
            pieces = await asyncio.to_thread(whole_text, utterance, job.request.text)
            yield PieceBatch(pieces, is_last=True)
            return
        async with aclosing(self._narrator.batches(job.narrates, utterance)) as batches:
            async for batch in batches:
                yield batch

    def _voices(self, job: SpeechJob) -> tuple[list[Voice], dict[str, str]]:
        """The voices that the request may name, and other names for them."""
        known = list(self._engine.voices())
        model = self._pool.models.get(job.request.model)
        if model is None:
            return known, {}
        if model.voices and known:
            known = [voice for voice in known if voice.name in model.voices]
        elif model.voices:
            known = [Voice(name) for name in model.voices]
        return known, dict(model.voice_aliases)

    def _told(self, job: SpeechJob, error: EngineError) -> ErrorInfo:
        if isinstance(error, EngineRefused):
            self._count_error("refused")
            return error.info
        self._count_error("failed")
        log.warning("piece_failed", extra={"request_id": job.request_id, "reason": str(error)})
        return FAILED

    def _count_error(self, kind: str) -> None:
        metrics.ENGINE_ERRORS.labels(self._pool.backend, kind).inc()

    async def _keep(self, job: SpeechJob, end: SpeechEnd, extensions: tuple[Hold, ...]) -> None:
        await keep_outcome(
            self._bus,
            job,
            kind="speech",
            model=job.request.model,
            pool=self._pool.name,
            work=Work(audio_ms=end.audio_ms),
            outcome="length" if end.reason == "limit" else end.reason,
            extensions=extensions,
        )


def _observe(job: SpeechJob, end: SpeechEnd, duration_s: float) -> None:
    outcome = end.error.code.value if end.error else end.reason
    metrics.WORKER.count_job(outcome)
    metrics.JOB_DURATION.observe(duration_s, tracing.ids())
    tracing.annotate(
        {
            "callboard.audio_ms": end.audio_ms,
            "gen_ai.response.finish_reasons": (end.reason,),
            **({"error.type": end.error.code.value} if end.error else {}),
        }
    )
    log.info(
        "speech_ended",
        extra={
            "request_id": job.request_id,
            "outcome": outcome,
            "audio_ms": end.audio_ms,
            "seconds": round(duration_s, 3),
        },
    )
