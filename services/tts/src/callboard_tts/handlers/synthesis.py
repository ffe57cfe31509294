"""Has the pieces of one utterance made and sent, each while the next is being made."""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

from callboard_contracts.speech import SAMPLE_RATE_HZ, SpeechJob, SpokenWord
from callboard_tts import metrics
from callboard_tts.domain.hold_limits import usual_ms
from callboard_tts.domain.pieces import Piece, PieceBatch
from callboard_tts.domain.ports import PieceRequest, SpeechEngine, WordTime
from callboard_tts.domain.scheduling import UNKNOWN_PIECE_S, Playback
from callboard_tts.domain.segments import PieceCutter, Progress, Segment
from callboard_tts.domain.sound import Trimmer, silence, to_pcm
from callboard_tts.domain.tempo import Stretcher, engine_speed
from callboard_tts.domain.utterance import Utterance
from callboard_tts.domain.words import piece_words
from callboard_tts.handlers.audio_quota import QuotaGatedWriter
from callboard_tts.handlers.engine_lanes import EngineLanes
from callboard_tts.handlers.segment_writer import BYTES_PER_S
from callboard_worker.engine import EngineUnavailable, backoff_s
from callboard_worker.running import RunningJob

log = logging.getLogger(__name__)

QUEUED_SEGMENTS = 16
"""How many segments may wait to be sent when a piece is begun: half a minute of sound. A lane never waits for them."""

Made = asyncio.Queue[Segment | Exception | None]
"""What the engine has made and nobody has sent yet; None is the end."""


class Synthesis:
    """The work of one attempt on an utterance, from where earlier attempts left off."""

    def __init__(
        self,
        engine: SpeechEngine,
        lanes: EngineLanes,
        backend: str,
        engine_model: str,
        running: RunningJob[SpeechJob],
        progress: Progress,
        playback: Playback,
    ) -> None:
        self._engine = engine
        self._lanes = lanes
        self._playback = playback
        self._taken = asyncio.Event()
        self._starts_at = 0.0
        """When the first sound is sent."""
        self._backend = backend
        self._engine_model = engine_model
        self._running = running
        self._progress = progress
        self.engine_away = False
        """Whether the engine could not be reached when it was last asked."""

    async def speak(self, utterance: Utterance, batches: AsyncGenerator[PieceBatch], writer: QuotaGatedWriter) -> None:
        """Speaks all that is left of an utterance, as its pieces come.

        Raises:
            EngineError: a piece cannot be spoken; what came before it was sent.
            QuotaExhausted: no more sound may be sent.
            BusUnavailable: the bus did not keep a segment in time.
        """
        made: Made = asyncio.Queue()
        making = asyncio.ensure_future(self._make_all(utterance, batches, writer, made))
        try:
            while (segment := await made.get()) is not None:
                self._taken.set()
                if isinstance(segment, Exception):
                    raise segment
                if (delay_s := self._starts_at - asyncio.get_running_loop().time()) > 0:
                    await asyncio.sleep(delay_s)
                await writer.send(segment)
        finally:
            making.cancel()
            await asyncio.gather(making, return_exceptions=True)

    async def _make_all(
        self, utterance: Utterance, batches: AsyncGenerator[PieceBatch], writer: QuotaGatedWriter, made: Made
    ) -> None:
        try:
            async with aclosing(batches):
                async for batch in batches:
                    writer.expect(batch)
                    left = [piece for piece in batch.pieces if piece.index >= self._progress.piece]
                    self._playback.expect(sum(map(self._expected_s, left)), is_last=batch.is_last)
                    lengths_s = [*map(self._expected_s, left), 0.0 if batch.is_last else UNKNOWN_PIECE_S]
                    for piece, next_s in zip(left, lengths_s[1:], strict=True):
                        await self._make(utterance, piece, next_s, made)
        except Exception as error:
            made.put_nowait(error)
        else:
            made.put_nowait(None)

    def _expected_s(self, piece: Piece) -> float:
        return usual_ms(piece.text, self._running.job.request.speed) / 1000

    async def _make(self, utterance: Utterance, piece: Piece, next_s: float, made: Made) -> None:
        """Makes one piece, trying again as long as the engine is away and has made nothing of it.

        `next_s` is how long the piece after it is expected to be.
        """
        request = self._running.job.request
        speed = engine_speed(request.speed)
        words: list[tuple[str, str]] = []
        if request.word_times:
            words = await asyncio.to_thread(piece_words, piece, utterance.voice.language, utterance.words)
        wanted = PieceRequest(
            piece.index,
            piece.text,
            utterance.voice_of(piece),
            speed,
            self._engine_model,
            request.instructions,
            {pause: round(length_ms * request.speed / speed) for pause, length_ms in utterance.pauses_ms.items()},
            [spoken for _name, spoken in words],
        )
        names = [name for name, _spoken in words]
        skip = self._progress.offset_bytes if piece.index == self._progress.piece else 0
        tries = 0
        expected_s = self._expected_s(piece)
        while made.qsize() >= QUEUED_SEGMENTS:
            self._taken.clear()
            await self._taken.wait()
        while True:
            pause_ms, cutter = utterance.pause_ms(piece), PieceCutter(piece.index, skip, piece.written)
            try:
                async with self._lanes.lane(self._playback, expected_s):
                    await self._make_once(wanted, names, pause_ms, cutter, next_s, made)
            except EngineUnavailable as error:
                self.engine_away = True
                metrics.ENGINE_ERRORS.labels(self._backend, "unavailable").inc()
                log.info("engine_away", extra={"request_id": self._running.job.request_id, "reason": str(error)})
                await asyncio.sleep(backoff_s(tries))
                tries += 1
                metrics.WORKER.engine_retries.labels(self._backend).inc()
            else:
                self.engine_away = False
                self._playback.rest_s = max(0.0, self._playback.rest_s - expected_s)
                metrics.CHARACTERS.inc(len(piece.text))
                return

    async def _make_once(
        self,
        wanted: PieceRequest,
        names: Sequence[str],
        pause_ms: int,
        cutter: PieceCutter,
        next_s: float,
        made: Made,
    ) -> None:
        trimmer, pause = Trimmer(), silence(pause_ms)
        times: list[WordTime] = []
        speed = self._running.job.request.speed
        stretcher = Stretcher(speed / wanted.speed) if speed != wanted.speed else None
        clock = time.monotonic
        working_s, length_bytes = 0.0, 0
        async with aclosing(self._engine.synthesise(wanted)) as parts:
            is_whole = False
            while not is_whole:
                started = self._running.heard_at = clock()
                try:
                    part = await anext(parts, None)
                finally:
                    # While its sound is worked on here, nothing is expected of the engine.
                    self._running.heard_at = None
                working_s += clock() - started
                is_whole = part is None
                sound = trimmer.finish() if part is None else trimmer.feed(part.samples)
                times += part.words if part else ()
                if sound.size or is_whole:
                    # From the first sound on it is known how much silence was trimmed before it.
                    factor = speed / wanted.speed
                    cutter.expect(_spoken_word(names, time, trimmer.trimmed, factor, pause_ms) for time in times)
                    times.clear()
                if stretcher:
                    sound = await asyncio.to_thread(stretcher.feed, sound, final=is_whole)
                pcm = to_pcm(sound)
                length_bytes += len(pcm)
                if pcm and pause:
                    pcm, pause = pause + pcm, b""
                if pcm:
                    self._note_sound(len(pcm) / BYTES_PER_S, next_s)
                for segment in cutter.finish(pcm) if is_whole else cutter.feed(pcm):
                    made.put_nowait(segment)
        if length_bytes:
            self._lanes.measured(working_s, length_bytes / BYTES_PER_S)
            metrics.PIECE_DURATION.observe(length_bytes / BYTES_PER_S)
            metrics.REAL_TIME_FACTOR.observe(working_s * BYTES_PER_S / length_bytes)

    def _note_sound(self, sound_s: float, next_s: float) -> None:
        """Counts sound that is made; before the first of an utterance that has a next piece, sets when it starts."""
        playback, now = self._playback, asyncio.get_running_loop().time()
        if not playback.begun:
            delays = self._progress.next_n == 0 and next_s > 0
            made_s = max(sound_s, playback.piece_s)
            self._starts_at = now + (self._lanes.start_delay_s(playback, made_s, next_s) if delays else 0.0)
        playback.made(sound_s, max(now, self._starts_at))


def _spoken_word(names: Sequence[str], time: WordTime, trimmed: int, factor: float, pause_ms: int) -> SpokenWord:
    """A word by its name and its time in what is sent of the piece: trimmed, stretched and after its pause."""
    start_ms, end_ms = (
        pause_ms + int(max(0, at - trimmed) / factor * 1000 / SAMPLE_RATE_HZ) for at in (time.begin, time.end)
    )
    return SpokenWord(word=names[time.number], start_ms=start_ms, end_ms=end_ms)
