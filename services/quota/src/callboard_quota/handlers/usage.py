"""Usage events from the stream USAGE, settled as they come, many at once."""

import asyncio
import json
import logging
import time
from collections.abc import Coroutine
from typing import Any

import nats.errors
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from callboard_contracts.quota import UsageEvent, usage_event_of
from callboard_contracts.streams import NANOSECONDS_PER_S, SETTLEMENT, USAGE
from callboard_kit.bus import Bus, BusError
from callboard_kit.lifecycle import is_set_within
from callboard_kit.pull import TROUBLE_PAUSE_S, status_of, turned_away
from callboard_quota.domain.ports import StoreUnavailable
from callboard_quota.domain.settlement import Settler
from callboard_quota.metrics import SETTLEMENT_LAG_SECONDS, SETTLEMENTS, STORE_FAILURES

log = logging.getLogger(__name__)

PULL_SUBJECT = f"$JS.API.CONSUMER.MSG.NEXT.{USAGE}.{SETTLEMENT}"
BATCH = 128
MAX_RUNNING = 512
PULL_LIFE_S = 10.0
LOST_PULL_S = PULL_LIFE_S + 2.0
"""A pull that has neither been filled nor ended after this long was lost, as on a server restart."""
CHECK_INTERVAL_S = 1.0
GATHER_S = 0.02
"""Events that come within this time are settled together, which costs the bus and the decisions of others far less."""
RETURN_DELAY_S = 0.5
SHORT_REPLY_TOKENS = 9
ACK = b"+ACK"
RETURN = b"-NAK"
STOP_DELIVERY = b"+TERM"


def stored_at(reply: str) -> float:
    """When a delivered message was stored, in Unix seconds, from the subject that it is acknowledged on.

    `$JS.ACK.<stream>.<consumer>.<delivered>.<stream seq>.<consumer seq>.<time>.<pending>`, or the longer form with a
    domain and an account before the stream and, at times, one more token at the end.
    """
    tokens = reply.split(".")
    return int(tokens[7 if len(tokens) == SHORT_REPLY_TOKENS else 9]) / NANOSECONDS_PER_S


class UsageFeed:
    """Pulls usage events in batches and settles each in a task; an event is acknowledged once its effect is stored."""

    def __init__(self, bus: Bus, settler: Settler) -> None:
        self._bus = bus
        self._settler = settler
        self._running: set[asyncio.Task[None]] = set()
        self._gathered: list[tuple[Msg, UsageEvent]] = []
        self._asked = 0
        self._asked_at = 0.0
        self._inbox = ""
        self._subscription: Subscription | None = None
        self._lost = True
        self._not_before = 0.0
        self._stopping = False
        self._wake = asyncio.Event()
        bus.on_reconnect(self._forget_pulls)

    async def run(self) -> None:
        """Settles until cancelled."""
        try:
            while True:
                await self._ask()
                self._wake.clear()
                await is_set_within(self._wake, CHECK_INTERVAL_S)
        finally:
            self._stopping = True
            if self._subscription:
                await self._close_inbox(self._subscription)
                self._subscription = None

    async def drain(self, timeout_s: float) -> None:
        """Takes no more events and waits for those that are being settled; what is cut off is delivered again."""
        self._stopping = True
        if self._subscription:
            await self._close_inbox(self._subscription)
        self._settle_gathered()
        if self._running:
            await asyncio.wait(set(self._running), timeout=timeout_s)
        for task in self._running:
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)

    def _forget_pulls(self) -> None:
        self._lost = True
        self._not_before = 0.0
        self._wake.set()

    async def _ask(self) -> None:
        now = asyncio.get_running_loop().time()
        if self._stopping or now < self._not_before or not self._bus.connected:
            return
        if self._lost or (self._asked and now - self._asked_at > LOST_PULL_S):
            await self._open_inbox()
        if self._asked < BATCH // 2 and self._asked + len(self._running) + len(self._gathered) < MAX_RUNNING:
            body = json.dumps({"batch": BATCH, "expires": int(PULL_LIFE_S * NANOSECONDS_PER_S)}).encode()
            try:
                await self._bus.publish(PULL_SUBJECT, body, reply=self._inbox)
            except BusError:
                return
            self._asked += BATCH
            self._asked_at = now

    async def _open_inbox(self) -> None:
        if self._subscription:
            await self._close_inbox(self._subscription)
        inbox = self._bus.connection.new_inbox()

        def arrived(message: Msg) -> None:
            self._arrived(inbox, message)

        self._inbox = inbox
        self._asked = 0
        self._subscription = await self._bus.subscribe_now(inbox, arrived)
        self._lost = False

    async def _close_inbox(self, subscription: Subscription) -> None:
        if not self._bus.connection.is_closed:
            try:
                await subscription.unsubscribe()
            except nats.errors.Error:
                log.debug("unsubscribe_failed")

    def _arrived(self, inbox: str, message: Msg) -> None:
        status = status_of(message)
        if status is not None:
            if inbox == self._inbox:
                self._asked = max(0, self._asked - int((message.headers or {}).get("Nats-Pending-Messages", BATCH)))
            if turned_away(status):
                loop = asyncio.get_running_loop()
                self._not_before = loop.time() + TROUBLE_PAUSE_S
                loop.call_later(TROUBLE_PAUSE_S, self._wake.set)
            else:
                self._wake.set()
            return
        if inbox == self._inbox:
            self._asked = max(0, self._asked - 1)
        if self._stopping:
            self._start(self._answer(message, RETURN))
            return
        event = usage_event_of(message.subject, message.data)
        if event is None:
            self._start(self._refuse(message))
            return
        if event.hold and any(entry.metric == "jobs" for entry in event.hold.entries):
            # Somebody may be waiting for the place that this frees.
            self._start(self._settle(message, event))
            return
        self._gathered.append((message, event))
        if len(self._gathered) == 1:
            asyncio.get_running_loop().call_later(GATHER_S, self._settle_gathered)

    def _settle_gathered(self) -> None:
        gathered, self._gathered = self._gathered, []
        for message, event in gathered:
            self._start(self._settle(message, event))

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work, name="settle")
        self._running.add(task)
        task.add_done_callback(self._ended)
        if self._asked < BATCH // 2:
            self._wake.set()

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        if self._asked < BATCH // 2:
            self._wake.set()

    async def _refuse(self, message: Msg) -> None:
        SETTLEMENTS.labels("unreadable").inc()
        log.warning("usage_unreadable", extra={"seq": message.metadata.sequence.stream})
        await self._answer(message, STOP_DELIVERY)

    async def _settle(self, message: Msg, event: UsageEvent) -> None:
        try:
            word = await self._settler.settle(event, stored_at(message.reply))
        except StoreUnavailable:
            STORE_FAILURES.labels("settle").inc()
            await self._answer(message, b'-NAK {"delay": %d}' % int(RETURN_DELAY_S * NANOSECONDS_PER_S))
            return
        except Exception:
            log.exception("settlement_failed", extra={"request_id": event.request_id})
            await self._answer(message, b'-NAK {"delay": %d}' % (10 * NANOSECONDS_PER_S))
            return
        SETTLEMENT_LAG_SECONDS.observe(max(0.0, time.time() - stored_at(message.reply)))
        log.debug("usage_settled", extra={"request_id": event.request_id, "result": word})
        await self._answer(message, ACK)

    async def _answer(self, message: Msg, answer: bytes) -> None:
        try:
            await self._bus.publish(message.reply, answer)
        except BusError:
            log.warning("usage_ack_failed")
