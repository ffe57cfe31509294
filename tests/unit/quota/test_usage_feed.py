"""Usage events that are settled together, over a bus that only keeps what is answered."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any, cast

import pytest

from callboard_contracts.quota import Hold, HoldEntry, UsageEvent
from callboard_kit.bus import Bus, BusUnavailable
from callboard_kit.feed import ACK, FAILED, NAK, TERM
from callboard_quota.domain.ports import StoreUnavailable
from callboard_quota.domain.settlement import Settler
from callboard_quota.handlers import usage
from callboard_quota.handlers.usage import POSTPONED, UsageFeed
from tests.unit.quota.interleaving import NOON, unheld

pytestmark = pytest.mark.unit


class FeedBus:
    """Delivers what a test says, and keeps the answers by the subject of each message's answer."""

    def __init__(self) -> None:
        self.connected = True
        self.connection = SimpleNamespace(new_inbox=lambda: "inbox")
        self.clock = SimpleNamespace(now=lambda: NOON)
        self.answers: dict[str, bytes] = {}
        self.pulled = asyncio.Event()
        self.disk_error: BusUnavailable | None = None
        self.disk_ready = asyncio.Event()
        self.disk_ready.set()
        self._on_message: Callable[[Any], None] = pytest.fail

    def on_reconnect(self, _callback: Any) -> None:
        return

    async def subscribe_now(self, _subject: str, on_message: Callable[[Any], None]) -> object:
        self._on_message = on_message
        return object()

    async def unsubscribe(self, _subscription: object) -> None:
        return

    async def publish(self, _subject: str, _payload: bytes, reply: str) -> None:
        assert reply == "inbox"
        self.pulled.set()

    async def on_disk(self, stream: str) -> None:
        assert stream == "USAGE"
        await self.disk_ready.wait()
        if self.disk_error is not None:
            raise self.disk_error

    def send_all(self, messages: Sequence[tuple[str, bytes, str, None]]) -> None:
        self.answers |= {subject.split(".")[5]: payload for subject, payload, _reply, _headers in messages}

    def deliver(self, event: UsageEvent | bytes, seq: int, delivery: int = 1) -> None:
        """Has the feed take an event, whose answer is kept under its number."""
        data, tenant = (event, "any") if isinstance(event, bytes) else (event.encoded(), event.tenant)
        reply = f"$JS.ACK.USAGE.quota-settlement.{delivery}.{seq}.1.{int(NOON)}000000000.0"
        message = SimpleNamespace(data=data, reply=reply, subject=f"usage.{tenant}", headers=None)
        self._on_message(message)

    async def answered(self, number: int) -> dict[str, bytes]:
        """All answers, once there are so many."""
        async with asyncio.timeout(20):
            while len(self.answers) < number:
                await asyncio.sleep(0.005)
        return self.answers


class FakeSettler(Settler):
    """Records what it is given together, and fails for the events that a test names."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.errors: dict[str, Exception] = {}

    async def settle_all(self, events: Sequence[tuple[UsageEvent, float]]) -> list[str]:
        names = [event.request_id for event, stored_at in events if stored_at == NOON]
        self.batches.append(names)
        await asyncio.sleep(0)
        for name in names:
            if name in self.errors:
                raise self.errors[name]
        return ["settled"] * len(names)


def held(name: str, metric: str = "units") -> UsageEvent:
    event = unheld(name)
    entries = (HoldEntry(tenant=event.tenant, metric=metric, bucket="h2026112012", amount=500),)
    hold = Hold(
        id=f"{name}-1",
        request_id=name,
        tenant=event.tenant,
        kind="chat",
        model="owl",
        entries=entries,
        expires_at=NOON + 60,
    )
    return event.model_copy(update={"hold": hold})


@asynccontextmanager
async def feeding(
    may_settle: Callable[[], bool] = lambda: True,
) -> AsyncGenerator[tuple[FeedBus, FakeSettler, UsageFeed]]:
    bus, settler = FeedBus(), FakeSettler()
    feed = UsageFeed(cast("Bus", bus), settler, may_settle)
    running = asyncio.ensure_future(feed.run())
    await bus.pulled.wait()
    try:
        yield bus, settler, feed
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def test_events_of_one_moment_are_settled_together() -> None:
    async with feeding() as (bus, settler, feed):
        for seq, name in enumerate("abc"):
            bus.deliver(held(name), seq)
        assert feed.handling() == 3
        assert await bus.answered(3) == dict.fromkeys("012", ACK)
        assert settler.batches == [["a", "b", "c"]]
        assert feed.handling() == 0


async def test_nothing_is_settled_before_its_event_is_on_the_disk() -> None:
    async with feeding() as (bus, settler, _feed):
        bus.disk_ready.clear()
        bus.deliver(held("a"), 0)
        await asyncio.sleep(2 * usage.GATHER_S)
        assert settler.batches == []
        bus.disk_ready.set()
        assert await bus.answered(1) == {"0": ACK}
        bus.disk_error = BusUnavailable("the disk failed")
        bus.deliver(held("b"), 1)
        assert await bus.answered(2) == {"0": ACK, "1": POSTPONED}
        assert settler.batches == [["a"]]


async def test_a_batch_has_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(usage, "MAX_TOGETHER", 2)
    async with feeding() as (bus, settler, _feed):
        for seq in range(5):
            bus.deliver(held(f"r{seq}"), seq)
        await bus.answered(5)
        assert settler.batches == [["r0", "r1"], ["r2", "r3"], ["r4"]]


@pytest.mark.parametrize(
    ("error", "alone"), [(StoreUnavailable("one is too large"), POSTPONED), (ValueError("a bug"), FAILED)]
)
async def test_an_event_that_cannot_be_settled_keeps_others_back_only_once(error: Exception, alone: bytes) -> None:
    async with feeding() as (bus, settler, _feed):
        settler.errors["bad"] = error
        for seq, name in enumerate(["good", "bad", "fine"]):
            bus.deliver(held(name), seq)
        assert await bus.answered(3) == dict.fromkeys("012", POSTPONED)
        bus.answers.clear()
        for seq, name in enumerate(["good", "bad", "fine"]):
            bus.deliver(held(name), seq, delivery=2)
        assert await bus.answered(3) == {"0": ACK, "1": alone, "2": ACK}
        assert settler.batches == [["good", "bad", "fine"], ["good"], ["bad"], ["fine"]]


async def test_what_others_would_wait_for_or_somebody_waits_for_is_settled_alone() -> None:
    extended = held("extended")
    extended = extended.model_copy(update={"extensions": (extended.hold,)})
    async with feeding() as (bus, settler, _feed):
        bus.deliver(held("plain"), 0)
        for seq, event in enumerate([unheld("unheld"), held("awaited", metric="jobs"), extended], start=1):
            bus.deliver(event, seq)
        assert await bus.answered(4) == dict.fromkeys("0123", ACK)
        assert settler.batches == [["unheld"], ["awaited"], ["extended"], ["plain"]]


async def test_what_cannot_be_read_is_dropped_and_what_comes_at_a_wrong_time_is_handed_back() -> None:
    may_settle = True
    async with feeding(lambda: may_settle) as (bus, settler, feed):
        bus.deliver(b"{}", 0)
        assert await bus.answered(1) == {"0": TERM}
        may_settle = False
        bus.deliver(held("early"), 1)
        assert await bus.answered(2) == {"0": TERM, "1": FAILED}
        assert settler.batches == []
        may_settle = True
        bus.deliver(held("last"), 2)
        await feed.drain(20)
        bus.deliver(held("late"), 3)
        assert await bus.answered(4) == {"0": TERM, "1": FAILED, "2": ACK, "3": NAK}
        assert settler.batches == [["last"]]
