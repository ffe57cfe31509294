"""The journal of decisions, over a publisher that a test delays."""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from typing import cast

import pytest

from callboard_contracts.quota import AuditEvent
from callboard_quota.backends.acknowledged import AcknowledgedPublisher, Outgoing
from callboard_quota.backends.audit import AuditJournal
from callboard_quota.domain.ports import Applied, StoreUnavailable

pytestmark = pytest.mark.unit


class SlowPublisher:
    """Records each batch, and confirms it once it is released."""

    def __init__(self, *troubles: Exception) -> None:
        self.batches: list[list[str]] = []
        self.sizes_when_done: list[int] = []
        self.released = asyncio.Event()
        self._troubles = list(troubles)

    async def publish(self, messages: Sequence[Outgoing], timeout_s: float) -> list[Applied]:
        assert timeout_s > 0
        self.batches.append([message.subject for message in messages])
        await self.released.wait()
        self.sizes_when_done.append(len(messages))
        if self._troubles:
            raise self._troubles.pop(0)
        return []


def event(name: str) -> AuditEvent:
    return AuditEvent(kind="admitted", request_id=name, tenant="k_a", at=1.0)


async def drained(publisher: SlowPublisher, journal: AuditJournal, timeout_s: float = 5.0) -> None:
    running = asyncio.ensure_future(journal.run())
    try:
        journal.record(event("first"))
        async with asyncio.timeout(20):
            while not publisher.batches:
                await asyncio.sleep(0.01)
        journal.record(event("second"))
        draining = asyncio.ensure_future(journal.drain(timeout_s))
        await asyncio.sleep(0.05)
        assert publisher.batches == [["audit.first"]]
        publisher.released.set()
        await draining
    finally:
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running


async def test_what_is_recorded_while_a_batch_is_in_flight_goes_out_after_it(caplog: pytest.LogCaptureFixture) -> None:
    publisher = SlowPublisher()
    losses: list[None] = []
    journal = AuditJournal(cast("AcknowledgedPublisher", publisher), lambda _event: None, lambda: losses.append(None))
    await drained(publisher, journal)
    assert publisher.batches == [["audit.first"], ["audit.second"]]
    assert publisher.sizes_when_done == [1, 1]
    assert losses == []
    assert "audit_not_drained" not in caplog.text


async def test_payment_can_be_read_by_the_volunteer_it_is_for_too() -> None:
    publisher = SlowPublisher()
    publisher.released.set()
    journal = AuditJournal(cast("AcknowledgedPublisher", publisher), lambda _event: None, pytest.fail)
    running = asyncio.ensure_future(journal.run())
    journal.record(event("reward-r").model_copy(update={"worker": "barn"}))
    journal.record(event("not an id"))
    await journal.drain(5.0)
    running.cancel()
    assert publisher.batches == [["audit.reward-r", "audit.barn"]]


async def test_batch_that_was_not_confirmed_goes_out_again() -> None:
    publisher = SlowPublisher(StoreUnavailable("slow"), StoreUnavailable("slow"))
    journal = AuditJournal(cast("AcknowledgedPublisher", publisher), lambda _event: None, pytest.fail)
    await drained(publisher, journal)
    assert publisher.batches == [["audit.first"]] * 3 + [["audit.second"]]


async def test_drain_gives_up_in_time(caplog: pytest.LogCaptureFixture) -> None:
    publisher = SlowPublisher()
    journal = AuditJournal(cast("AcknowledgedPublisher", publisher), lambda _event: None, pytest.fail)
    running = asyncio.ensure_future(journal.run())
    journal.record(event("stuck"))
    await journal.drain(0.2)
    assert "audit_not_drained" in caplog.text
    running.cancel()
    with suppress(asyncio.CancelledError):
        await running
