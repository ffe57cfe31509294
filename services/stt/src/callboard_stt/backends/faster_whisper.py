"""Whisper through CTranslate2, on a processor in 8-bit integers or on a GPU."""

import asyncio
import re
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from pathlib import Path

import numpy as np
from faster_whisper.transcribe import Segment

from callboard_contracts.errors import ErrorCode, ErrorInfo
from callboard_contracts.transcription import TranscribedSegment, TranscribedWord, TranscriptionRequest
from callboard_contracts.workers import Ability
from callboard_kit.control_groups import processors
from callboard_stt.backends.whisper_model import WhisperEncodedOnce
from callboard_stt.domain.ports import NOTHING, SAMPLE_RATE_HZ, SAMPLES_PER_MS, Recognised, Samples, Sound
from callboard_stt.domain.stretches import stretches
from callboard_worker.engine import EngineError, EngineFailed, EngineRefused, EngineUnavailable
from callboard_worker.threads import EngineThreads, StopSignal

WARM_S = 1
TEMPERATURES = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
"""What Whisper tries one after the other while a reading is not plausible."""
GPU_FAULT = re.compile(r"\bcuda|\bcublas", re.IGNORECASE)
"""What CTranslate2's errors name where the GPU or its libraries failed."""
FULL_MEMORY = ("out of memory", "ALLOC_FAILED")
PROMPT_CHARACTERS = 400
"""So much of the text before is told to the engine where it goes on; Whisper takes some 220 tokens."""


class FasterWhisperEngine:
    """A Whisper model in this process; `slots` sounds are heard at once, each on `threads` threads."""

    in_process = True

    def __init__(
        self, model_path: Path, slots: int, threads: int | None, device: str, beam_size: int, stop_timeout_s: float
    ) -> None:
        self._model_path = model_path
        self._slots = slots
        self._cpu_threads = threads or max(1, processors() // slots)
        self._device = device
        self._beam_size = beam_size
        self._threads = EngineThreads("whisper", slots, stop_timeout_s)
        self._model: WhisperEncodedOnce | None = None

    @property
    def active(self) -> int:
        """How many sounds it listens to at this moment."""
        return self._threads.active

    @property
    def abilities(self) -> AbstractSet[Ability]:
        """What Whisper does; a model for English alone has nothing to translate."""
        multilingual = self._model is not None and self._model.model.is_multilingual
        return frozenset({"word_timestamps", "hotwords", *(("translation",) if multilingual else ())})

    def languages(self) -> Sequence[str]:
        """The languages that the model was trained on."""
        return self._model.supported_languages if self._model else ()

    async def load(self) -> None:
        """Loads the model and has it listen to a moment of silence."""
        if not (self._model_path / "model.bin").is_file():
            raise EngineUnavailable(f"there is no model at {self._model_path}; `callboard models fetch` fetches it")
        try:
            self._model = await self._threads.run(self._loaded)
        except (RuntimeError, ValueError, OSError) as error:
            raise EngineUnavailable(str(error)) from error

    def _loaded(self, _stop: StopSignal) -> WhisperEncodedOnce:
        model = WhisperEncodedOnce(
            str(self._model_path),
            device=self._device,
            compute_type="default" if self._device == "cuda" else "auto",
            cpu_threads=self._cpu_threads,
            num_workers=self._slots,
            local_files_only=True,
        )
        segments, _ = model.transcribe(np.zeros(SAMPLE_RATE_HZ * WARM_S, np.float32), language="en", beam_size=1)
        list(segments)
        return model

    async def ready(self) -> str | None:
        """Ready as long as it is not stuck."""
        return self.broken()

    def broken(self) -> str | None:
        """Why the engine needs a new process."""
        return self._threads.broken

    async def close(self) -> None:
        """Ends the threads."""
        self._threads.close()

    async def transcribe(
        self, model: str, sound: Sound, request: TranscriptionRequest, start_ms: int = 0
    ) -> AsyncGenerator[Recognised, None]:
        """Yields one segment after another, as Whisper finds them."""
        del model
        known = self.languages()
        if request.language is not None and request.language not in known:
            raise EngineRefused(
                ErrorInfo(
                    code=ErrorCode.INVALID_REQUEST,
                    message="The model does not know this language.",
                    param="language",
                    offered=tuple(known),
                )
            )
        loop = asyncio.get_running_loop()
        found: asyncio.Queue[Recognised | None] = asyncio.Queue()

        def tell(recognised: Recognised | None) -> None:
            loop.call_soon_threadsafe(found.put_nowait, recognised)

        async def work() -> None:
            try:
                await self._threads.run(lambda stop: self._listen(sound, request, start_ms, tell, stop))
            finally:
                found.put_nowait(None)

        working = asyncio.ensure_future(work())
        try:
            while (recognised := await found.get()) is not None:
                yield recognised
            await working
        except (RuntimeError, ValueError) as error:
            raise self._error(error) from error
        finally:
            working.cancel()
            await asyncio.gather(working, return_exceptions=True)

    def _error(self, error: Exception) -> EngineError:
        """What a failed run means; a fault of the GPU other than full memory stays until the process starts anew."""
        if not GPU_FAULT.search(str(error)):
            return EngineFailed(type(error).__name__)
        if any(words in str(error) for words in FULL_MEMORY):
            return EngineUnavailable("the GPU's memory is full")
        self._threads.broken = "the GPU failed"
        return EngineUnavailable(self._threads.broken)

    def _listen(
        self,
        sound: Sound,
        request: TranscriptionRequest,
        start_ms: int,
        tell: Callable[[Recognised], None],
        stop: StopSignal,
    ) -> None:
        assert self._model is not None
        language, before = request.language, request.prompt
        for begin, end in stretches(sound.samples, start_ms * SAMPLES_PER_MS):
            stop.check()
            segments, info_language, probability = self._heard(sound.samples[begin:end], request, language, before)
            for segment in segments:
                one = _segment(segment, begin / SAMPLE_RATE_HZ)
                language = info_language
                before = (before + one.text)[-PROMPT_CHARACTERS:]
                tell(Recognised((one,), language, probability))
                stop.check()
            tell(NOTHING)

    def _heard(
        self, samples: Samples, request: TranscriptionRequest, language: str | None, before: str
    ) -> tuple[Iterator[Segment], str, float]:
        assert self._model is not None
        segments, info = self._model.transcribe(
            samples.astype(np.float32) / 32768,
            language=language,
            task=request.task,
            beam_size=self._beam_size,
            initial_prompt=before or None,
            hotwords=" ".join(request.hotwords) or None,
            word_timestamps=request.word_timestamps,
            vad_filter=request.voice_activity,
            temperature=TEMPERATURES if request.temperature is None else request.temperature,
        )
        return iter(segments), info.language, info.language_probability


def _segment(segment: Segment, offset_s: float) -> TranscribedSegment:
    words = tuple(
        TranscribedWord(
            word=word.word,
            start_s=round(offset_s + float(word.start), 3),
            end_s=round(offset_s + float(word.end), 3),
            probability=float(word.probability),
        )
        for word in segment.words or ()
    )
    return TranscribedSegment(
        start_s=round(offset_s + segment.start, 3),
        end_s=round(offset_s + segment.end, 3),
        text=segment.text,
        words=words,
        tokens=tuple(segment.tokens),
        seek=segment.seek + round(offset_s * 100),
        temperature=segment.temperature,
        avg_logprob=float(segment.avg_logprob),
        compression_ratio=float(segment.compression_ratio),
        no_speech_probability=float(segment.no_speech_prob),
    )
