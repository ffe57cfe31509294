"""Usage events from the stream USAGE, settled many at once."""

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from nats.aio.msg import Msg

from callboard_contracts.quota import UsageEvent, usage_event_of
from callboard_contracts.streams import SETTLEMENT, USAGE
from callboard_kit import tracing
from callboard_kit.bus import Bus, BusError, BusUnavailable
from callboard_kit.feed import ACK, FAILED, NAK, TERM, PulledFeed, nak
from callboard_kit.pull import place_of, stored_at
from callboard_quota.domain.limit_kinds import LIMIT_KINDS
from callboard_quota.domain.ports import StoreUnavailable
from callboard_quota.domain.settlement import Settler
from callboard_quota.metrics import SETTLEMENT_LAG_SECONDS, SETTLEMENTS, STORE_FAILURES

log = logging.getLogger(__name__)

GATHER_S = 0.02
"""Events within this time are settled together, which costs the bus and other decisions less."""
MAX_TOGETHER = 128
POSTPONED = nak(0.5)
"""How an event is answered that the store did not take."""


class _Taken(NamedTuple):
    """An event that is to be settled, when it was stored, and where it is acknowledged."""

    event: UsageEvent
    stored_at: float
    reply: str


class UsageFeed(PulledFeed):
    """Settles usage events; each is acknowledged once its effect is stored.

    Most are settled together with others of the same moment. What such a batch could not settle comes again one by
    one, so that no event keeps others from being settled. While `may_settle` is false it takes none, and hands back
    those that arrive.
    """

    def __init__(self, bus: Bus, settler: Settler, may_settle: Callable[[], bool] = lambda: True) -> None:
        super().__init__(bus, USAGE, SETTLEMENT, may_settle)
        self._clock = bus.clock
        self._settler = settler
        self._awaited = {kind.metric.name for kind in LIMIT_KINDS.values() if kind.waits}
        self._batch: list[_Taken] = []
        """Events that wait for others to be settled with."""
        self._unsettled = 0

    def handling(self) -> int:
        """How many events are being settled, or wait for others."""
        return self._unsettled

    def _begin(self, message: Msg) -> None:
        if self._stopping:
            self._answer(NAK, [message.reply])
            return
        event = usage_event_of(message.subject, message.data)
        delivery, seq = place_of(message)
        if event is None:
            SETTLEMENTS.labels("unreadable").inc()
            log.warning("usage_unreadable", extra={"seq": seq})
            self._answer(TERM, [message.reply])
            return
        self._unsettled += 1
        taken = _Taken(event, stored_at(message), message.reply)
        if delivery > 1 or tracing.is_on() or self._comes_alone(event):
            self._running.start(self._settle_alone(taken, message.headers), "event")
            return
        if not self._batch or len(self._batch) == MAX_TOGETHER:
            self._batch = []
            self._running.start(self._settle_gathered(self._batch), "events")
        self._batch.append(taken)

    async def _settle_alone(self, taken: _Taken, headers: Mapping[str, str] | None) -> None:
        await tracing.traced(self._settle([taken]), self._span, "consumer", headers)

    async def _settle_gathered(self, batch: list[_Taken]) -> None:
        await asyncio.sleep(GATHER_S)
        if self._batch is batch:
            self._batch = []
        await self._settle(batch)

    async def _settle(self, batch: Sequence[_Taken]) -> None:
        try:
            answer = await self._answer_to(batch)
        finally:
            self._unsettled -= len(batch)
        self._answer(answer, [one.reply for one in batch])

    async def _answer_to(self, batch: Sequence[_Taken]) -> bytes:
        if not self._may_take():
            return FAILED
        try:
            # What all counters follow from must not be lost after they have changed.
            await self._bus.on_disk(USAGE)
            results = await self._settler.settle_all([(one.event, one.stored_at) for one in batch])
        except (StoreUnavailable, BusUnavailable):
            STORE_FAILURES.labels("settle").inc(len(batch))
            return POSTPONED
        except Exception:
            first = batch[0].event.request_id
            log.exception("settlement_failed", extra={"request_id": first, "events": len(batch)})
            return FAILED if len(batch) == 1 else POSTPONED
        now = self._clock.now()
        for one in batch:
            SETTLEMENT_LAG_SECONDS.observe(max(0.0, now - one.stored_at))
        if log.isEnabledFor(logging.DEBUG):
            for one, result in zip(batch, results, strict=True):
                log.debug("usage_settled", extra={"request_id": one.event.request_id, "result": result})
        return ACK

    def _answer(self, answer: bytes, replies: Sequence[str]) -> None:
        """Tells the server what became of events."""
        try:
            self._bus.send_all([(reply, answer, "", None) for reply in replies])
        except BusError:
            log.warning("events_not_answered", extra={"events": len(replies)})

    def _comes_alone(self, event: UsageEvent) -> bool:
        """Whether a request may be waiting for the end of the event's hold, or others would have to wait for it."""
        if event.hold is None or event.extensions or event.volunteer is not None:
            return True
        return not self._awaited.isdisjoint([entry.metric for entry in event.hold.entries])
