"""Runs one speech job after another: pieces to the engine, segments out, usage kept before the job is done."""

import asyncio
import logging
import time
from contextlib import aclosing
from dataclasses import dataclass

from pydantic import ValidationError

from callboard_contracts import subjects
from callboard_contracts.errors import CallboardError, ErrorCode, ErrorInfo
from callboard_contracts.headers import SEGMENT
from callboard_contracts.quota import Hold, UsageEvent, Work
from callboard_contracts.speech import AudioSegment, SegmentInfo, SpeechEnd, SpeechEndReason, SpeechJob
from callboard_contracts.streams import AUDIO
from callboard_kit.bus import Bus, BusError, BusUnavailable
from callboard_kit.pull import Delivery, Nak, Superseded
from callboard_kit.stream_reads import read_subject
from callboard_tts import metrics
from callboard_tts.domain.pieces import Piece
from callboard_tts.domain.ports import EngineFailed, EngineUnavailable, HoldExtensions, PieceRequest, SpeechEngine
from callboard_tts.domain.segments import PieceCutter, Progress, Segment, progress_of
from callboard_tts.domain.sound import Trimmer, silence, to_pcm
from callboard_tts.domain.utterance import SpeechDefaults, Utterance, plan_utterance
from callboard_tts.domain.voices import Voice
from callboard_tts.handlers.audio_quota import AudioQuota, QuotaExhausted, QuotaGatedWriter
from callboard_tts.handlers.segment_writer import BYTES_PER_S, SegmentWriter
from callboard_tts.settings import PoolSettings, ServedModel
from callboard_worker.running import RunningJob, RunningJobs
from callboard_worker.takeover import ask_edge

log = logging.getLogger(__name__)

QUEUED_SEGMENTS = 16
"""How far the engine may run ahead of the bus: half a minute of sound."""
RETRY_DELAYS_S = (0.25, 0.5, 1.0, 2.0, 4.0)
HISTORY_DELAY_S = 1.0

DEADLINE = ErrorInfo(code=ErrorCode.DEADLINE_EXCEEDED, message="The speech was not finished before its deadline.")
UNAVAILABLE = ErrorInfo(code=ErrorCode.ENGINE_UNAVAILABLE, message="The speech engine could not be reached.")
FAILED = ErrorInfo(code=ErrorCode.ENGINE_FAILED, message="The speech engine failed on this text.")
STALLED = ErrorInfo(code=ErrorCode.ENGINE_FAILED, message="The speech engine took too long for a piece of this text.")
DEAD = ErrorInfo(code=ErrorCode.INTERRUPTED, message="The work was started several times and never finished.")
INTERNAL = ErrorInfo(code=ErrorCode.INTERNAL, message="The worker failed; its log has the request id.")


@dataclass(frozen=True, slots=True)
class Outcome:
    """How an utterance ended."""

    reason: SpeechEndReason
    error: ErrorInfo | None = None


class _Attempt:
    """What is known of a job's work in this process: where its sound goes and whether the engine was ever there."""

    def __init__(
        self, running: RunningJob[SpeechJob], writer: SegmentWriter, holds: AudioQuota, progress: Progress
    ) -> None:
        self.running = running
        self.writer = writer
        self.holds = holds
        self.progress = progress
        self.engine_away = False

    @property
    def job(self) -> SpeechJob:
        """The job at hand."""
        return self.running.job


class SpeechJobs:
    """The handler of a pool's job queue."""

    def __init__(
        self, bus: Bus, engine: SpeechEngine, extensions: HoldExtensions, pool: PoolSettings, running: RunningJobs
    ) -> None:
        self._bus = bus
        self._engine = engine
        self._top_ups = extensions
        self._pool = pool
        self._running = running
        self._manner = SpeechDefaults(pool.max_input_characters, pool.comma_pause_ms, pool.sentence_pause_ms)

    async def handle(self, delivery: Delivery) -> None:
        """Runs one job to its end; when it returns, the job may be acknowledged.

        Raises:
            Nak: another worker, or this one later, is to take the job.
            Superseded: another worker, or an earlier call, has it.
            ValueError: it is not a job; the bus hands it out again until it is a dead letter.
        """
        job = _read(delivery.data)
        is_batch = subjects.job_class_of(delivery.subject) == "batch"
        started = asyncio.get_running_loop().time()
        with self._running.entered(job, delivery.attempt, is_batch=is_batch) as running:
            progress, wanted = Progress(), True
            if delivery.attempt > 1:
                progress, wanted = await self._past(running)
            else:
                metrics.QUEUE_WAIT.observe(max(0.0, time.time() - job.created_at))
            if progress.end is not None:
                await self._settle(job, progress.end, progress.extensions)
                return
            writer = SegmentWriter(self._bus, job, delivery.attempt, progress)
            pool = self._pool
            holds = AudioQuota(
                self._top_ups, job, progress.extensions, pool.hold_slice_ms, admits_unheld=pool.admits_unheld
            )
            try:
                attempt = _Attempt(running, writer, holds, progress)
                outcome = await self._outcome(attempt) if wanted else Outcome("cancelled")
                end = SpeechEnd(reason=outcome.reason, audio_ms=writer.audio_ms, error=outcome.error)
                await holds.stop()
                await writer.end(end, progress.piece, holds.drain_pending())
                _observe(job, end, asyncio.get_running_loop().time() - started)
                await self._settle(job, end, holds.extensions)
            finally:
                await holds.close()

    async def on_dead(self, data: bytes) -> None:
        """Answers for a job that was handed out too often: an error for the client, and what was sent is settled."""
        try:
            job = _read(data)
        except ValueError:
            return
        progress, attempt = await self._history(job)
        end = progress.end
        if end is None:
            end = SpeechEnd(reason="error", audio_ms=progress.audio_ms, error=DEAD)
            await SegmentWriter(self._bus, job, attempt, progress).end(end, progress.piece)
        metrics.JOBS.labels("dead").inc()
        await self._settle(job, end, progress.extensions)

    async def _past(self, running: RunningJob[SpeechJob]) -> tuple[Progress, bool]:
        """What earlier attempts sent, and whether anybody still waits for the rest."""
        job = running.job
        try:
            progress, _ = await self._history(job)
        except BusUnavailable:
            raise Nak(HISTORY_DELAY_S) from None
        source, wanted = "stream", True
        if progress.next_n == 0:
            # Nothing was sent, or the stream lost it with the server's memory: the edge knows what it received.
            try:
                reply = await ask_edge(self._bus, job, running.attempt)
            except BusUnavailable:
                raise Nak(HISTORY_DELAY_S) from None
            if reply is None:
                source, wanted = "nowhere", not running.watched
            else:
                # Where that was in the text is not known. All is sent again; the edge cuts away what it has.
                source, wanted = "edge", running.is_batch or reply.open
                progress = Progress(next_n=reply.next_seq, extensions=progress.extensions)
        metrics.RESUMED.labels(source).inc()
        log.info(
            "job_taken_over",
            extra={
                "request_id": job.request_id,
                "attempt": running.attempt,
                "source": source,
                "next_n": progress.next_n,
            },
        )
        return progress, wanted

    async def _history(self, job: SpeechJob) -> tuple[Progress, int]:
        """How far the published segments go, and the newest attempt among them."""
        subject = subjects.audio(job.room, job.utterance, "*")
        segments: list[AudioSegment] = []
        for message in await read_subject(self._bus, AUDIO, subject):
            info = SegmentInfo.model_validate_json(message.headers[SEGMENT])
            segments.append(AudioSegment(int(message.subject.rsplit(".", 1)[-1]), info, message.data))
        return progress_of(segments), max((segment.info.attempt for segment in segments), default=1)

    async def _outcome(self, attempt: _Attempt) -> Outcome:
        job, running = attempt.job, attempt.running
        if running.left_s <= 0:
            return Outcome("error", DEADLINE)
        try:
            utterance = plan_utterance(job.request, self._manner, *self._voices(job))
        except CallboardError as error:
            return Outcome("error", error.info)
        if running.cancel_scope.reason is not None:
            return self._interrupted(attempt)
        try:
            with running.cancel_scope:
                await self._speak(attempt, utterance)
                return Outcome("stop")
        except BusError:
            raise
        except Exception as error:
            return self._failed(job, error)
        return self._interrupted(attempt)

    def _interrupted(self, attempt: _Attempt) -> Outcome:
        cancel_scope = attempt.running.cancel_scope
        if cancel_scope.at_s is not None:
            metrics.CANCEL_LATENCY.observe(asyncio.get_running_loop().time() - cancel_scope.at_s)
        match cancel_scope.reason:
            case "superseded":
                raise Superseded
            case "deadline":
                return Outcome("error", UNAVAILABLE if attempt.engine_away else DEADLINE)
            case "stalled":
                self._count_error("stalled")
                return Outcome("error", STALLED)
            case _:
                return Outcome("cancelled")

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

    def _failed(self, job: SpeechJob, error: Exception) -> Outcome:
        match error:
            case QuotaExhausted():
                limited = error.info.code is ErrorCode.QUOTA_EXCEEDED
                return Outcome("limit" if limited else "error", error.info)
            case CallboardError():
                self._count_error("refused")
                return Outcome("error", error.info)
            case EngineFailed():
                self._count_error("failed")
                log.warning("piece_failed", extra={"request_id": job.request_id, "reason": str(error)})
                return Outcome("error", FAILED)
            case _:
                # A fault in this program is answered, not repeated: it would most likely only happen again.
                log.error("speech_failed", extra={"request_id": job.request_id}, exc_info=error)
                return Outcome("error", INTERNAL)

    async def _speak(self, attempt: _Attempt, utterance: Utterance) -> None:
        """Has the pieces made one after another and sends each part once it is held, while the next is being made."""
        covered = QuotaGatedWriter(attempt.writer, attempt.holds, utterance, attempt.job.request.speed)
        covered.begin(attempt.progress.piece)
        made: asyncio.Queue[Segment | Exception | None] = asyncio.Queue(QUEUED_SEGMENTS)
        making = asyncio.ensure_future(self._make_all(attempt, utterance, made))
        try:
            while (segment := await made.get()) is not None:
                if isinstance(segment, Exception):
                    raise segment
                await covered.send(segment)
        finally:
            making.cancel()
            await asyncio.gather(making, return_exceptions=True)

    async def _make_all(
        self, attempt: _Attempt, utterance: Utterance, made: "asyncio.Queue[Segment | Exception | None]"
    ) -> None:
        try:
            for piece in utterance.pieces[attempt.progress.piece :]:
                await self._make(attempt, utterance, piece, made)
        except Exception as error:
            await made.put(error)
        else:
            metrics.CHARACTERS.inc(len(attempt.job.request.text))
            await made.put(None)

    async def _make(
        self,
        attempt: _Attempt,
        utterance: Utterance,
        piece: Piece,
        made: "asyncio.Queue[Segment | Exception | None]",
    ) -> None:
        """Makes one piece, trying again as long as the engine is away and has made nothing of it."""
        request = attempt.job.request
        model = self._pool.models.get(request.model) or ServedModel(request.model, request.model, (), {})
        wanted = PieceRequest(
            piece.index, piece.text, utterance.voice, request.speed, model.engine_model, request.instructions
        )
        skip = attempt.progress.offset_bytes if piece.index == attempt.progress.piece else 0
        tries = 0
        while True:
            cutter = PieceCutter(piece.index, skip)
            try:
                await self._synthesise(attempt.running, wanted, silence(utterance.pause_ms(piece)), cutter, made)
            except EngineUnavailable as error:
                attempt.engine_away = True
                self._count_error("unavailable")
                log.info("engine_away", extra={"request_id": attempt.job.request_id, "reason": str(error)})
                await asyncio.sleep(RETRY_DELAYS_S[min(tries, len(RETRY_DELAYS_S) - 1)])
                tries += 1
                metrics.ENGINE_RETRIES.labels(self._pool.backend).inc()
            else:
                attempt.engine_away = False
                return

    async def _synthesise(
        self,
        running: RunningJob[SpeechJob],
        wanted: PieceRequest,
        pause: bytes,
        cutter: PieceCutter,
        made: "asyncio.Queue[Segment | Exception | None]",
    ) -> None:
        trimmer = Trimmer()
        clock = asyncio.get_running_loop().time
        started, working_s, length_bytes = clock(), 0.0, 0
        async with aclosing(self._engine.synthesise(wanted)) as parts:
            while True:
                running.heard_at = clock()
                try:
                    samples = await anext(parts, None)
                finally:
                    running.heard_at = None
                working_s += clock() - started
                pcm = to_pcm(trimmer.finish() if samples is None else trimmer.feed(samples))
                length_bytes += len(pcm)
                if pcm and pause:
                    pcm, pause = pause + pcm, b""
                for segment in cutter.finish(pcm) if samples is None else cutter.feed(pcm):
                    await made.put(segment)
                if samples is None:
                    break
                started = clock()
        if length_bytes:
            metrics.PIECE_DURATION.observe(length_bytes / BYTES_PER_S)
            metrics.REAL_TIME_FACTOR.observe(working_s * BYTES_PER_S / length_bytes)

    def _count_error(self, kind: str) -> None:
        metrics.ENGINE_ERRORS.labels(self._pool.backend, kind).inc()

    async def _settle(self, job: SpeechJob, end: SpeechEnd, extensions: tuple[Hold, ...]) -> None:
        """Keeps the usage event; a repeat under the same id counts once."""
        event = UsageEvent(
            request_id=job.request_id,
            tenant=job.tenant,
            kind="speech",
            model=job.request.model,
            pool=self._pool.name,
            work=Work(audio_ms=end.audio_ms),
            outcome="length" if end.reason == "limit" else end.reason,
            hold=job.hold,
            extensions=extensions,
            at=time.time(),
        )
        await self._bus.publish_stored(subjects.usage(job.tenant), event.encoded(), f"{job.request_id}.speech")


def _observe(job: SpeechJob, end: SpeechEnd, duration_s: float) -> None:
    outcome = end.error.code.value if end.error else end.reason
    metrics.JOBS.labels(outcome).inc()
    metrics.JOB_DURATION.observe(duration_s)
    log.info(
        "speech_ended",
        extra={
            "request_id": job.request_id,
            "outcome": outcome,
            "audio_ms": end.audio_ms,
            "seconds": round(duration_s, 3),
        },
    )


def _read(data: bytes) -> SpeechJob:
    """The job in a message; what is wrong is named by field only, because the values are a client's words."""
    try:
        return SpeechJob.model_validate_json(data)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        field = ".".join(map(str, first["loc"]))
        raise ValueError(f"not a speech job: {field}: {first['type']}") from None
