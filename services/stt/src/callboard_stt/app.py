"""The composition root of a worker that writes down speech: the only place that knows all its parts."""

import argparse

from callboard_contracts.config import Config
from callboard_contracts.workers import OfferedModel
from callboard_kit.bus import Bus
from callboard_kit.lifecycle import Shutdown
from callboard_kit.memory_limit import limit_memory
from callboard_kit.openmp import let_waiting_threads_sleep
from callboard_stt import metrics
from callboard_stt.backends.decoder import ProcessDecoder
from callboard_stt.domain.ports import RecognitionEngine
from callboard_stt.handlers.transcription_jobs import TranscriptionJobs
from callboard_stt.settings import PoolSettings, pool_settings
from callboard_worker.hold_extensions import HoldExtensions
from callboard_worker.runtime import Worker


def build_engine(pool: PoolSettings) -> RecognitionEngine:
    """Makes the engine that the pool names; each backend's libraries are loaded only here."""
    match pool.backend:
        case "faster_whisper":
            let_waiting_threads_sleep()
            from callboard_stt.backends.faster_whisper import FasterWhisperEngine

            return FasterWhisperEngine(
                pool.model_path, pool.slots, pool.threads, pool.device, pool.beam_size, pool.watchdog_timeout_s
            )
        case "openai":
            from callboard_stt.backends.openai import OpenAIRecognitionEngine

            assert pool.url is not None
            return OpenAIRecognitionEngine(pool.url, pool.api_key, pool.stall_timeout_s)
        case _:
            from callboard_stt.backends.fake import FakeEngine

            return FakeEngine()


async def run(config: Config, shutdown: Shutdown, arguments: argparse.Namespace) -> None:
    """Runs one worker of the pool `arguments.pool` until told to stop, then drains it."""
    pool = pool_settings(config, arguments.pool)
    limit_memory(pool.memory_limit_mib)
    await run_worker(config, pool, build_engine(pool), shutdown)


async def run_worker(config: Config, pool: PoolSettings, engine: RecognitionEngine, shutdown: Shutdown) -> None:
    """Runs one worker on a given engine; raises as `Worker.run` does."""
    decoder = ProcessDecoder(pool.max_audio_s)
    await decoder.start()

    def make_jobs(bus: Bus) -> TranscriptionJobs:
        extensions = HoldExtensions(bus, pool.decision_timeout_s, admits_unheld=pool.admits_unheld)
        return TranscriptionJobs(bus, engine, decoder, extensions, pool)

    worker = Worker(pool, engine, metrics.WORKER, lambda: offered_models(pool, engine), make_jobs, shutdown)
    try:
        await worker.run(config)
    finally:
        await decoder.close()


def offered_models(pool: PoolSettings, engine: RecognitionEngine) -> list[OfferedModel]:
    """What a worker announces: each model by its public name, with what it can do and the languages that it hears."""
    served = {model.name: model for model in pool.models.values()}
    return [
        OfferedModel(
            name=model.name,
            abilities=tuple(sorted({"transcription", *model.abilities(engine.abilities)})),
            languages=tuple(engine.languages()),
        )
        for model in served.values()
    ]
