"""The jobs that run in this process, and who may end them: clients, edges, newer attempts, deadlines and silence."""

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Any, Generic, TypeVar

from nats.aio.msg import Msg

from callboard_contracts import subjects
from callboard_contracts.interest import EDGE_LOST_S, EdgeHeartbeat
from callboard_contracts.jobs import JOB_VERSION, Job
from callboard_contracts.quota import Work
from callboard_kit.bus import Bus, BusUnavailable
from callboard_worker.cancel_scope import CancelScope
from callboard_worker.pull import Superseded
from callboard_worker.takeover import ask_edge

log = logging.getLogger(__name__)

WATCH_INTERVAL_S = 0.2
MISSED_HEARTBEATS = 2
"""A job that is missing from so many heartbeats in a row is wanted no more; one may have crossed with the job."""
RECONNECT_GRACE_S = 3.0
"""After the bus comes back, an edge may need this long until it speaks again."""
REMEMBERED_CANCELS = 4096

J = TypeVar("J", bound=Job)


class RunningJob(Generic[J]):
    """One job while this process works on it; clock times are monotonic, but `entered_at` is the bus's."""

    def __init__(self, job: J, attempt: int, *, is_batch: bool, entered_at: float) -> None:
        now = time.monotonic()
        self.job = job
        self.attempt = attempt
        self.is_batch = is_batch
        self.started_at = now
        self.queue_s = max(0.0, entered_at - job.created_at) if attempt == 1 else None
        """How long the job waited in its queue; None for one that was handed out before."""
        self.deadline = now + job.deadline_at - entered_at
        self.stream_seq = 0
        """The job's place in its queue."""
        self.cancel_scope = CancelScope()
        self.heard_at: float | None = None
        """When the engine last said something or was asked; None while nothing is expected of it."""
        self.resend: Callable[[int], Awaitable[None]] | None = None
        """Sends again, from a number on, what may have been lost with the bus; None where nothing can be."""
        self.unsure = False
        """Whether something may have been lost with the bus, until the edge has said what it has."""
        self.used: Callable[[], Work] | None = None
        """Tells what the job has used so far, where its kind can say so."""
        self.edge_heard_at = now
        self.edge_silent = False
        """Whether the edge's heartbeats stopped; it may be gone, or stand still for a while."""
        self.asking_edge = False
        self.missed = 0

    @property
    def left_s(self) -> float:
        """The time until the job's deadline."""
        return self.deadline - time.monotonic()

    @property
    def watched(self) -> bool:
        """Whether an edge that waits for the job says so; a batch job is polled, at any edge."""
        return not self.is_batch and self.job.version == JOB_VERSION and self.job.has_listening_edge


class RunningJobs:
    """Knows every running job and ends those that nobody wants, that are late, or whose engine fell silent."""

    def __init__(self, bus: Bus, stall_timeout_s: float) -> None:
        self._bus = bus
        self._stall_timeout_s = stall_timeout_s
        self._jobs: dict[str, RunningJob[Any]] = {}
        self._cancelled: OrderedDict[str, None] = OrderedDict()
        self._settled_at = 0.0
        bus.on_reconnect(self._reconnected)

    @property
    def all(self) -> tuple[RunningJob[Any], ...]:
        """The jobs that run at this moment."""
        return tuple(self._jobs.values())

    def not_stopping(self, timeout_s: float) -> tuple[RunningJob[Any], ...]:
        """The jobs whose work has ignored the order to stop for so long."""
        since = time.monotonic() - timeout_s
        return tuple(running for running in self.all if running.cancel_scope.ignored_since(since))

    async def listen(self) -> None:
        """Subscribes to the cancellations of all requests and to the heartbeats of all edges."""
        await self._bus.subscribe(subjects.cancel("*"), self._on_cancel)
        await self._bus.subscribe(subjects.interest("*"), self._on_heartbeat)

    def enter(self, job: J, attempt: int, *, is_batch: bool) -> RunningJob[J]:
        """Counts a job as running, until `leave`.

        Raises:
            Superseded: it runs here already; the bus handed it out again because it was away for a while.
        """
        if job.request_id in self._jobs:
            raise Superseded
        running = RunningJob(job, attempt, is_batch=is_batch, entered_at=self._bus.clock.now())
        if job.request_id in self._cancelled:
            running.cancel_scope.cancel("cancelled")
        self._jobs[job.request_id] = running
        return running

    def leave(self, running: RunningJob[Any]) -> None:
        """Counts a job as running no more."""
        del self._jobs[running.job.request_id]

    def used(self) -> dict[str, Work]:
        """What the running jobs have used so far, by request; without those that have used nothing."""
        found = {name: running.used() for name, running in self._jobs.items() if running.used is not None}
        return {name: work for name, work in found.items() if work.completion_tokens or work.audio_ms}

    async def watch(self) -> None:
        """Looks after all running jobs, for as long as the process runs."""
        async with asyncio.TaskGroup() as group:
            while True:
                await asyncio.sleep(WATCH_INTERVAL_S)
                self.check()
                if not self._bus.connected:
                    continue
                settled = time.monotonic() >= self._settled_at
                for running in self._jobs.values():
                    # What no edge asks for must not be sent again before the frame stream, which is polled, is back.
                    due = running.edge_silent or (running.unsure and (settled or running.watched))
                    if due and not running.asking_edge:
                        running.asking_edge = True
                        group.create_task(self._ask_edge(running))

    def check(self) -> None:
        """Ends the jobs that are late or whose engine is silent, and notes those whose edge is."""
        now = time.monotonic()
        if not self._bus.connected:
            self._settled_at = now + RECONNECT_GRACE_S
        for running in self._jobs.values():
            self._check(running, now)

    def _check(self, running: RunningJob[Any], now: float) -> None:
        edge_heard_at = max(running.edge_heard_at, self._settled_at)
        if now >= running.deadline:
            running.cancel_scope.cancel("deadline")
        elif running.heard_at is not None and now - running.heard_at > self._stall_timeout_s:
            running.cancel_scope.cancel("stalled")
        elif running.watched:
            running.edge_silent = now - edge_heard_at > EDGE_LOST_S

    async def _ask_edge(self, running: RunningJob[Any]) -> None:
        """Ends a job whose edge is gone or waits no longer, and repeats what the edge lacks; it drops what it has.

        An edge whose subscription stands but which does not answer is frozen or slow, so its jobs go on. A job that no
        edge is known to wait for repeats all that it has sent.
        """
        unsure, running.unsure = running.unsure, False
        try:
            if not running.watched:
                if running.resend is not None:
                    await running.resend(0)
                return
            reply = await ask_edge(self._bus, running.job, running.attempt, tries=1)
            if reply is None and running.edge_silent:
                log.info("edge_gone", extra={"request_id": running.job.request_id})
                running.cancel_scope.cancel("cancelled")
            elif reply is None:
                running.unsure = unsure
            elif not reply.open:
                running.cancel_scope.cancel("cancelled")
            elif unsure and running.resend is not None:
                await running.resend(reply.next_seq)
        except Superseded:
            running.cancel_scope.cancel("superseded")
        except BusUnavailable:
            running.unsure = unsure
        finally:
            running.edge_heard_at = time.monotonic()
            running.edge_silent = running.asking_edge = False

    async def _on_cancel(self, message: Msg) -> None:
        request_id = message.subject.rsplit(".", 1)[-1]
        if running := self._jobs.get(request_id):
            running.cancel_scope.cancel("cancelled")
            return
        # The job may be on its way to this process at this very moment.
        self._cancelled[request_id] = None
        if len(self._cancelled) > REMEMBERED_CANCELS:
            self._cancelled.popitem(last=False)

    async def _on_heartbeat(self, message: Msg) -> None:
        edge = message.subject.rsplit(".", 1)[-1]
        watched = [running for running in self._jobs.values() if running.job.edge == edge and running.watched]
        if not watched:
            return
        try:
            heartbeat = EdgeHeartbeat.model_validate_json(message.data)
        except ValueError:
            log.warning("heartbeat_malformed", extra={"edge": edge})
            return
        now = time.monotonic()
        still_open = frozenset(heartbeat.open)
        for running in watched:
            request_id = running.job.request_id
            running.edge_heard_at = now
            running.missed = 0 if request_id in still_open else running.missed + 1
            if heartbeat.attempts.get(request_id, 0) > running.attempt:
                running.cancel_scope.cancel("superseded")
            elif running.missed >= MISSED_HEARTBEATS:
                running.cancel_scope.cancel("cancelled")

    def _reconnected(self) -> None:
        # What was sent while the bus was away went out before the edge was back, and the frame stream began anew.
        self._settled_at = time.monotonic() + RECONNECT_GRACE_S
        for running in self._jobs.values():
            running.unsure = running.resend is not None


async def is_wanted(bus: Bus, running: RunningJob[Any]) -> bool:
    """Whether a job whose frames are known is to be gone on with: not when its edge was lost with its worker."""
    if not running.watched:
        return True
    try:
        reply = await ask_edge(bus, running.job, running.attempt)
    except BusUnavailable:
        # An edge that listens but does not answer stands still for a while.
        return True
    return reply is not None and reply.open
