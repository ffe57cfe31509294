"""The messages of a durable consumer, pulled in batches."""

import asyncio
import json
import logging
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable

from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from callboard_contracts.streams import NANOSECONDS_PER_S
from callboard_kit import tracing
from callboard_kit.background_tasks import BackgroundTasks
from callboard_kit.bus import Bus, BusError
from callboard_kit.lifecycle import is_set_within
from callboard_kit.pull import TROUBLE_PAUSE_S, status_of, turned_away

log = logging.getLogger(__name__)

BATCH = 128
MAX_RUNNING = 512
PULL_LIFE_S = 10.0
LOST_PULL_S = PULL_LIFE_S + 2.0
"""A pull that has neither been filled nor ended after this long was lost, as on a server restart."""
CHECK_INTERVAL_S = 1.0
FAILURE_RETRY_S = 10.0
ACK = b"+ACK"
NAK = b"-NAK"
TERM = b"+TERM"


def nak(delay_s: float) -> bytes:
    """The answer that has a message delivered again after a delay."""
    return b"-NAK " + json.dumps({"delay": int(delay_s * NANOSECONDS_PER_S)}).encode()


FAILED = nak(FAILURE_RETRY_S)


class PulledFeed(ABC):
    """Pulls messages, of which a subclass says what becomes of them.

    While `may_take` is false it pulls none. It begins no pull while `max_running` are being handled.
    """

    def __init__(
        self,
        bus: Bus,
        stream: str,
        consumer: str,
        may_take: Callable[[], bool] = lambda: True,
        max_running: int = MAX_RUNNING,
    ) -> None:
        self._bus = bus
        self._pull_subject = f"$JS.API.CONSUMER.MSG.NEXT.{stream}.{consumer}"
        self._span = f"process {stream}"
        self._may_take = may_take
        self._max_running = max_running
        self._running = BackgroundTasks(self._ended)
        self._requested = 0
        self._requested_at = 0.0
        self._inbox = ""
        self._subscription: Subscription | None = None
        self._lost = True
        self._not_before = 0.0
        self._stopping = False
        self._wake = asyncio.Event()
        bus.on_reconnect(self._forget_pulls)

    def handling(self) -> int:
        """How many messages are being handled."""
        return len(self._running)

    async def run(self) -> None:
        """Takes messages until cancelled."""
        try:
            while True:
                await self._pull()
                self._wake.clear()
                await is_set_within(self._wake, CHECK_INTERVAL_S)
        finally:
            self._stopping = True
            await self._close_inbox()

    async def drain(self, timeout_s: float) -> None:
        """Takes no more messages and waits for those that are being handled; what is cut off is delivered again."""
        self._stopping = True
        await self._close_inbox()
        await self._running.close(timeout_s)

    def _forget_pulls(self) -> None:
        self._lost = True
        self._not_before = 0.0
        self._wake.set()

    async def _pull(self) -> None:
        now = asyncio.get_running_loop().time()
        if self._stopping or now < self._not_before or not self._bus.connected or not self._may_take():
            return
        if self._lost or (self._requested and now - self._requested_at > LOST_PULL_S):
            await self._open_inbox()
        if self._requested < BATCH // 2 and self._requested + self.handling() < self._max_running:
            body = json.dumps({"batch": BATCH, "expires": int(PULL_LIFE_S * NANOSECONDS_PER_S)}).encode()
            try:
                await self._bus.publish(self._pull_subject, body, reply=self._inbox)
            except BusError:
                return
            self._requested += BATCH
            self._requested_at = now

    async def _open_inbox(self) -> None:
        await self._close_inbox()
        inbox = self._inbox = self._bus.connection.new_inbox()
        self._requested = 0
        self._subscription = await self._bus.subscribe_now(inbox, lambda message: self._arrived(inbox, message))
        self._lost = False

    async def _close_inbox(self) -> None:
        if self._subscription:
            subscription, self._subscription = self._subscription, None
            await self._bus.unsubscribe(subscription)

    def _arrived(self, inbox: str, message: Msg) -> None:
        status = status_of(message)
        if status is not None:
            if inbox == self._inbox:
                unfilled = int((message.headers or {}).get("Nats-Pending-Messages", BATCH))
                self._requested = max(0, self._requested - unfilled)
            if turned_away(status):
                loop = asyncio.get_running_loop()
                self._not_before = loop.time() + TROUBLE_PAUSE_S
                loop.call_later(TROUBLE_PAUSE_S, self._wake.set)
            else:
                self._wake.set()
            return
        if inbox == self._inbox and self._requested > 0:
            self._requested -= 1
        if self._requested < BATCH // 2:
            self._wake.set()
        self._begin(message)

    @abstractmethod
    def _begin(self, message: Msg) -> None:
        """Begins to handle a message, in a task of `_running`; what comes while `_stopping` is handed back."""

    def _ended(self) -> None:
        if self._requested < BATCH // 2:
            self._wake.set()


class Feed(PulledFeed):
    """Hands each message to `handle`, in a task, whose return value is the server's answer; an error is a nak.

    What arrives while `may_take` is false is handed back.
    """

    def __init__(
        self,
        bus: Bus,
        stream: str,
        consumer: str,
        handle: Callable[[Msg], Awaitable[bytes]],
        may_take: Callable[[], bool] = lambda: True,
        max_running: int = MAX_RUNNING,
    ) -> None:
        super().__init__(bus, stream, consumer, may_take, max_running)
        self._handle = handle

    def _begin(self, message: Msg) -> None:
        self._running.start(self._take(message), "message")

    async def _take(self, message: Msg) -> None:
        answer = NAK if self._stopping else FAILED
        if not self._stopping and self._may_take():
            try:
                answer = await tracing.traced(self._handle(message), self._span, "consumer", message.headers)
            except Exception:
                log.exception("message_failed", extra={"subject": message.subject})
        try:
            self._bus.send(message.reply, answer)
        except BusError:
            log.warning("message_not_answered", extra={"subject": message.subject})
