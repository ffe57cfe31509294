"""One worker from its start to its end: engine, bus, jobs, announcements, drain."""

import argparse
import asyncio
import logging
import time
import uuid
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass
from typing import Generic, TypeVar

from nats.aio.msg import Msg

from callboard_contracts import subjects
from callboard_contracts.config import Config
from callboard_contracts.jobs import Job
from callboard_contracts.streams import JOB_STREAMS, consumer_name, key_life_s
from callboard_contracts.workers import OfferedModel, WorkerInfo
from callboard_kit import library_output
from callboard_kit.bus import Bus, BusError
from callboard_kit.lifecycle import Main, Shutdown, StartError, TaskSupervisor, is_set_within, run_service
from callboard_kit.native_code import load_failure
from callboard_kit.payload_cipher import erase_keys
from callboard_kit.process_memory import settle_memory
from callboard_kit.resources import bus_connection, ops_server
from callboard_worker.announcing import Announcer
from callboard_worker.attempts import Attempts
from callboard_worker.engine import Engine, EngineUnavailable
from callboard_worker.handler import JobHandler, JobKind
from callboard_worker.handover import Handover
from callboard_worker.metrics import WorkerMetrics
from callboard_worker.outcomes import STUCK
from callboard_worker.pool import WorkerPool
from callboard_worker.progress import record_progress
from callboard_worker.pull import PullLoop
from callboard_worker.running import RunningJob, RunningJobs

log = logging.getLogger(__name__)

READY_INTERVAL_S = 5.0
UNREADY_INTERVAL_S = 1.0
READY_TIMEOUT_S = 5.0
SET_ASIDE_TIMEOUT_S = 10.0
CLOCK_WAIT_S = 1.0

J = TypeVar("J", bound=Job)


@dataclass(slots=True)
class Readiness:
    """Whether a worker can take jobs; `engine` is what the engine last said."""

    shutdown: Shutdown
    engine: str | None = "engine: loading"
    bus: Bus | None = None
    loop: PullLoop | None = None

    def reason(self) -> str | None:
        """Why the worker cannot take jobs, or None."""
        if self.shutdown.stopping:
            return "stopping"
        if self.engine is not None:
            return self.engine
        if self.bus is None or not self.bus.connected:
            return "bus: not connected"
        if not self.bus.clock.known:
            return "clock: the bus has not told its time"
        if self.loop is not None and not self.loop.served:
            return "queue: not served"
        return None


class Worker(Generic[J]):
    """Runs the jobs of one pool on one engine.

    `offers` says what the worker announces, once the engine is loaded; `make_kind` makes the kind of job that the
    service is for. What `beside` makes is entered while jobs are taken, and left when the worker drains. `worker_id` is
    made up where none is given. `room` says how many more jobs are welcome, where that is not all of the pool's slots.
    Without `counts_deaths`, no job is taken for one that ends its workers.
    """

    def __init__(
        self,
        pool: WorkerPool,
        engine: Engine,
        metrics: WorkerMetrics,
        offers: Callable[[], Sequence[OfferedModel]],
        make_kind: Callable[[Bus], JobKind[J]],
        shutdown: Shutdown,
        beside: Callable[[Bus], AbstractAsyncContextManager[object]] = nullcontext,
        worker_id: str | None = None,
        room: Callable[[], int] | None = None,
        *,
        counts_deaths: bool = True,
    ) -> None:
        self._room = room
        self._counts_deaths = counts_deaths
        self._id = worker_id or uuid.uuid4().hex
        self._pool = pool
        self._engine = engine
        self._metrics = metrics
        self._offers = offers
        self._make_kind = make_kind
        self._beside = beside
        self._shutdown = shutdown
        self._readiness = Readiness(shutdown)
        self._reason = self._readiness.reason()
        self._renew: Callable[[], None] = lambda: None
        self._running: RunningJobs | None = None

    def announce(self) -> None:
        """Announces the worker again now, because what it offers has changed."""
        self._renew()

    async def run(self, config: Config) -> None:
        """Runs until told to stop, then drains.

        Raises:
            StartError: the engine cannot load, the bus is not there, or a port is taken.
        """
        pool = self._pool
        self._metrics.begin(pool.backend, pool.slots)
        setting = f"{pool.setting}.metrics_port"
        port, host = pool.metrics_port, config.site.metrics_host
        async with ops_server(setting, port, self._readiness.reason, host, {"pool": pool.name}):
            try:
                await self._load()
                async with bus_connection(config.nats, f"{pool.service}-{pool.name}", self._shutdown) as bus:
                    self._readiness.bus = bus
                    await self._serve(bus, key_life_s(config))
            finally:
                # Closing a stuck engine would wait for it.
                if not self._shutdown.stuck:
                    await self._engine.close()

    async def _load(self) -> None:
        started = time.monotonic()
        try:
            await self._engine.load()
        except EngineUnavailable as error:
            raise StartError(f"{self._pool.setting}: {load_failure(error) or error}") from None
        self._metrics.engine_load.labels(self._pool.backend).set(time.monotonic() - started)

    async def _serve(self, bus: Bus, key_life_s: float) -> None:
        pool, shutdown = self._pool, self._shutdown
        stream = JOB_STREAMS[pool.service]
        running = self._running = RunningJobs(bus, pool.stall_timeout_s)
        in_process = self._engine.in_process
        attempts = Attempts(bus, self._id, self._metrics, engine_in_process=in_process, counted=self._counts_deaths)
        kind = self._make_kind(bus)
        handler = JobHandler(kind, running, attempts, bus, stream, self._metrics)
        live, batch = consumer_name(pool.service, pool.name, "live"), consumer_name(pool.service, pool.name, "batch")
        handover = Handover(bus, self._id, self._metrics, lambda: self._readiness.reason() is None)
        loop = PullLoop(
            bus, stream, live, batch, pool.slots, handler.handle, handover.passes_on, self._changed, self._room
        )
        self._readiness.loop = loop
        self._metrics.slots_used.set_function(lambda: loop.running)
        announcer = Announcer(bus, lambda: self._describe(bus))
        self._renew = announcer.renew
        library_output.hide()
        await running.listen()
        await attempts.listen()
        await handover.listen(loop)
        await bus.subscribe(subjects.drain(self._id), self._on_drain)
        await handler.dead_letters.start()
        settle_memory()
        async with TaskSupervisor(shutdown) as supervisor:
            supervisor.start(running.watch(), "watch")
            supervisor.start(attempts.watch(), "attempts")
            supervisor.start(handler.dead_letters.recover(), "dead-letters")
            supervisor.start(erase_keys(bus, key_life_s), "key-erasure")
            supervisor.start(self._watch_engine(), "engine-watch")
            supervisor.start(record_progress(bus, self._id, running.used), "progress")
            announcing = supervisor.start(announcer.run(), "announcing")
            while not shutdown.stopping and not await is_set_within(bus.clock.measured, CLOCK_WAIT_S):
                log.warning("bus_time_unknown")
            async with self._beside(bus):
                await loop.run(shutdown.wait)
            log.info("draining", extra={"running": loop.running})
            self._changed()
            if shutdown.stuck:
                await self._leave_engine(loop, handler, attempts)
            else:
                await loop.drain(pool.drain_timeout_s)
                await kind.close()
            announcing.cancel()
            await announcer.withdraw()

    def _describe(self, bus: Bus) -> WorkerInfo:
        pool = self._pool
        return WorkerInfo(
            id=self._id,
            service=pool.service,
            pool=pool.name,
            backend=pool.backend,
            models=tuple(self._offers()),
            slots=pool.slots,
            slots_used=self._readiness.loop.running if self._readiness.loop else 0,
            ready=self._readiness.reason() is None,
            draining=self._shutdown.stopping,
            at=bus.clock.now(),
        )

    async def _on_drain(self, message: Msg) -> None:
        log.info("drain_ordered")
        self._shutdown.request_stop("drain")
        await message.respond(b"")

    def _changed(self) -> None:
        """Announces the worker at once when its readiness has changed."""
        reason = self._readiness.reason()
        if reason != self._reason:
            self._reason = reason
            self._renew()

    def _not_stopping(self) -> tuple[RunningJob[J], ...]:
        return self._running.not_stopping(self._pool.watchdog_timeout_s) if self._running else ()

    async def _leave_engine(self, loop: PullLoop, handler: JobHandler[J], attempts: Attempts) -> None:
        """Gives up a stuck engine: answers for the job that it is stuck on, and hands all others back.

        Where that job is not known, all are handed back as if the worker had died: the job is known the next time.
        """
        everything: tuple[RunningJob[J], ...] = self._running.all if self._running else ()
        jobs: tuple[RunningJob[J], ...] = self._not_stopping() or (everything if len(everything) == 1 else ())
        known = bool(jobs) or not everything
        attempts.end_state = "stuck" if known else "died"
        for job in jobs:
            try:
                async with asyncio.timeout(SET_ASIDE_TIMEOUT_S):
                    await handler.set_aside(job, STUCK)
            except (BusError, TimeoutError):
                log.exception("job_not_set_aside", extra={"request_id": job.job.request_id})
        await loop.hand_back()

    async def _watch_engine(self) -> None:
        """Asks the engine whether it can work; ends the process when only a fresh one can."""
        ready = self._metrics.engine_ready.labels(self._pool.backend)
        clock = time.monotonic
        due = clock()
        while True:
            broken = self._engine.broken()
            if broken is None and self._not_stopping():
                broken = "the engine does not stop"
            if broken is not None:
                self._readiness.engine = f"engine: {broken}"
                ready.set(0)
                log.error("engine_stuck", extra={"backend": self._pool.backend, "reason": broken})
                self._shutdown.request_stop(broken, failed=True, stuck=True)
                return
            if clock() >= due:
                reason = await self._engine_state()
                if reason != self._readiness.engine:
                    log.info("engine_state", extra={"backend": self._pool.backend, "reason": reason})
                self._readiness.engine = reason
                ready.set(reason is None)
                self._changed()
                due = clock() + (UNREADY_INTERVAL_S if reason else READY_INTERVAL_S)
            await asyncio.sleep(UNREADY_INTERVAL_S)

    async def _engine_state(self) -> str | None:
        try:
            async with asyncio.timeout(READY_TIMEOUT_S):
                return await self._engine.ready()
        except TimeoutError:
            return "engine: no answer"
        except Exception as error:
            # Whatever stands in the engine's place for a while, such as a proxy's page, must not end the worker.
            log.debug("engine_check_failed", exc_info=True)
            return f"engine: {type(error).__name__}"


def worker_main(service: str, run: Main) -> int:
    """Runs a worker's process from its command line, whose `--pool` names the worker's pool; returns its exit code."""

    def add_arguments(parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--pool", required=True, help=f"the pool of {service}.pools that this worker belongs to")

    return run_service(service, run, add_arguments)
