"""The composition root of a speech worker: the only place that knows all its parts."""

import argparse

from callboard_contracts.config import Config
from callboard_contracts.workers import OfferedModel, OfferedVoice
from callboard_kit.bus import Bus
from callboard_kit.lifecycle import Shutdown
from callboard_kit.memory_limit import limit_memory
from callboard_tts import metrics
from callboard_tts.domain.ports import SpeechEngine
from callboard_tts.handlers.speech_jobs import SpeechJobs
from callboard_tts.settings import PoolSettings, pool_settings
from callboard_worker.hold_extensions import HoldExtensions
from callboard_worker.runtime import Worker


def build_engine(pool: PoolSettings) -> SpeechEngine:
    """Makes the engine that the pool names; each backend's libraries are loaded only here."""
    match pool.backend:
        case "kokoro_onnx":
            from callboard_tts.backends.kokoro_onnx import KokoroOnnxEngine

            return KokoroOnnxEngine(pool.model_path, pool.voices_path, pool.lanes, pool.threads, pool.device)
        case "kokoro":
            from callboard_tts.backends.kokoro import KokoroEngine

            return KokoroEngine(pool.model_path, pool.voices_path, pool.lanes, pool.threads, pool.device)
        case "openai":
            from callboard_tts.backends.openai import OpenAISpeechEngine

            assert pool.url is not None
            return OpenAISpeechEngine(pool.url, pool.api_key, stall_timeout_s=pool.stall_timeout_s)
        case _:
            from callboard_tts.backends.fake import FakeEngine

            return FakeEngine()


async def run(config: Config, shutdown: Shutdown, arguments: argparse.Namespace) -> None:
    """Runs one worker of the pool `arguments.pool` until told to stop, then drains it."""
    pool = pool_settings(config, arguments.pool)
    limit_memory(pool.memory_limit_mib)
    await run_worker(config, pool, build_engine(pool), shutdown)


async def run_worker(config: Config, pool: PoolSettings, engine: SpeechEngine, shutdown: Shutdown) -> None:
    """Runs one worker on a given engine; raises as `Worker.run` does."""

    def make_jobs(bus: Bus) -> SpeechJobs:
        extensions = HoldExtensions(bus, pool.decision_timeout_s, admits_unheld=pool.admits_unheld)
        return SpeechJobs(bus, engine, extensions, pool)

    worker = Worker(pool, engine, metrics.WORKER, lambda: offered_models(pool, engine), make_jobs, shutdown)
    await worker.run(config)


def offered_models(pool: PoolSettings, engine: SpeechEngine) -> list[OfferedModel]:
    """What a worker announces: each model by its public name, with its voices."""
    known = {voice.name: voice.language or None for voice in engine.voices()}
    served = {model.name: model for model in pool.models.values()}
    return [
        OfferedModel(
            name=model.name,
            voices=tuple(OfferedVoice(name=name, language=known.get(name)) for name in model.voices or known),
            word_times=engine.tells_word_times,
        )
        for model in served.values()
    ]
