"""The journal on the bus: every decision becomes an event under its request's id, and a metric."""

import asyncio
import itertools
import logging
import secrets
from collections.abc import Callable, Sequence

from callboard_contracts import subjects
from callboard_contracts.headers import MSG_ID
from callboard_contracts.quota import AuditEvent
from callboard_quota.backends.acknowledged import AcknowledgedPublisher, Outgoing
from callboard_quota.domain.ports import StoreUnavailable

log = logging.getLogger(__name__)

MAX_WAITING = 50_000
BATCH = 256
TIMEOUT_S = 10.0
GATHER_S = 0.02
"""Events within this time are published together, which costs the bus and other decisions less."""
ID_BYTES = 8


class AuditJournal:
    """Publishes events in the background, in order; `on_events` and `on_loss` feed the metrics."""

    def __init__(
        self,
        publisher: AcknowledgedPublisher,
        on_events: Callable[[Sequence[AuditEvent]], None],
        on_loss: Callable[[], None],
    ) -> None:
        self._publisher = publisher
        self._on_events = on_events
        self._on_loss = on_loss
        self._process, self._numbers = secrets.token_hex(ID_BYTES), itertools.count(1)
        """What the ids of messages are made of, which only tell one from its repeats."""
        self._waiting: list[AuditEvent] = []
        """What is recorded and not published yet."""
        self._some_waiting, self._none_waiting = asyncio.Event(), asyncio.Event()
        self._none_waiting.set()

    def record(self, event: AuditEvent) -> None:
        """Records an event without waiting; it is lost, and counted as lost, only when 50,000 wait already."""
        self._on_events([event])
        if not self._waiting:
            self._some_waiting.set()
            self._none_waiting.clear()
        elif len(self._waiting) >= MAX_WAITING:
            self._on_loss()
            return
        self._waiting.append(event)

    def count(self, events: Sequence[AuditEvent]) -> None:
        """Counts events that the ledger's store has recorded already."""
        self._on_events(events)

    async def run(self) -> None:
        """Publishes recorded events until cancelled."""
        while True:
            await self._some_waiting.wait()
            await asyncio.sleep(GATHER_S)
            events = self._waiting[:BATCH]
            await self._publish([message for event in events for message in self._outgoing(event)])
            del self._waiting[: len(events)]
            if not self._waiting:
                self._some_waiting.clear()
                self._none_waiting.set()

    async def drain(self, timeout_s: float) -> None:
        """Waits until what is recorded by now is published, within a time; `run` goes on meanwhile."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._none_waiting.wait()
        except TimeoutError:
            log.warning("audit_not_drained", extra={"waiting": len(self._waiting)})

    async def _publish(self, batch: list[Outgoing]) -> None:
        while batch:
            try:
                await self._publisher.publish(batch, TIMEOUT_S)
            except StoreUnavailable:
                log.warning("audit_delayed", extra={"events": len(batch)})
            else:
                return

    def _outgoing(self, event: AuditEvent) -> list[Outgoing]:
        data, messages = event.whole(), list[Outgoing]()
        for of in (event.request_id, event.worker) if event.worker else (event.request_id,):
            try:
                subject = subjects.audit(of)
            except ValueError:
                continue  # An id may be a client's and name no request.
            messages.append(Outgoing(subject, data, {MSG_ID: f"{self._process}-{next(self._numbers)}"}))
        return messages
