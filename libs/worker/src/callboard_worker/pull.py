"""The pull loop: one job for each free slot, live jobs first, a heartbeat while they run.

The jobs that open pulls ask for and those that run never exceed the slots together, so a worker never holds a job that
it cannot start. All free slots but one wait for live jobs, up to a bound. One pull asks for all that are not asked for
yet, once half of them are not: while a pull is open, no job waits. The last free slot is the batch probe: it asks for a
live job, then for a batch job, then waits for a live job for a quarter of a second, or rests where many other slots
wait for one, and so on; a batch job is thus taken only at a moment when no live job waits.
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

from nats.aio.msg import Msg

from callboard_contracts.streams import ACK_WAIT_S
from callboard_kit.bus import Bus, BusError
from callboard_kit.feed import nak
from callboard_kit.pull import TROUBLE_PAUSE_S, place_of, status_of, turned_away
from callboard_worker.pull_words import (
    BATCH_PROBE_LIFE_S,
    NEXT_STEP,
    PULL_NOW,
    PULL_SOON,
    Inbox,
    Step,
    lost,
    pull_for,
    unfilled,
)

log = logging.getLogger(__name__)

PULL_LIFE_S = 20.0
LOST_PULL_S = PULL_LIFE_S + 5.0
LOST_BATCH_PROBE_S = 5.0
"""A pull that has neither been filled nor ended after this long was lost, as on a server restart."""
HEARTBEAT_S = ACK_WAIT_S / 3
MAX_WAITING_JOBS = 32
"""So many jobs are asked for at most, beside those that run; a consumer has room for 512 pulls of all its workers."""
MANY_WAITING_JOBS = 8
"""With so many jobs asked for the batch probe rests: its pull for one would take turns with the pull for the others."""
CANCEL_TIMEOUT_S = 5.0
ERROR_DELAY_S = 1.0
NAK_DELAY_S = 0.05
NAK = nak(NAK_DELAY_S)
CHECK_INTERVAL_S = 1.0
TAKEN_S = 2.0
"""A pull that was not turned away by then stands; one that is turned away is repeated far sooner."""


class Nak(Exception):  # noqa: N818 - an instruction, not a failure
    """Raised by a handler to have its job handed out again after a delay."""

    def __init__(self, delay_s: float = NAK_DELAY_S) -> None:
        super().__init__(f"to be handed out again in {delay_s} s")
        self.delay_s = delay_s


class Superseded(Exception):  # noqa: N818 - a state, not a failure
    """Raised by a handler when another worker owns the job now; it is neither acked nor nak'ed."""


@dataclass(frozen=True, slots=True)
class Delivery:
    """One job as it was handed out; `attempt` counts from 1."""

    data: bytes
    subject: str
    attempt: int
    stream_seq: int
    headers: Mapping[str, str] | None = None


Handler = Callable[[Delivery], Awaitable[None]]
Pass = Callable[[Msg], Awaitable[bool]]


class PullLoop:
    """Takes jobs from a work queue and runs each in a task of its own, at most `slots` at once.

    `passes_on` is asked first, and says whether another worker has the job now. `on_change` is called when `served` has
    changed. `room` says how many more jobs are welcome at this moment, where that is not all of the slots.
    """

    def __init__(
        self,
        bus: Bus,
        stream: str,
        live: str,
        batch: str,
        slots: int,
        handle: Handler,
        passes_on: Pass | None = None,
        on_change: Callable[[], None] = lambda: None,
        room: Callable[[], int] | None = None,
    ) -> None:
        self._bus = bus
        self._live_subject = f"$JS.API.CONSUMER.MSG.NEXT.{stream}.{live}"
        self._batch_subject = f"$JS.API.CONSUMER.MSG.NEXT.{stream}.{batch}"
        self._waiting = Inbox()
        self._batch_probe = Inbox()
        self._step = Step.LIVE_NOW
        self._resting = False
        """Whether the batch probe rests."""
        self._most = slots
        self._room = room
        self._handle = handle
        self._passes_on = passes_on
        self._promises: deque[asyncio.TimerHandle] = deque()
        self._on_change = on_change
        self._running: dict[asyncio.Task[None], Msg] = {}
        self._reports: list[tuple[Msg, bytes]] = []
        self._batch_probe_empty = False
        self._wake = asyncio.Event()
        self._lost = False
        self._miscounted = False
        """Whether a pull ended that did not say how many jobs it still asked for."""
        self._stopping = False
        self._turned_away: dict[str, float] = {}
        """When a pull of a consumer was last turned away, as it is at once where one is missing or has no leader."""
        bus.on_reconnect(self._forget_pulls)

    @property
    def served(self) -> bool:
        """Whether the server takes the pulls for live and for batch jobs."""
        return not self._turned_away

    @property
    def running(self) -> int:
        """How many jobs run at this moment."""
        return len(self._running)

    @property
    def _slots(self) -> int:
        if self._room is None:
            return self._most
        return min(self._most, len(self._running) + max(0, self._room()))

    async def run(self, stopping: Callable[[], Awaitable[None]]) -> None:
        """Takes jobs until `stopping` returns; jobs that run then are left to `drain`.

        Raises:
            BusUnavailable: the connection ended for good.
        """
        stop = asyncio.ensure_future(stopping())
        heart = asyncio.ensure_future(self._heartbeats())
        checks = asyncio.ensure_future(self._checks())
        tasks = (stop, heart, checks)
        for task in tasks:
            task.add_done_callback(lambda _task: self._wake.set())
        try:
            await self._open_inboxes()
            while not stop.done():
                self._wake.clear()
                await self._ask()
                await self._wake.wait()
                for task in (heart, checks):
                    if task.done():
                        task.result()
        finally:
            self._stopping = True
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self._close_inboxes()
            await self._report()

    async def _checks(self) -> None:
        """Has the pulls looked at again and again, for what nobody tells of: lost ones, and those that are due."""
        while True:
            await asyncio.sleep(CHECK_INTERVAL_S)
            self._wake.set()

    def promise(self, life_s: float) -> bool:
        """Keeps a free slot for a job that another worker hands over; False when there is none."""
        if self._stopping or len(self._running) + len(self._promises) >= self._slots:
            return False
        self._promises.append(asyncio.get_running_loop().call_later(life_s, self._expire))
        return True

    def take(self, message: Msg) -> None:
        """Runs a job that another worker took from the queue.

        One that comes after its promise, or finds its slot taken by a job that came on an open pull, is given back.
        """
        if self._promises:
            self._promises.popleft().cancel()
            if len(self._running) < self._slots:
                self._start(message)
                return
        self._give_back(message)

    def _expire(self) -> None:
        self._promises.popleft()
        self._wake.set()

    async def drain(self, timeout_s: float) -> None:
        """Waits for the jobs that run; at the timeout they are cancelled and nak'ed."""
        self._stopping = True
        heart = asyncio.ensure_future(self._heartbeats())
        try:
            if self._running:
                await asyncio.wait(set(self._running), timeout=timeout_s)
            for task in list(self._running):
                task.cancel()
            if self._running:
                await asyncio.wait(set(self._running), timeout=CANCEL_TIMEOUT_S)
            await self._report()
        finally:
            heart.cancel()
            await asyncio.gather(heart, return_exceptions=True)

    async def hand_back(self) -> None:
        """Cancels the jobs that run and has them handed out again, also those whose work does not end."""
        await self.drain(0.0)
        self._reports += [(message, NAK) for message in self._running.values()]
        await self._report()

    async def _open_inboxes(self) -> None:
        for inbox in (self._waiting, self._batch_probe):
            await self._open(inbox)
        self._lost = False

    async def _open(self, inbox: Inbox) -> None:
        subject = inbox.subject = self._bus.connection.new_inbox()
        inbox.open = 0
        self._miscounted = self._miscounted and inbox is not self._waiting
        inbox.subscription = await self._bus.subscribe_now(
            subject, lambda message: self._arrived(inbox, subject, message)
        )

    async def _withdraw(self, inbox: Inbox) -> None:
        """Ends the open pulls, since the server drops those whose inbox is gone; what still arrives is taken."""
        old = inbox.subscription
        await self._open(inbox)
        if old is not None:
            await self._bus.drain(old)

    async def _close_inboxes(self) -> None:
        for inbox in (self._waiting, self._batch_probe):
            if inbox.subscription:
                await self._bus.unsubscribe(inbox.subscription)

    def _forget_pulls(self) -> None:
        self._lost = True
        self._waiting.not_before = self._batch_probe.not_before = 0.0
        self._wake.set()

    async def _ask(self) -> None:
        """Asks for jobs for the free slots: first the batch probe's, then those that wait."""
        await self._report()
        if not self._bus.connected:
            return
        now = time.monotonic()
        for subject, at in list(self._turned_away.items()):
            if now - at > TAKEN_S:
                self._note_served(subject, served=True)
        if self._lost or lost(self._waiting, now, LOST_PULL_S) or lost(self._batch_probe, now, LOST_BATCH_PROBE_S):
            await self._close_inboxes()
            await self._open_inboxes()
        if self._miscounted or len(self._running) + self._waiting.open > self._slots:
            # A batch job, or one that was handed over, took a slot that an open pull counts on: a live job on that pull
            # would find no free slot.
            await self._withdraw(self._waiting)
        if self._resting and self._waiting.open:
            # It begins anew after its rest: by then what it found is old.
            self._batch_probe_empty = False
        elif now >= self._batch_probe.not_before:
            await self._probe_batch()
        if now >= self._waiting.not_before and (more := self._jobs_to_ask_for()):
            await self._send(self._waiting, self._live_subject, pull_for(more, PULL_LIFE_S), more)

    def _jobs_to_ask_for(self) -> int:
        """How many jobs the next waiting pull asks for; 0 while enough are asked for."""
        free = min(self._slots - len(self._running) - 1, MAX_WAITING_JOBS)
        asked = self._waiting.open
        return free - asked if asked < free and asked <= free // 2 else 0

    def _slots_changed(self) -> None:
        """Has the pulls looked at where a job that came or ended makes a difference to them."""
        running, asked, slots = len(self._running), self._waiting.open, self._slots
        probe_due = running < slots and not self._batch_probe.open and not (self._resting and asked)
        if probe_due or running + asked > slots or self._jobs_to_ask_for():
            self._wake.set()

    def _end_rest(self) -> None:
        self._resting = False
        self._wake.set()

    async def _probe_batch(self) -> None:
        """Sends the batch probe's next pull, if it is due."""
        if self._batch_probe_empty:
            self._batch_probe_empty = False
            self._step = NEXT_STEP[self._step]
            if self._step is Step.LIVE_SOON and self._waiting.open >= MANY_WAITING_JOBS:
                if not self._resting:
                    self._resting = True
                    asyncio.get_running_loop().call_later(BATCH_PROBE_LIFE_S, self._end_rest)
            elif self._step is not Step.LIVE_SOON or len(self._running) + self._waiting.open < self._slots:
                await self._send_batch_probe()
        elif not self._batch_probe.open and len(self._running) < self._slots:
            # Where waiting pulls hold every free slot, no live job is queued, so only a batch job is looked for.
            covered = len(self._running) + self._waiting.open >= self._slots
            self._step = Step.BATCH_NOW if covered else Step.LIVE_NOW
            await self._send_batch_probe()

    async def _send_batch_probe(self) -> None:
        subject = self._batch_subject if self._step is Step.BATCH_NOW else self._live_subject
        await self._send(self._batch_probe, subject, PULL_SOON if self._step is Step.LIVE_SOON else PULL_NOW)

    async def _send(self, inbox: Inbox, subject: str, body: bytes, jobs: int = 1) -> None:
        inbox.open += jobs
        inbox.asked_at = time.monotonic()
        try:
            await self._bus.publish(subject, body, reply=inbox.subject)
        except BusError:
            inbox.open -= jobs

    def _arrived(self, inbox: Inbox, subject: str, message: Msg) -> None:
        current = subject == inbox.subject
        status = status_of(message)
        if current:
            self._note_ended(inbox, 1 if status is None or inbox is self._batch_probe else unfilled(message))
        served = status is None or not turned_away(status)
        if self._turned_away or not served:
            batch = inbox is self._batch_probe and self._step is Step.BATCH_NOW
            self._note_served(self._batch_subject if batch else self._live_subject, served=served)
        if status is not None:
            self._batch_probe_empty = self._batch_probe_empty or (current and inbox is self._batch_probe)
            if not served:
                loop = asyncio.get_running_loop()
                inbox.not_before = time.monotonic() + TROUBLE_PAUSE_S
                loop.call_later(TROUBLE_PAUSE_S, self._wake.set)
            else:
                self._wake.set()
            return
        if self._stopping or len(self._running) >= self._slots:
            # An answer to a pull that was thought lost, or one that crossed with the stop.
            self._give_back(message)
            return
        self._start(message)

    def _note_ended(self, inbox: Inbox, jobs: int | None) -> None:
        """Takes note that so many jobs came on a pull or will not come; None where that is not known."""
        if jobs is None:
            self._miscounted = True
        else:
            inbox.open = max(0, inbox.open - jobs)

    def _start(self, message: Msg) -> None:
        task = asyncio.get_running_loop().create_task(self._run(message), name="job")
        self._running[task] = message
        task.add_done_callback(self._ended)
        self._slots_changed()

    def _give_back(self, message: Msg) -> None:
        self._reports.append((message, NAK))
        self._wake.set()

    def _note_served(self, subject: str, *, served: bool) -> None:
        before = self.served
        if served:
            self._turned_away.pop(subject, None)
        else:
            self._turned_away[subject] = time.monotonic()
        if self.served != before:
            self._on_change()

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._running.pop(task, None)
        self._slots_changed()

    async def _run(self, message: Msg) -> None:
        """Runs a job and tells the server what became of it."""
        attempt = 0
        try:
            if self._passes_on is not None and await self._passes_on(message):
                return
            delivery, stream_seq = place_of(message)
            attempt = delivery or 1
            await self._handle(Delivery(message.data, message.subject, attempt, stream_seq, message.headers))
            # If the ack is lost, the job is delivered again; its handler finds the end and only repeats the stored
            # steps.
            report = b"+ACK"
        except Nak as back:
            report = nak(back.delay_s)
        except Superseded:
            log.info("job_superseded", extra={"subject": message.subject, "attempt": attempt})
            return
        except Exception:
            log.exception("job_failed", extra={"subject": message.subject, "attempt": attempt})
            report = nak(ERROR_DELAY_S)
        except asyncio.CancelledError:
            # Whoever cancelled it reports.
            self._reports.append((message, NAK))
            raise
        await self._tell(message, report)
        if self._stopping:
            await self._report()

    async def _report(self) -> None:
        reports, self._reports = self._reports, []
        for message, report in reports:
            await self._tell(message, report)

    async def _tell(self, message: Msg, word: bytes) -> None:
        try:
            await self._bus.publish(message.reply, word)
        except BusError:
            log.warning("job_report_failed", extra={"subject": message.subject})

    async def _heartbeats(self) -> None:
        while True:
            await asyncio.sleep(HEARTBEAT_S)
            for message in list(self._running.values()):
                await self._tell(message, b"+WPI")
