"""Counts how often a job's worker died, so that a job that kills its workers is set aside."""

import asyncio
import logging
import time
from dataclasses import dataclass
from typing import Any, Literal

from nats.aio.msg import Msg

from callboard_contracts import subjects
from callboard_contracts.jobs import AttemptRecord
from callboard_contracts.streams import ATTEMPTS
from callboard_kit.bus import Bus, BusError, BusUnavailable, NoResponders
from callboard_kit.lifecycle import is_set_within
from callboard_kit.stream_reads import read_last
from callboard_worker.metrics import WorkerMetrics
from callboard_worker.pull import Nak
from callboard_worker.running import RunningJob

log = logging.getLogger(__name__)

MAX_WORKER_DEATHS = 2
PING_TIMEOUT_S = 2.0
NAK_DELAY_S = 1.0
PROBATION_S = 5.0
PROBATION_CHECK_S = 0.2
RECORD_DELAY_S = 0.05
"""A first attempt is recorded once it has run for so long, where no engine in this process may end it before."""

State = Literal["running", "returned", "stuck", "died"]


@dataclass(slots=True)
class _Known:
    """An attempt that runs here; `due` is the timer of its first record, until that is made."""

    attempt: int
    deaths: int
    due: asyncio.TimerHandle | None = None

    def forget_due(self) -> None:
        """Ends the wait for the first record."""
        if self.due is not None:
            self.due.cancel()
            self.due = None


class Attempts:
    """Records the attempts of one worker, and finds out how those before them ended.

    A job whose worker died begins on probation: one such job at a time, until its engine says something or for some
    seconds. A death in that time counts against that job alone. Where `counted` is false, jobs only wait in the worker
    and cannot end it: all begin at once, and nothing is recorded.
    """

    def __init__(
        self, bus: Bus, worker: str, metrics: WorkerMetrics, *, engine_in_process: bool, counted: bool = True
    ) -> None:
        self._bus = bus
        self._counted = counted
        self._engine_in_process = engine_in_process
        self._worker = worker
        self._metrics = metrics
        self._known: dict[str, _Known] = {}
        self._due: list[str] = []
        self._is_due = asyncio.Event()
        self._probation = asyncio.Lock()
        self._on_probation: RunningJob[Any] | None = None
        self._probation_ends_at = 0.0
        self.end_state: State = "returned"
        """What is recorded of a job that this worker gives back."""

    async def listen(self) -> None:
        """Answers for this worker, for as long as its process works."""
        await self._bus.subscribe(subjects.worker(self._worker), _answer)

    async def watch(self) -> None:
        """Makes records that are due and ends probations, for as long as the process runs."""
        while True:
            await is_set_within(self._is_due, PROBATION_CHECK_S)
            self._is_due.clear()
            due, self._due = self._due, []
            for request_id in due:
                # It may have ended meanwhile.
                if (known := self._known.get(request_id)) is not None and known.due is not None:
                    await self._record(request_id, known, "running")
            running = self._on_probation
            now = time.monotonic()
            if running is not None and (running.heard_at is not None or now >= self._probation_ends_at):
                await self._end_probation()

    async def begin(self, running: RunningJob[Any]) -> int:
        """Takes note that an attempt begins, and returns how many workers died in those before it.

        One death too many and the attempt does not begin. A first attempt that ends soon leaves no record, since
        without one no death is counted.

        Raises:
            Nak: the bus does not answer at this moment.
        """
        if not self._counted:
            return 0
        deaths = await self._deaths(running) if running.attempt > 1 else 0
        if deaths >= MAX_WORKER_DEATHS:
            return deaths
        if deaths:
            await self._probation.acquire()
            self._on_probation = running
            self._probation_ends_at = time.monotonic() + PROBATION_S
            await self._record_all("returned")
        request_id = running.job.request_id
        known = self._known[request_id] = _Known(running.attempt, deaths)
        if running.attempt > 1 or self._engine_in_process:
            await self._record(request_id, known, "running")
        else:
            known.due = asyncio.get_running_loop().call_later(RECORD_DELAY_S, self._fall_due, request_id)
        return deaths

    async def end(self, running: RunningJob[Any], *, returned: bool) -> None:
        """Takes note that an attempt ended here; `returned` where the job is to be handed out again."""
        if not self._counted:
            return
        request_id = running.job.request_id
        if (known := self._known.pop(request_id, None)) is not None:
            known.forget_due()
            if returned:
                await self._record(request_id, known, self.end_state)
        if self._on_probation is running:
            await self._end_probation()

    def _fall_due(self, request_id: str) -> None:
        self._due.append(request_id)
        self._is_due.set()

    async def _end_probation(self) -> None:
        self._on_probation = None
        self._probation.release()
        await self._record_all("running")

    async def _record_all(self, state: State) -> None:
        for request_id, known in list(self._known.items()):
            await self._record(request_id, known, state)

    async def _record(self, request_id: str, known: _Known, state: State) -> None:
        known.forget_due()
        record = AttemptRecord(attempt=known.attempt, worker=self._worker, deaths=known.deaths, state=state)
        try:
            await self._bus.publish(subjects.attempt(request_id), record.encoded())
        except BusError:
            # Without a record, no death is counted.
            log.warning("attempt_not_recorded", extra={"request_id": request_id})

    async def _deaths(self, running: RunningJob[Any]) -> int:
        try:
            stored = await read_last(self._bus, ATTEMPTS, subjects.attempt(running.job.request_id))
            if stored is None:
                return 0
            record = AttemptRecord.model_validate_json(stored.data)
            if record.state == "returned" or (record.state == "running" and await self._lives(record.worker)):
                return record.deaths
        except BusUnavailable:
            raise Nak(NAK_DELAY_S) from None
        self._metrics.worker_deaths.labels("killed" if record.state == "running" else "stuck").inc()
        if record.state == "stuck":
            return record.deaths
        ids = {"request_id": running.job.request_id, "worker": record.worker, "attempt": record.attempt}
        log.warning("worker_died", extra=ids)
        return record.deaths + 1

    async def _lives(self, worker: str) -> bool:
        if worker == self._worker:
            return True
        try:
            await self._bus.request(subjects.worker(worker), b"", PING_TIMEOUT_S)
        except NoResponders:
            return False
        return True


async def _answer(message: Msg) -> None:
    await message.respond(b"")
