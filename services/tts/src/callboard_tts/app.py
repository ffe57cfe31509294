"""The composition root of a speech worker: the only place that knows all its parts."""

import argparse
import asyncio
import logging
import time
import uuid
from dataclasses import dataclass

from callboard_contracts.config import Config
from callboard_contracts.streams import TTS, consumer_name
from callboard_contracts.workers import OfferedModel, OfferedVoice, WorkerInfo
from callboard_kit.bus import Bus
from callboard_kit.dead_letters import DeadLetters
from callboard_kit.lifecycle import Shutdown, StartError, TaskSupervisor, freeze_gc
from callboard_kit.pull import PullLoop
from callboard_kit.resources import bus_connection, ops_server
from callboard_tts import metrics
from callboard_tts.backends.hold_extensions import BusHoldExtensions
from callboard_tts.domain.ports import EngineUnavailable, SpeechEngine
from callboard_tts.handlers.speech_jobs import SpeechJobs
from callboard_tts.settings import PoolSettings, pool_settings
from callboard_worker.announcing import Announcer
from callboard_worker.running import RunningJobs

log = logging.getLogger(__name__)

CHECK_INTERVAL_S = 1.0
RETURN_TIMEOUT_S = 5.0
"""How long the last holds may take to be given back before the worker ends."""


@dataclass(slots=True)
class Readiness:
    """What the readiness page says; None means ready."""

    engine: str | None = "engine: loading"
    bus: Bus | None = None

    def reason(self) -> str | None:
        """Why the worker cannot take jobs, or None."""
        if self.engine is not None:
            return self.engine
        return None if self.bus is not None and self.bus.connected else "bus: not connected"


def build_engine(pool: PoolSettings) -> SpeechEngine:
    """Makes the engine that the pool names; each backend's libraries are loaded only here."""
    try:
        match pool.backend:
            case "kokoro_onnx":
                from callboard_tts.backends.kokoro_onnx import KokoroOnnxEngine

                return KokoroOnnxEngine(pool.model_path, pool.voices_path, pool.slots, pool.threads, pool.device)
            case "kokoro":
                from callboard_tts.backends.kokoro import KokoroEngine

                return KokoroEngine(pool.model_path, pool.voices_path, pool.slots, pool.threads, pool.device)
            case "openai":
                from callboard_tts.backends.openai import OpenAISpeechEngine

                assert pool.url is not None
                return OpenAISpeechEngine(pool.url, pool.api_key, stall_timeout_s=pool.piece_timeout_s)
            case _:
                from callboard_tts.backends.fake import FakeEngine

                return FakeEngine()
    except ImportError as error:
        raise StartError(f"the backend {pool.backend} needs the package {error.name}") from None


def offered_models(pool: PoolSettings, engine: SpeechEngine) -> tuple[OfferedModel, ...]:
    """What the worker announces: each model by its public name, with its voices."""
    served = {model.name: model for model in pool.models.values()}
    known = {voice.name: voice.language or None for voice in engine.voices()}
    return tuple(
        OfferedModel(
            name=model.name,
            voices=tuple(OfferedVoice(name=name, language=known.get(name)) for name in (model.voices or known)),
        )
        for model in served.values()
    )


async def run(config: Config, shutdown: Shutdown, arguments: argparse.Namespace) -> None:
    """Runs one worker of the pool `arguments.pool` until told to stop, then drains it."""
    pool = pool_settings(config, arguments.pool)
    await run_worker(config, pool, build_engine(pool), shutdown)


async def run_worker(config: Config, pool: PoolSettings, engine: SpeechEngine, shutdown: Shutdown) -> None:
    """Runs one worker on a given engine.

    Raises:
        StartError: the engine cannot load, the bus is not there, or a port is taken.
    """
    readiness = Readiness()
    setting = f"tts.pools.{pool.name}.metrics_port"
    async with ops_server(setting, pool.metrics_port, readiness.reason, config.site.metrics_host):
        try:
            await _load(engine, pool, readiness)
            async with bus_connection(config.nats, f"tts-{pool.name}", shutdown) as bus:
                readiness.bus = bus
                await _serve(bus, pool, engine, shutdown, readiness)
        finally:
            await engine.close()


async def _load(engine: SpeechEngine, pool: PoolSettings, readiness: Readiness) -> None:
    started = time.monotonic()
    try:
        await engine.load()
    except EngineUnavailable as error:
        raise StartError(f"tts.pools.{pool.name}: {error}") from None
    readiness.engine = None
    metrics.ENGINE_LOAD.labels(pool.backend).set(time.monotonic() - started)
    metrics.ENGINE_READY.labels(pool.backend).set(1)


async def _serve(bus: Bus, pool: PoolSettings, engine: SpeechEngine, shutdown: Shutdown, readiness: Readiness) -> None:
    running = RunningJobs(bus, pool.piece_timeout_s)
    extensions = BusHoldExtensions(bus, pool.decision_timeout_s)
    jobs = SpeechJobs(bus, engine, extensions, pool, running)
    loop = PullLoop(
        bus,
        TTS,
        live=consumer_name("tts", pool.name, "live"),
        batch=consumer_name("tts", pool.name, "batch"),
        slots=pool.slots,
        handle=jobs.handle,
        on_change=metrics.SLOTS_USED.set,
    )
    metrics.SLOTS_LIMIT.set(pool.slots)
    metrics.begin(pool.backend)
    await running.listen()
    dead_letters = DeadLetters(bus, TTS, jobs.on_dead)
    await dead_letters.start()
    freeze_gc()
    worker_id = uuid.uuid4().hex

    def describe() -> WorkerInfo:
        return WorkerInfo(
            id=worker_id,
            service="tts",
            pool=pool.name,
            backend=pool.backend,
            models=offered_models(pool, engine),
            slots=pool.slots,
            slots_used=loop.running,
            ready=readiness.reason() is None,
            draining=shutdown.stopping,
            at=time.time(),
        )

    announcer = Announcer(bus, describe)
    async with TaskSupervisor(shutdown) as supervisor:
        supervisor.start(running.watch(), "watch")
        announcing = supervisor.start(announcer.run(), "announcing")
        supervisor.start(dead_letters.recover(), "dead-dead_letters")
        supervisor.start(_watch_engine(engine, pool, readiness, shutdown), "engine-watch")
        await loop.run(shutdown.wait)
        log.info("draining", extra={"running": loop.running})
        announcer.renew()
        await loop.drain(pool.drain_timeout_s)
        announcing.cancel()
        await announcer.withdraw()
        await extensions.close(RETURN_TIMEOUT_S)


async def _watch_engine(engine: SpeechEngine, pool: PoolSettings, readiness: Readiness, shutdown: Shutdown) -> None:
    """Ends the process when its engine is stuck for good: only a fresh process gets the thread back."""
    while True:
        reason = engine.broken()
        if reason is not None:
            readiness.engine = f"engine: {reason}"
            metrics.ENGINE_READY.labels(pool.backend).set(0)
            shutdown.request_stop(reason, failed=True)
            return
        await asyncio.sleep(CHECK_INTERVAL_S)
