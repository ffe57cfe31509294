"""Usage events from the stream USAGE, pulled in batches and settled many at once."""

import asyncio
import json
import logging
from collections.abc import Callable

from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from callboard_contracts.quota import UsageEvent, usage_event_of
from callboard_contracts.streams import NANOSECONDS_PER_S, SETTLEMENT, USAGE
from callboard_kit.background_tasks import BackgroundTasks
from callboard_kit.bus import Bus, BusError
from callboard_kit.lifecycle import is_set_within
from callboard_kit.pull import TROUBLE_PAUSE_S, status_of, turned_away
from callboard_quota.domain.limit_kinds import LIMIT_KINDS
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
"""Events within this time are settled together, which costs the bus and other decisions less."""
STORE_RETRY_S = 0.5
FAILURE_RETRY_S = 10.0
ACK = b"+ACK"
NAK = b"-NAK"
TERM = b"+TERM"


class UsageFeed:
    """Pulls usage events in batches and settles each in a task; an event is acknowledged once its effect is stored.

    While `may_settle` is false it takes none, and hands back those that arrive.
    """

    def __init__(self, bus: Bus, settler: Settler, may_settle: Callable[[], bool] = lambda: True) -> None:
        self._bus = bus
        self._may_settle = may_settle
        self._settler = settler
        self._awaited = {kind.metric.name for kind in LIMIT_KINDS.values() if kind.waits}
        self._running = BackgroundTasks(self._ended)
        self._gathered: list[tuple[Msg, UsageEvent]] = []
        self._requested = 0
        self._requested_at = 0.0
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
                await self._pull()
                self._wake.clear()
                await is_set_within(self._wake, CHECK_INTERVAL_S)
        finally:
            self._stopping = True
            await self._close_inbox()

    async def drain(self, timeout_s: float) -> None:
        """Takes no more events and waits for those that are being settled; what is cut off is delivered again."""
        self._stopping = True
        await self._close_inbox()
        self._settle_gathered()
        await self._running.close(timeout_s)

    def _forget_pulls(self) -> None:
        self._lost = True
        self._not_before = 0.0
        self._wake.set()

    async def _pull(self) -> None:
        now = asyncio.get_running_loop().time()
        if self._stopping or now < self._not_before or not self._bus.connected or not self._may_settle():
            return
        if self._lost or (self._requested and now - self._requested_at > LOST_PULL_S):
            await self._open_inbox()
        open_count = self._requested + len(self._running) + len(self._gathered)
        if self._requested < BATCH // 2 and open_count < MAX_RUNNING:
            body = json.dumps({"batch": BATCH, "expires": int(PULL_LIFE_S * NANOSECONDS_PER_S)}).encode()
            try:
                await self._bus.publish(PULL_SUBJECT, body, reply=self._inbox)
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
        if inbox == self._inbox:
            self._requested = max(0, self._requested - 1)
        if self._requested < BATCH // 2:
            self._wake.set()
        event = usage_event_of(message.subject, message.data)
        if self._stopping:
            self._running.start(self._answer(message, NAK), "return")
        elif not self._may_settle():
            self._running.start(self._answer(message, _nak(FAILURE_RETRY_S)), "return")
        elif event is None:
            self._running.start(self._refuse(message), "refuse")
        elif event.hold and any(entry.metric in self._awaited for entry in event.hold.entries):
            # A request may be waiting for the end of this hold.
            self._running.start(self._settle(message, event), "settle")
        else:
            self._gathered.append((message, event))
            if len(self._gathered) == 1:
                asyncio.get_running_loop().call_later(GATHER_S, self._settle_gathered)

    def _settle_gathered(self) -> None:
        gathered, self._gathered = self._gathered, []
        for message, event in gathered:
            self._running.start(self._settle(message, event), "settle")

    def _ended(self) -> None:
        if self._requested < BATCH // 2:
            self._wake.set()

    async def _refuse(self, message: Msg) -> None:
        SETTLEMENTS.labels("unreadable").inc()
        log.warning("usage_unreadable", extra={"seq": message.metadata.sequence.stream})
        await self._answer(message, TERM)

    async def _settle(self, message: Msg, event: UsageEvent) -> None:
        stored_at = message.metadata.timestamp.timestamp()
        try:
            result = await self._settler.settle(event, stored_at)
        except StoreUnavailable:
            STORE_FAILURES.labels("settle").inc()
            await self._answer(message, _nak(STORE_RETRY_S))
        except Exception:
            log.exception("settlement_failed", extra={"request_id": event.request_id})
            await self._answer(message, _nak(FAILURE_RETRY_S))
        else:
            SETTLEMENT_LAG_SECONDS.observe(max(0.0, self._bus.clock.now() - stored_at))
            log.debug("usage_settled", extra={"request_id": event.request_id, "result": result})
            await self._answer(message, ACK)

    async def _answer(self, message: Msg, answer: bytes) -> None:
        try:
            await self._bus.publish(message.reply, answer)
        except BusError:
            log.warning("usage_ack_failed")


def _nak(delay_s: float) -> bytes:
    return b"-NAK " + json.dumps({"delay": int(delay_s * NANOSECONDS_PER_S)}).encode()
