"""The jobs that run in this process, and who may end them: clients, edges, deadlines and silence."""

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import Generator
from contextlib import contextmanager

from nats.aio.msg import Msg

from callboard_chat.handlers.interruption import Interruption
from callboard_contracts import subjects
from callboard_contracts.chat import ChatJob, CreditReply, CreditRequest
from callboard_kit.bus import Bus, BusUnavailable, NoResponders
from callboard_kit.pull import Superseded

log = logging.getLogger(__name__)

CREDIT_INTERVAL_S = 1.0
CREDIT_TIMEOUT_S = 2.0
WATCH_INTERVAL_S = 0.2
UNHEARD_LIMIT = 2
"""After this many askings in a row that nobody hears, the edge counts as gone."""
RECONNECT_GRACE_S = 3.0
"""After the bus comes back, an edge may need this long until it listens again."""
REMEMBERED_CANCELS = 4096


class RunningJob:
    """One job while this process works on it; clock times are the event loop's."""

    def __init__(self, job: ChatJob, attempt: int, *, polled: bool) -> None:
        now = asyncio.get_running_loop().time()
        self.job = job
        self.attempt = attempt
        self.polled = polled
        self.started_at = now
        self.deadline = now + job.deadline_at - time.time()
        self.heard_at: float | None = None
        """When the engine last said something; None until it has, and while it is being asked again."""
        self.first_at: float | None = None
        self.next_credit = now + CREDIT_INTERVAL_S
        self.unheard = 0
        self.interruption = Interruption()

    @property
    def left_s(self) -> float:
        """The time until the job's deadline."""
        return self.deadline - asyncio.get_running_loop().time()


class RunningJobs:
    """Knows every running job and ends those that nobody wants, that are late, or whose engine fell silent."""

    def __init__(self, bus: Bus, stall_timeout_s: float) -> None:
        self._bus = bus
        self._stall_timeout_s = stall_timeout_s
        self._jobs: dict[str, RunningJob] = {}
        self._cancelled: OrderedDict[str, None] = OrderedDict()
        self._settled_at = 0.0
        bus.on_reconnect(self._reconnected)

    async def listen(self) -> None:
        """Subscribes to the cancellations of all requests."""
        await self._bus.subscribe(subjects.cancel("*"), self._on_cancel)

    @contextmanager
    def entered(self, job: ChatJob, attempt: int, *, polled: bool) -> Generator[RunningJob]:
        """Counts a job as running inside the context.

        Raises:
            Superseded: it runs here already; the bus handed it out again because it was away for a while.
        """
        if job.request_id in self._jobs:
            raise Superseded
        running = RunningJob(job, attempt, polled=polled)
        if job.request_id in self._cancelled:
            running.interruption.interrupt("cancelled")
        self._jobs[job.request_id] = running
        try:
            yield running
        finally:
            del self._jobs[job.request_id]

    async def watch(self) -> None:
        """Looks after all running jobs, for as long as the process runs."""
        loop = asyncio.get_running_loop()
        async with asyncio.TaskGroup() as group:
            while True:
                await asyncio.sleep(WATCH_INTERVAL_S)
                now = loop.time()
                for running in list(self._jobs.values()):
                    self._check(running, now)
                    if now >= running.next_credit and self._bus.connected:
                        # Moved on by the answer; until then far enough away that only one asking is under way.
                        running.next_credit = now + CREDIT_INTERVAL_S + CREDIT_TIMEOUT_S
                        group.create_task(self._ask(running))

    def _check(self, running: RunningJob, now: float) -> None:
        if now >= running.deadline:
            running.interruption.interrupt("deadline")
        elif running.heard_at is not None and now - running.heard_at > self._stall_timeout_s:
            running.interruption.interrupt("stalled")

    async def _ask(self, running: RunningJob) -> None:
        job = running.job
        question = CreditRequest(attempt=running.attempt).model_dump_json().encode()
        try:
            answer = await self._bus.request(subjects.credit(job.edge, job.request_id), question, CREDIT_TIMEOUT_S)
            reply = CreditReply.model_validate_json(answer)
        except NoResponders:
            self._unheard(running)
        except (BusUnavailable, ValueError):
            log.warning("credit_unanswered", extra={"request_id": job.request_id})
        else:
            running.unheard = 0
            if reply.attempt > running.attempt:
                running.interruption.interrupt("superseded")
            elif not reply.open:
                running.interruption.interrupt("cancelled")
        running.next_credit = asyncio.get_running_loop().time() + CREDIT_INTERVAL_S

    def _unheard(self, running: RunningJob) -> None:
        # A polled job goes on without its edge: any other edge can hand out its result.
        if running.polled or asyncio.get_running_loop().time() < self._settled_at:
            return
        running.unheard += 1
        if running.unheard >= UNHEARD_LIMIT:
            log.info("edge_gone", extra={"request_id": running.job.request_id})
            running.interruption.interrupt("cancelled")

    async def _on_cancel(self, message: Msg) -> None:
        request_id = message.subject.rsplit(".", 1)[-1]
        if running := self._jobs.get(request_id):
            running.interruption.interrupt("cancelled")
            return
        # The job may be on its way to this process at this very moment.
        self._cancelled[request_id] = None
        if len(self._cancelled) > REMEMBERED_CANCELS:
            self._cancelled.popitem(last=False)

    def _reconnected(self) -> None:
        self._settled_at = asyncio.get_running_loop().time() + RECONNECT_GRACE_S
