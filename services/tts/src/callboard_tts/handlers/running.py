"""The jobs that run in this process, and who may end them: clients, edges and newer attempts."""

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Generator
from contextlib import contextmanager
from typing import Literal

from nats.aio.msg import Msg

from callboard_contracts import subjects
from callboard_contracts.chat import InterestReply, InterestRequest
from callboard_contracts.speech import SpeechJob
from callboard_kit.bus import Bus, BusUnavailable, NoResponders
from callboard_kit.pull import Superseded

log = logging.getLogger(__name__)

INTEREST_INTERVAL_S = 1.0
INTEREST_TIMEOUT_S = 2.0
UNHEARD_LIMIT = 2
"""After this many askings in a row that nobody hears, the edge counts as gone."""
RECONNECT_GRACE_S = 3.0
"""After the bus comes back, an edge may need this long until it listens again."""
REMEMBERED_CANCELS = 4096

CancelScope = Literal["cancelled", "superseded"]


class RunningJob:
    """One job while this process works on it."""

    def __init__(self, job: SpeechJob, attempt: int, *, is_batch: bool) -> None:
        self.job = job
        self.attempt = attempt
        self.is_batch = is_batch
        self.interrupted: asyncio.Future[CancelScope] = asyncio.get_running_loop().create_future()
        self.interrupted_at = 0.0

    def interrupt(self, reason: CancelScope) -> None:
        """Asks for the job's end; the first reason counts."""
        if not self.interrupted.done():
            self.interrupted_at = asyncio.get_running_loop().time()
            self.interrupted.set_result(reason)


class RunningJobs:
    """Knows every running job and ends those that nobody wants any more."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._jobs: dict[str, RunningJob] = {}
        self._cancelled: OrderedDict[str, None] = OrderedDict()
        self._settled_at = 0.0
        bus.on_reconnect(self._reconnected)

    async def listen(self) -> None:
        """Subscribes to the cancellations of all requests."""
        await self._bus.subscribe(subjects.cancel("*"), self._on_cancel)

    @contextmanager
    def entered(self, job: SpeechJob, attempt: int, *, is_batch: bool) -> Generator[RunningJob]:
        """Counts a job as running inside the context.

        Raises:
            Superseded: it runs here already; the bus handed it out again because it was away for a while.
        """
        if job.request_id in self._jobs:
            raise Superseded
        running = RunningJob(job, attempt, is_batch=is_batch)
        if job.request_id in self._cancelled:
            running.interrupt("cancelled")
        self._jobs[job.request_id] = running
        try:
            yield running
        finally:
            del self._jobs[job.request_id]

    async def ask_while_running(self, running: RunningJob) -> None:
        """Asks the job's edge once a second whether anybody still listens, until cancelled."""
        unheard = 0
        while True:
            await asyncio.sleep(INTEREST_INTERVAL_S)
            if not self._bus.connected:
                continue
            try:
                reply = await self.ask(running.job, running.attempt)
            except NoResponders:
                # A is_batch job goes on without its edge: any other edge can hand out what it made.
                if running.is_batch or asyncio.get_running_loop().time() < self._settled_at:
                    continue
                unheard += 1
                if unheard >= UNHEARD_LIMIT:
                    log.info("edge_gone", extra={"request_id": running.job.request_id})
                    running.interrupt("cancelled")
            except (BusUnavailable, ValueError):
                log.warning("interest_unanswered", extra={"request_id": running.job.request_id})
            else:
                unheard = 0
                if reply.attempt > running.attempt:
                    running.interrupt("superseded")
                elif not reply.open:
                    running.interrupt("cancelled")

    async def ask(self, job: SpeechJob, attempt: int, *, resume: bool = False) -> InterestReply:
        """Asks an edge once.

        Raises:
            NoResponders: no such edge listens.
            BusUnavailable: no answer in time.
            ValueError: the answer is none.
        """
        question = InterestRequest(attempt=attempt, resume=resume).model_dump_json().encode()
        answer = await self._bus.request(subjects.interest(job.edge, job.request_id), question, INTEREST_TIMEOUT_S)
        return InterestReply.model_validate_json(answer)

    async def _on_cancel(self, message: Msg) -> None:
        request_id = message.subject.rsplit(".", 1)[-1]
        if running := self._jobs.get(request_id):
            running.interrupt("cancelled")
            return
        # The job may be on its way to this process at this very moment.
        self._cancelled[request_id] = None
        if len(self._cancelled) > REMEMBERED_CANCELS:
            self._cancelled.popitem(last=False)

    def _reconnected(self) -> None:
        self._settled_at = asyncio.get_running_loop().time() + RECONNECT_GRACE_S
