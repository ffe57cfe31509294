"""The jobs that run in this process, and who may end them: clients, edges, deadlines and silence."""

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import Generator
from contextlib import contextmanager

from nats.aio.msg import Msg

from callboard_chat import metrics
from callboard_chat.domain.reply import Reply
from callboard_chat.handlers.cancel_scope import CancelScope
from callboard_contracts import subjects
from callboard_contracts.chat import ChatFrame, ChatJob, InterestReply, InterestRequest
from callboard_kit.bus import Bus, BusUnavailable, NoResponders
from callboard_kit.pull import Superseded

log = logging.getLogger(__name__)

INTEREST_INTERVAL_S = 1.0
INTEREST_TIMEOUT_S = 2.0
WATCH_INTERVAL_S = 0.2
UNHEARD_LIMIT = 2
"""After this many askings in a row that nobody hears, the edge counts as gone."""
RECONNECT_GRACE_S = 3.0
"""After the bus comes back, an edge may need this long until it listens again."""
REMEMBERED_CANCELS = 4096


class RunningJob:
    """One job while this process works on it; clock times are the event loop's."""

    def __init__(self, job: ChatJob, attempt: int, *, is_batch: bool) -> None:
        now = asyncio.get_running_loop().time()
        self.job = job
        self.attempt = attempt
        self.is_batch = is_batch
        self.started_at = now
        self.deadline = now + job.deadline_at - time.time()
        self.heard_at: float | None = None
        """When the engine last said something; None until it has, and while it is being asked again."""
        self.first_at: float | None = None
        self.next_interest_check = now + INTEREST_INTERVAL_S
        self.unheard = 0
        self.reply: Reply | None = None
        self.unsure = False
        """Whether frames may have been lost with the bus, until the edge has said what it has."""
        self.cancel_scope = CancelScope()

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
    def entered(self, job: ChatJob, attempt: int, *, is_batch: bool) -> Generator[RunningJob]:
        """Counts a job as running inside the context.

        Raises:
            Superseded: it runs here already; the bus handed it out again because it was away for a while.
        """
        if job.request_id in self._jobs:
            raise Superseded
        running = RunningJob(job, attempt, is_batch=is_batch)
        if job.request_id in self._cancelled:
            running.cancel_scope.cancel("cancelled")
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
                    if now >= running.next_interest_check and self._bus.connected:
                        # Moved on by the answer; until then far enough away that only one asking is under way.
                        running.next_interest_check = now + INTEREST_INTERVAL_S + INTEREST_TIMEOUT_S
                        group.create_task(self._ask(running))

    def _check(self, running: RunningJob, now: float) -> None:
        if now >= running.deadline:
            running.cancel_scope.cancel("deadline")
        elif running.heard_at is not None and now - running.heard_at > self._stall_timeout_s:
            running.cancel_scope.cancel("stalled")

    async def _ask(self, running: RunningJob) -> None:
        job = running.job
        unsure = running.unsure
        question = InterestRequest(attempt=running.attempt, resume=unsure).model_dump_json().encode()
        try:
            answer = await self._bus.request(subjects.interest(job.edge, job.request_id), question, INTEREST_TIMEOUT_S)
            reply = InterestReply.model_validate_json(answer)
        except NoResponders:
            self._unheard(running)
        except (BusUnavailable, ValueError):
            log.warning("interest_unanswered", extra={"request_id": job.request_id})
        else:
            running.unheard = 0
            if reply.attempt > running.attempt:
                running.cancel_scope.cancel("superseded")
            elif not reply.open:
                running.cancel_scope.cancel("cancelled")
            elif unsure:
                await self._send_again(running, reply.next_seq)
        interval_s = WATCH_INTERVAL_S if running.unsure else INTEREST_INTERVAL_S
        running.next_interest_check = asyncio.get_running_loop().time() + interval_s

    async def _send_again(self, running: RunningJob, next_seq: int) -> None:
        """Repeats the frames that the edge lacks; it drops those that it has."""
        running.unsure = False
        frames = running.reply.sent_since(next_seq) if running.reply else []
        try:
            for frame in frames:
                await send_frame(self._bus, running.job, frame)
        except BusUnavailable:
            running.unsure = True
        log.info("frames_sent_again", extra={"request_id": running.job.request_id, "frames": len(frames)})

    def _unheard(self, running: RunningJob) -> None:
        # A is_batch job goes on without its edge: any other edge can hand out its result.
        if running.is_batch or asyncio.get_running_loop().time() < self._settled_at:
            return
        running.unheard += 1
        if running.unheard >= UNHEARD_LIMIT:
            log.info("edge_gone", extra={"request_id": running.job.request_id})
            running.cancel_scope.cancel("cancelled")

    async def _on_cancel(self, message: Msg) -> None:
        request_id = message.subject.rsplit(".", 1)[-1]
        if running := self._jobs.get(request_id):
            running.cancel_scope.cancel("cancelled")
            return
        # The job may be on its way to this process at this very moment.
        self._cancelled[request_id] = None
        if len(self._cancelled) > REMEMBERED_CANCELS:
            self._cancelled.popitem(last=False)

    def _reconnected(self) -> None:
        # What was sent while the bus was away went out before the edge was back, and the frame stream began anew.
        now = asyncio.get_running_loop().time()
        self._settled_at = now + RECONNECT_GRACE_S
        for running in self._jobs.values():
            running.unsure = True
            running.next_interest_check = now


async def send_frame(bus: Bus, job: ChatJob, frame: ChatFrame, *, flush: bool = False) -> None:
    """Sends one frame to the job's edge; `flush` is for the first, which somebody waits for.

    Raises:
        BusUnavailable: too much is waiting for the bus to come back.
    """
    subject = subjects.out(job.edge, job.request_id)
    await bus.publish(subject, frame.model_dump_json(exclude_defaults=True).encode(), flush=flush)
    metrics.FRAMES.inc()
