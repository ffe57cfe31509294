"""Usage events from the stream USAGE, settled many at once."""

import asyncio
import logging
from collections.abc import Callable

from nats.aio.msg import Msg

from callboard_contracts.quota import UsageEvent, usage_event_of
from callboard_contracts.streams import SETTLEMENT, USAGE
from callboard_kit.bus import Bus, BusUnavailable
from callboard_kit.feed import ACK, FAILED, TERM, Feed, nak
from callboard_kit.pull import stored_at
from callboard_quota.domain.limit_kinds import LIMIT_KINDS
from callboard_quota.domain.ports import StoreUnavailable
from callboard_quota.domain.settlement import Settler
from callboard_quota.metrics import SETTLEMENT_LAG_SECONDS, SETTLEMENTS, STORE_FAILURES

log = logging.getLogger(__name__)

GATHER_S = 0.02
"""Events within this time are settled together, which costs the bus and other decisions less."""
POSTPONED = nak(0.5)
"""How an event is answered that the store did not take."""


class UsageFeed(Feed):
    """Settles each usage event; it is acknowledged once its effect is stored.

    While `may_settle` is false it takes none, and hands back those that arrive.
    """

    def __init__(self, bus: Bus, settler: Settler, may_settle: Callable[[], bool] = lambda: True) -> None:
        super().__init__(bus, USAGE, SETTLEMENT, self._settle, may_settle)
        self._clock = bus.clock
        self._settler = settler
        self._loop = asyncio.get_running_loop()
        self._awaited = {kind.metric.name for kind in LIMIT_KINDS.values() if kind.waits}
        self._gathered = asyncio.Event()
        self._gathered.set()

    async def _settle(self, message: Msg) -> bytes:
        event = usage_event_of(message.subject, message.data)
        if event is None:
            SETTLEMENTS.labels("unreadable").inc()
            log.warning("usage_unreadable", extra={"seq": message.metadata.sequence.stream})
            return TERM
        if not self._is_awaited(event):
            await self._gather()
        at = stored_at(message)
        try:
            # The source of all counters must not be lost after what follows from it.
            await self._bus.on_disk(USAGE)
            result = await self._settler.settle(event, at)
        except (StoreUnavailable, BusUnavailable):
            STORE_FAILURES.labels("settle").inc()
            return POSTPONED
        except Exception:
            log.exception("settlement_failed", extra={"request_id": event.request_id})
            return FAILED
        SETTLEMENT_LAG_SECONDS.observe(max(0.0, self._clock.now() - at))
        log.debug("usage_settled", extra={"request_id": event.request_id, "result": result})
        return ACK

    def _is_awaited(self, event: UsageEvent) -> bool:
        """Whether a request may be waiting for the end of the event's hold."""
        return event.hold is not None and not self._awaited.isdisjoint([entry.metric for entry in event.hold.entries])

    async def _gather(self) -> None:
        if self._gathered.is_set():
            self._gathered = asyncio.Event()
            self._loop.call_later(GATHER_S, self._gathered.set)
        await self._gathered.wait()
