"""Runs one transcription job after another: a sound in, segments out, usage and result kept before it is done."""

import asyncio
import logging
import time
from collections.abc import Callable
from contextlib import aclosing
from functools import partial
from typing import Literal

from callboard_contracts import subjects
from callboard_contracts.errors import ErrorCode, ErrorInfo
from callboard_contracts.transcription import (
    TranscriptionEnd,
    TranscriptionEndReason,
    TranscriptionFrame,
    TranscriptionJob,
    TranscriptionResult,
    order_of_transcription_frames,
)
from callboard_kit import tracing
from callboard_kit.bus import Bus
from callboard_kit.sounds import read_sound
from callboard_stt import metrics
from callboard_stt.domain.models import transcription_refusal
from callboard_stt.domain.ports import NOTHING, RecognitionEngine, Sound, SoundDecoder
from callboard_stt.domain.transcript import Transcript
from callboard_stt.handlers.heard_quota import HeardQuota
from callboard_stt.settings import PoolSettings
from callboard_worker.engine import EngineError, EngineUnavailable, backoff_s
from callboard_worker.handler import read_job
from callboard_worker.hold_extensions import HoldExtensions, JobHolds
from callboard_worker.outcomes import Outcome, keep_outcome, outcome_of
from callboard_worker.prior_frames import FrameKind, PriorFrames, find_prior_frames, sent_frames
from callboard_worker.running import RunningJob
from callboard_worker.takeover import take_over

log = logging.getLogger(__name__)

ENGINE_TRIES = 6
LONGEST_CODE = 3
"""How long a language's code is at most."""
RETURN_TIMEOUT_S = 5.0
"""How long the last holds may take to be given back before the worker ends."""

DEADLINE = ErrorInfo(code=ErrorCode.DEADLINE_EXCEEDED, message="The speech was not written down before the deadline.")
STALLED = ErrorInfo(code=ErrorCode.ENGINE_FAILED, message="The engine fell silent while it listened.")
PriorTranscription = PriorFrames[TranscriptionFrame, TranscriptionEnd, TranscriptionResult]
FRAMES = FrameKind(
    TranscriptionFrame, TranscriptionResult, order_of_transcription_frames, lambda frame: frame.end, max_frames=65_536
)
LOST = ErrorInfo(code=ErrorCode.INTERRUPTED, message="The sound was lost on its way; try again.")


class TranscriptionJobs:
    """The kind of job that makes text of sound; see `JobKind`."""

    def __init__(
        self,
        bus: Bus,
        engine: RecognitionEngine,
        decoder: SoundDecoder,
        extensions: HoldExtensions,
        pool: PoolSettings,
    ) -> None:
        self._bus = bus
        self._engine = engine
        self._decoder = decoder
        self._extensions = extensions
        self._pool = pool

    def parse(self, data: bytes) -> TranscriptionJob:
        """Reads a job; raises ValueError."""
        return read_job(TranscriptionJob, data)

    async def run(self, running: RunningJob[TranscriptionJob]) -> None:
        """Writes down one sound; see `JobKind`."""
        job = running.job
        tracing.annotate(
            {
                "gen_ai.operation.name": "generate_content",
                "gen_ai.provider.name": self._pool.backend,
                "gen_ai.request.model": job.request.model,
                "gen_ai.output.type": "text",
                "callboard.pool": self._pool.name,
            },
            name=f"transcribe {job.request.model}",
        )
        prior: PriorTranscription = PriorFrames("none")
        if running.attempt > 1:
            search = find_prior_frames(self._bus, FRAMES, running)
            prior = await take_over(job, running.attempt, search, metrics.WORKER)
        quota = self._quota(job, prior, lambda: running.left_s)
        if prior.end is not None or prior.result is not None:
            await self._close_again(running, prior, quota)
            return
        transcript = Transcript(running.attempt, prior.frames)
        running.used = lambda: quota.charged(transcript.heard_ms)

        async def resend(seq: int) -> None:
            for frame in transcript.sent_since(seq):
                await self._send(job, frame)

        running.resend = resend
        outcome: Outcome[TranscriptionEndReason] = Outcome("cancelled")
        if prior.wanted:
            work = partial(self._transcribe, running, transcript, quota)
            outcome = await outcome_of(running, work, self._explain, metrics.WORKER)
        frame = transcript.end(outcome.reason, outcome.error)
        assert frame.end is not None
        await self._send(job, frame, flush=True)
        self._observe(running, transcript, frame.end)
        await self._keep(job, frame.end, transcript.result(job.request_id, job.request.model, frame.end), quota)

    async def answer_dead(self, job: TranscriptionJob, error: ErrorInfo) -> None:
        """Ends the request with an error, unless it has an end; what was heard is settled."""
        prior = await sent_frames(self._bus, FRAMES, job)
        quota = self._quota(job, prior, lambda: 0.0)
        if prior.end is not None:
            await self._keep(job, prior.end, None, quota)
            return
        transcript = Transcript(max((frame.attempt for frame in prior.frames), default=1), prior.frames)
        frame = transcript.end("error", error)
        assert frame.end is not None
        await self._send(job, frame, flush=True)
        await self._keep(job, frame.end, transcript.result(job.request_id, job.request.model, frame.end), quota)

    async def close(self) -> None:
        """Ends the decoder, and waits for the holds that are on their way back."""
        await self._decoder.close()
        await self._extensions.close(RETURN_TIMEOUT_S)

    async def _transcribe(
        self, running: RunningJob[TranscriptionJob], transcript: Transcript, quota: HeardQuota
    ) -> Outcome[TranscriptionEndReason]:
        job, clock = running.job, time.monotonic
        if refused := transcription_refusal(job.request, self._pool.models, self._engine.abilities):
            return Outcome("error", refused)
        file = await read_sound(self._bus, job)
        if file is None:
            return Outcome("error", LOST)
        began_at = clock()
        sound = await self._decoder.decode(file)
        metrics.DECODE_DURATION.observe(clock() - began_at)
        metrics.SOUND_DURATION.observe(sound.duration_ms / 1000)
        transcript.duration_ms = sound.duration_ms
        await quota.cover(sound.duration_ms)
        began_at = clock()
        start_ms = transcript.heard_ms
        tries = 0
        while start_ms < sound.duration_ms:
            try:
                await self._listen(running, transcript, sound, start_ms)
                break
            except EngineError as error:
                metrics.ENGINE_ERRORS.labels(self._pool.backend, error.info.code.value).inc()
                log.warning("recognition_failed", extra={"request_id": job.request_id, "reason": str(error)})
                tries += 1
                if not isinstance(error, EngineUnavailable) or transcript.heard_ms > start_ms or tries >= ENGINE_TRIES:
                    return Outcome("error", error.info)
            finally:
                # While nobody is asked, nothing is expected of the engine.
                running.heard_at = None
            metrics.WORKER.engine_retries.labels(self._pool.backend).inc()
            await asyncio.sleep(backoff_s(tries))
        if start_ms == 0:
            metrics.REAL_TIME_FACTOR.observe((clock() - began_at) / (sound.duration_ms / 1000))
        return Outcome("stop")

    async def _listen(
        self, running: RunningJob[TranscriptionJob], transcript: Transcript, sound: Sound, start_ms: int
    ) -> None:
        """Sends what the engine hears from a point of the sound on; raises EngineError."""
        job, clock = running.job, time.monotonic
        # A worker that takes a job over goes on in the language that was heard before, unless that is a mere name.
        known, _ = transcript.language
        language = job.request.language or (known if len(known or "") <= LONGEST_CODE else None)
        request = job.request.model_copy(update={"language": language})
        model = self._pool.models[request.model].engine_model
        running.heard_at = clock()
        async with aclosing(self._engine.transcribe(model, sound, request, start_ms)) as heard:
            async for recognised in heard:
                running.heard_at = clock()
                if recognised == NOTHING:
                    continue
                if recognised.segments and not transcript.segments:
                    metrics.TIME_TO_FIRST_SEGMENT.observe(clock() - running.started_at, tracing.ids())
                for frame in transcript.take(recognised):
                    await self._send(job, frame)

    def _explain(self, reason: Literal["deadline", "stalled"]) -> ErrorInfo:
        if reason == "deadline":
            return DEADLINE
        metrics.ENGINE_ERRORS.labels(self._pool.backend, "stalled").inc()
        return STALLED

    async def _close_again(
        self, running: RunningJob[TranscriptionJob], prior: PriorTranscription, quota: HeardQuota
    ) -> None:
        """Repeats the acknowledged steps of a job that had come to its end before its worker was lost."""
        job, end, result = running.job, prior.end, prior.result
        if result is not None:
            end = result.end
            frame = TranscriptionFrame(seq=0, attempt=running.attempt, segments=result.segments, end=end)
            await self._send(job, frame, flush=True)
        assert end is not None
        await self._keep(job, end, result, quota)

    async def _send(self, job: TranscriptionJob, frame: TranscriptionFrame, *, flush: bool = False) -> None:
        await self._bus.publish(subjects.out(job.edge, job.request_id), frame.compact(), flush=flush)

    def _quota(self, job: TranscriptionJob, prior: PriorTranscription, left_s: Callable[[], float]) -> HeardQuota:
        return HeardQuota(JobHolds(self._extensions, job, prior.extensions, left_s, metrics.WORKER))

    async def _keep(
        self, job: TranscriptionJob, end: TranscriptionEnd, result: TranscriptionResult | None, quota: HeardQuota
    ) -> None:
        await keep_outcome(
            self._bus,
            job,
            kind="transcription",
            model=job.request.model,
            pool=self._pool.name,
            work=quota.charged(end.heard_ms),
            outcome=end.reason,
            extensions=quota.extensions,
            result=result,
        )

    def _observe(self, running: RunningJob[TranscriptionJob], transcript: Transcript, end: TranscriptionEnd) -> None:
        metrics.JOB_DURATION.observe(time.monotonic() - running.started_at, tracing.ids())
        metrics.HEARD.inc(end.heard_ms / 1000)
        metrics.WORDS.inc(sum(len(segment.text.split()) for segment in transcript.segments))
        if end.reason == "stop" and not transcript.segments:
            metrics.SPEECHLESS.inc()
        code = end.error.code.value if end.error else None
        metrics.WORKER.count_job(code or end.reason)
        tracing.annotate({"callboard.heard_ms": end.heard_ms, **({"error.type": code} if code else {})})
        ids = {"request_id": running.job.request_id, "attempt": running.attempt, "model": running.job.request.model}
        log.info("job_ended", extra={**ids, "reason": end.reason, "code": code, "heard_ms": end.heard_ms})
