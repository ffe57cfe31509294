"""The composition root of a chat worker: the only place that knows all its parts."""

import argparse
import asyncio
import logging
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field

from callboard_chat import metrics
from callboard_chat.backends.openai_wire import SAMPLING
from callboard_chat.domain.ports import ChatEngine
from callboard_chat.handlers.chat_jobs import ChatJobs
from callboard_chat.settings import PoolSettings, pool_settings
from callboard_contracts.config import Config
from callboard_contracts.errors import CallboardError
from callboard_contracts.streams import CHAT, consumer_name
from callboard_contracts.workers import OfferedModel, WorkerInfo
from callboard_kit.bus import Bus
from callboard_kit.dead_letters import DeadLetters
from callboard_kit.lifecycle import Shutdown, StartError, TaskSupervisor, freeze_gc
from callboard_kit.pull import PullLoop
from callboard_kit.resources import bus_connection, ops_server
from callboard_worker.announcing import Announcer
from callboard_worker.running import RunningJobs

log = logging.getLogger(__name__)

READY_INTERVAL_S = 10.0
UNREADY_INTERVAL_S = 1.0
READY_TIMEOUT_S = 10.0


@dataclass(slots=True)
class Readiness:
    """What the readiness page says; None means ready."""

    engine: str | None = "engine: loading"
    bus: Bus | None = None
    on_change: Callable[[], None] = field(default=lambda: None)

    def reason(self) -> str | None:
        """Why the worker cannot take jobs, or None."""
        if self.bus is None or not self.bus.connected:
            return "bus: not connected"
        return self.engine


def build_engine(pool: PoolSettings) -> ChatEngine:
    """Makes the engine that the pool names; each backend's libraries are loaded only here."""
    match pool.backend:
        case "openai":
            from callboard_chat.backends.openai import OpenAIEngine

            assert pool.url is not None
            return OpenAIEngine(pool.url, pool.api_key, pool.connect_timeout_s)
        case "ollama":
            from callboard_chat.backends.ollama import OllamaEngine

            assert pool.url is not None
            contexts = {model.engine_model: model.context_tokens for model in pool.models.values()}
            return OllamaEngine(pool.url, pool.api_key, pool.connect_timeout_s, contexts)
        case "llamacpp":
            try:
                from callboard_chat.backends.llamacpp import LlamaCppEngine
            except ImportError:
                raise StartError("the backend llamacpp needs the package xllamacpp") from None
            return LlamaCppEngine(pool.model_path, pool.slots, pool.context_tokens, pool.threads)
        case _:
            from callboard_chat.backends.fake import FakeEngine

            return FakeEngine()


def offered_models(pool: PoolSettings) -> tuple[OfferedModel, ...]:
    """What the worker announces: each model by its public name."""
    served = {model.name: model for model in pool.models.values()}
    return tuple(
        OfferedModel(name=model.name, context_tokens=model.context_tokens, sampling=tuple(sorted(SAMPLING)))
        for model in served.values()
    )


async def run(config: Config, shutdown: Shutdown, arguments: argparse.Namespace) -> None:
    """Runs one worker of the pool `arguments.pool` until told to stop, then drains it."""
    pool = pool_settings(config, arguments.pool)
    await run_worker(config, pool, build_engine(pool), shutdown)


async def run_worker(config: Config, pool: PoolSettings, engine: ChatEngine, shutdown: Shutdown) -> None:
    """Runs one worker on a given engine.

    Raises:
        StartError: the engine cannot load, the bus is not there, or a port is taken.
    """
    readiness = Readiness()
    setting = f"chat.pools.{pool.name}.metrics_port"
    async with ops_server(setting, pool.metrics_port, readiness.reason, config.site.metrics_host):
        try:
            try:
                await engine.load()
            except CallboardError as error:
                raise StartError(error.info.message) from None
            async with bus_connection(config.nats, f"chat-{pool.name}", shutdown) as bus:
                readiness.bus = bus
                await _serve(bus, pool, engine, shutdown, readiness)
        finally:
            await engine.close()


async def _serve(bus: Bus, pool: PoolSettings, engine: ChatEngine, shutdown: Shutdown, readiness: Readiness) -> None:
    running = RunningJobs(bus, pool.stall_timeout_s)
    jobs = ChatJobs(bus, engine, pool, running)
    loop = PullLoop(
        bus,
        CHAT,
        live=consumer_name("chat", pool.name, "live"),
        batch=consumer_name("chat", pool.name, "batch"),
        slots=pool.slots,
        handle=jobs.handle,
        on_change=metrics.SLOTS_USED.set,
    )
    metrics.SLOTS_LIMIT.set(pool.slots)
    metrics.begin(pool.backend)
    await running.listen()
    dead_letters = DeadLetters(bus, CHAT, jobs.on_dead)
    await dead_letters.start()
    freeze_gc()
    worker_id = uuid.uuid4().hex

    def describe() -> WorkerInfo:
        return WorkerInfo(
            id=worker_id,
            service="chat",
            pool=pool.name,
            backend=pool.backend,
            models=offered_models(pool),
            slots=pool.slots,
            slots_used=loop.running,
            ready=readiness.reason() is None,
            draining=shutdown.stopping,
            at=time.time(),
        )

    announcer = Announcer(bus, describe)
    readiness.on_change = announcer.renew
    async with TaskSupervisor(shutdown) as supervisor:
        supervisor.start(running.watch(), "watch")
        announcing = supervisor.start(announcer.run(), "announcing")
        supervisor.start(dead_letters.recover(), "dead-dead_letters")
        supervisor.start(_watch_engine(engine, pool.backend, readiness), "engine-watch")
        await loop.run(shutdown.wait)
        log.info("draining", extra={"running": loop.running})
        announcer.renew()
        await loop.drain(pool.drain_timeout_s)
        announcing.cancel()
    await announcer.withdraw()


async def _watch_engine(engine: ChatEngine, backend: str, readiness: Readiness) -> None:
    while True:
        try:
            async with asyncio.timeout(READY_TIMEOUT_S):
                reason = await engine.ready()
        except TimeoutError:
            reason = "engine: no answer"
        except Exception as error:
            # Whatever stands in the engine's place for a while, such as a proxy's page, must not end the worker.
            log.debug("engine_check_failed", exc_info=True)
            reason = f"engine: {type(error).__name__}"
        if reason != readiness.engine:
            log.info("engine_state", extra={"backend": backend, "reason": reason})
            readiness.engine = reason
            readiness.on_change()
        metrics.ENGINE_READY.labels(backend).set(reason is None)
        await asyncio.sleep(UNREADY_INTERVAL_S if reason else READY_INTERVAL_S)
