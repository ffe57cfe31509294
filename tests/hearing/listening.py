"""Has a speech worker speak sentences, and writes down what a recogniser hears."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from functools import cache

import av
import numpy as np
from faster_whisper import WhisperModel

from callboard_contracts.config import Config
from callboard_contracts.jobs import JOB_VERSION
from callboard_contracts.speech import SAMPLE_RATE_HZ, SpeechJob, SpeechRequest
from callboard_tts.backends.kokoro_onnx import KokoroOnnxEngine
from callboard_tts.domain.ports import Samples
from callboard_tts.domain.sound import from_pcm
from callboard_tts.domain.tempo import Stretcher
from callboard_tts.handlers.speech_jobs import SpeechJobs
from callboard_tts.settings import pool_settings
from callboard_worker.hold_extensions import HoldExtensions
from callboard_worker.running import RunningJob
from tests.hearing.models import whisper_folder
from tests.hearing.results import Result
from tests.hearing.sentences import Kind, Sentence
from tests.hearing.words import compare
from tests.support.models import SPEECH_MODEL, built_in_config
from tests.unit.tts.fake_bus import FakeBus

WHISPER_RATE_HZ = 16_000
WINDOW_S = 28.0
"""Whisper works on windows of 30 s, so several sentences share one."""
GAP_S = 0.8
HEARD_SPEED = 2.0
"""No recogniser was trained on faster speech. It is slowed down to this speed, which brings back no lost word."""
DEADLINE_S = 600.0
Hear = Callable[[Sequence[Samples], str], Awaitable[str]]
PROMPTS = {"zh": "以下是普通话的句子。", "hi": "یہ ہندی کے جملے ہیں۔"}
"""Has Whisper write simplified characters, and Hindi in Urdu's script, as its Devanagari goes round in circles."""


class Listener:
    """Speaks with the real engine and a speech worker around it; everything but the bus is as in production.

    `hear` writes down some sounds of a language.
    """

    def __init__(self, engine: KokoroOnnxEngine, hear: Hear | None = None) -> None:
        self._engine = engine
        self._hear = hear or hear_together
        self._pool = pool_settings(Config.model_validate(built_in_config()), "local")

    async def listen(self, kind: Kind, sentences: Sequence[Sentence]) -> Result:
        """Speaks sentences of one kind and counts the errors in what is heard."""
        started = time.monotonic()
        sounds = [await self.speak(sentence.text, kind.voice, kind.speed) for sentence in sentences]
        spoken = time.monotonic()
        if kind.speed > HEARD_SPEED:
            sounds = [stretched(sound, HEARD_SPEED / kind.speed) for sound in sounds]
        heard = await self._hear(sounds, kind.language)
        expected = " ".join(sentence.words for sentence in sentences)
        errors = compare(expected, heard, kind.language, by_sound=kind.by_sound)
        audio_s = sum(sound.size for sound in sounds) / SAMPLE_RATE_HZ
        return Result(kind, len(sentences), errors, heard, audio_s, spoken - started, time.monotonic() - spoken)

    async def speak(self, text: str, voice: str, speed: float) -> Samples:
        """The sound of a text as the worker sends it."""
        bus = FakeBus()
        jobs = SpeechJobs(bus.as_bus(), self._engine, HoldExtensions(bus.as_bus(), 1.0, admits_unheld=True), self._pool)
        now = time.time()
        job = SpeechJob(
            version=JOB_VERSION,
            request_id="r1",
            edge="edge1",
            tenant="t1",
            room="edge1",
            utterance="r1",
            request=SpeechRequest(model=SPEECH_MODEL, text=text, voice=voice, speed=speed),
            created_at=now,
            deadline_at=now + DEADLINE_S,
        )
        await jobs.run(RunningJob(job, 1, is_batch=False, entered_at=now))
        assert bus.end is not None
        assert bus.end.reason == "stop", bus.end
        return from_pcm(bus.pcm)


def stretched(sound: Samples, factor: float) -> Samples:
    """A sound that is played so many times as fast."""
    return Stretcher(factor).feed(sound, final=True)


async def hear_together(sounds: Sequence[Samples], language: str) -> str:
    """What a recogniser writes down of some sounds, away from the event loop."""
    return await asyncio.to_thread(hear, sounds, language)


def hear(sounds: Sequence[Samples], language: str) -> str:
    """What a recogniser writes down of some sounds, which share its windows."""
    gap = np.zeros(int(GAP_S * SAMPLE_RATE_HZ), np.float32)
    heard: list[str] = []
    for window in _windows(sounds):
        samples = _resampled(np.concatenate([part for sound in window for part in (sound, gap)]))
        segments, _ = _recogniser(language).transcribe(
            samples,
            language=language,
            beam_size=1,
            temperature=0.0,
            condition_on_previous_text=False,
            without_timestamps=True,
            initial_prompt=PROMPTS.get(language),
        )
        heard += [segment.text.strip() for segment in segments]
    return " ".join(heard)


def _windows(sounds: Sequence[Samples]) -> Iterable[list[Samples]]:
    window: list[Samples] = []
    for sound in sounds:
        if window and sum(each.size / SAMPLE_RATE_HZ + GAP_S for each in [*window, sound]) > WINDOW_S:
            yield window
            window = []
        window.append(sound)
    yield window


def _resampled(samples: Samples) -> Samples:
    frame = av.AudioFrame.from_ndarray(samples.reshape(1, -1), format="flt", layout="mono")
    frame.sample_rate = SAMPLE_RATE_HZ
    resampler = av.AudioResampler(format="flt", layout="mono", rate=WHISPER_RATE_HZ)
    return np.concatenate([part.to_ndarray()[0] for part in [*resampler.resample(frame), *resampler.resample(None)]])


@cache
def _recogniser(language: str) -> WhisperModel:
    folder = whisper_folder("tiny.en" if language == "en" else "base")
    return WhisperModel(str(folder), device="cpu", compute_type="int8", local_files_only=True)
