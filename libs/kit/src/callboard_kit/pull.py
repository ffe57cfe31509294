"""The pull loop: one job for each free slot, live jobs first, a heartbeat while they run.

One inbox for each class of job. Every pull asks for exactly one message, so a worker never holds a job that it cannot
start. A single pull stands open for the batch class; should a batch job and a live job arrive for the same last slot,
the later one goes straight back.
"""

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from callboard_contracts.streams import ACK_WAIT_S, MAX_DELIVERIES, NANOSECONDS_PER_S
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from callboard_kit.bus import Bus, BusError

log = logging.getLogger(__name__)

PULL_LIFE_S = 20.0
LOST_PULL_S = PULL_LIFE_S + 5.0
"""A pull that has neither been filled nor ended after this long was lost, as on a server restart."""
HEARTBEAT_S = ACK_WAIT_S / 3
ACK_TIMEOUT_S = 5.0
ERROR_DELAY_S = 1.0
RETURN_DELAY_S = 0.05
CHECK_INTERVAL_S = 1.0


class GiveBack(Exception):  # noqa: N818 - an instruction, not a failure
    """Raised by a handler to hand its job to another worker after a delay in seconds."""

    def __init__(self, delay_s: float = RETURN_DELAY_S) -> None:
        super().__init__(f"given back for {delay_s} s")
        self.delay_s = delay_s


class Superseded(Exception):  # noqa: N818 - a state, not a failure
    """Raised by a handler when another worker owns the job now; it is neither acknowledged nor given back."""


@dataclass(frozen=True, slots=True)
class Delivery:
    """One job as it was handed out; `attempt` counts from 1."""

    data: bytes
    subject: str
    attempt: int
    stream_seq: int

    @property
    def last_attempt(self) -> bool:
        """Whether the bus will not hand the job out again."""
        return self.attempt >= MAX_DELIVERIES


Handler = Callable[[Delivery], Awaitable[None]]


class _Lane:
    """The pulls that stand open for one class of job."""

    def __init__(self, stream: str, consumer: str) -> None:
        self.subject = f"$JS.API.CONSUMER.MSG.NEXT.{stream}.{consumer}"
        self.inbox = ""
        self.subscription: Subscription | None = None
        self.open = 0
        self.renewed_at = 0.0


class PullLoop:
    """Takes jobs from a work queue and runs each in a task of its own, at most `slots` at once."""

    def __init__(
        self,
        bus: Bus,
        stream: str,
        live: str,
        batch: str,
        slots: int,
        handle: Handler,
        on_change: Callable[[int], None] = lambda _running: None,
    ) -> None:
        self._bus = bus
        self._lanes = (_Lane(stream, live), _Lane(stream, batch))
        self._slots = slots
        self._handle = handle
        self._on_change = on_change
        self._running: dict[asyncio.Task[None], Msg] = {}
        self._wake = asyncio.Event()
        self._lost = False
        self._stopping = False
        bus.on_reconnect(self._forget_pulls)

    @property
    def running(self) -> int:
        """How many jobs run at this moment."""
        return len(self._running)

    async def run(self, stopping: Callable[[], Awaitable[None]]) -> None:
        """Takes jobs until `stopping` returns; jobs that run then are left to `drain`.

        Raises:
            BusUnavailable: the connection ended for good.
        """
        stop = asyncio.ensure_future(stopping())
        heart = asyncio.ensure_future(self._heartbeats())
        for task in (stop, heart):
            task.add_done_callback(lambda _task: self._wake.set())
        try:
            await self._open_lanes()
            while not stop.done():
                await self._ask()
                self._wake.clear()
                try:
                    async with asyncio.timeout(CHECK_INTERVAL_S):
                        await self._wake.wait()
                except TimeoutError:
                    pass
                if heart.done():
                    heart.result()
        finally:
            self._stopping = True
            stop.cancel()
            heart.cancel()
            await asyncio.gather(stop, heart, return_exceptions=True)
            await self._close_lanes()

    async def drain(self, timeout_s: float) -> None:
        """Waits for the jobs that run; at the timeout they are cancelled and given back."""
        self._stopping = True
        heart = asyncio.ensure_future(self._heartbeats())
        try:
            if self._running:
                await asyncio.wait(set(self._running), timeout=timeout_s)
            for task in list(self._running):
                task.cancel()
            if self._running:
                await asyncio.wait(set(self._running), timeout=ACK_TIMEOUT_S)
        finally:
            heart.cancel()
            await asyncio.gather(heart, return_exceptions=True)

    async def _open_lanes(self) -> None:
        for lane in self._lanes:
            lane.inbox = self._bus.connection.new_inbox()
            lane.open = 0

            async def arrived(message: Msg, lane: _Lane = lane, inbox: str = lane.inbox) -> None:
                await self._arrived(lane, inbox, message)

            lane.subscription = await self._bus.subscribe(lane.inbox, arrived)
        self._lost = False

    async def _close_lanes(self) -> None:
        for lane in self._lanes:
            if lane.subscription:
                await self._bus.unsubscribe(lane.subscription)

    def _forget_pulls(self) -> None:
        self._lost = True
        self._wake.set()

    async def _ask(self) -> None:
        """Opens as many pulls as there are free slots, and one for the batch class."""
        if not self._bus.connected:
            return
        now = asyncio.get_running_loop().time()
        if self._lost or any(lane.open and now - lane.renewed_at > LOST_PULL_S for lane in self._lanes):
            await self._close_lanes()
            await self._open_lanes()
        free = self._slots - len(self._running)
        live, batch = self._lanes
        for lane, wanted in ((live, free), (batch, min(free, 1))):
            while lane.open < wanted:
                lane.open += 1
                lane.renewed_at = now
                body = json.dumps({"batch": 1, "expires": int(PULL_LIFE_S * NANOSECONDS_PER_S)}).encode()
                try:
                    await self._bus.publish(lane.subject, body, reply=lane.inbox)
                except BusError:
                    lane.open -= 1
                    return

    async def _arrived(self, lane: _Lane, inbox: str, message: Msg) -> None:
        if inbox == lane.inbox:
            lane.open = max(0, lane.open - 1)
        if message.headers and "Status" in message.headers:
            self._wake.set()
            return
        if self._stopping or len(self._running) >= self._slots:
            await self._nak(message, RETURN_DELAY_S)
            return
        task = asyncio.get_running_loop().create_task(self._run(message), name="job")
        self._running[task] = message
        task.add_done_callback(self._ended)
        self._on_change(len(self._running))
        if lane is self._lanes[1] or len(self._running) < self._slots:
            self._wake.set()

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._running.pop(task, None)
        self._on_change(len(self._running))
        self._wake.set()

    async def _run(self, message: Msg) -> None:
        metadata = message.metadata
        delivery = Delivery(message.data, message.subject, metadata.num_delivered or 1, metadata.sequence.stream)
        try:
            await self._handle(delivery)
        except GiveBack as back:
            await self._nak(message, back.delay_s)
        except Superseded:
            log.info("job_superseded", extra={"subject": delivery.subject, "attempt": delivery.attempt})
        except asyncio.CancelledError:
            await self._nak(message, RETURN_DELAY_S)
            raise
        except Exception:
            log.exception("job_failed", extra={"subject": delivery.subject, "attempt": delivery.attempt})
            await self._nak(message, ERROR_DELAY_S)
        else:
            await self._ack(message)

    async def _ack(self, message: Msg) -> None:
        try:
            await self._bus.request(message.reply, b"+ACK", ACK_TIMEOUT_S)
        except BusError:
            # The job comes again, finds its end frame, and only repeats its last acknowledged steps.
            log.warning("ack_failed", extra={"subject": message.subject})

    async def _nak(self, message: Msg, delay_s: float) -> None:
        delay = json.dumps({"delay": int(delay_s * NANOSECONDS_PER_S)})
        await self._tell(message, f"-NAK {delay}".encode())

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
