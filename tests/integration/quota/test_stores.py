"""One suite for the ledger's store, over memory and over a real bus; and the other stores on a real bus."""

import asyncio
import signal
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

import pytest

from callboard_contracts.accounts import Account
from callboard_contracts.config import Config, NatsSection, QuotaSection
from callboard_contracts.kudos import KudosBalanceRequest, KudosEarnRequest, KudosTransferRequest
from callboard_contracts.quota import AuditEvent, Hold, HoldEntry, UsageEvent, VerifyRequest, Work
from callboard_contracts.streams import QUOTA, SETTLEMENT, USAGE
from callboard_kit.background_tasks import BackgroundTasks
from callboard_kit.broker import BusBroker
from callboard_kit.bus import Bus
from callboard_kit.provisioning import apply_streams
from callboard_quota.backends import acknowledged
from callboard_quota.backends.acknowledged import AcknowledgedPublisher
from callboard_quota.backends.audit import AuditJournal
from callboard_quota.backends.cache_invalidation import CacheInvalidation
from callboard_quota.backends.clock import SteadyClock
from callboard_quota.backends.jetstream_ledger import LEASES_PER_READ, JetStreamLedger, LedgerMisdeclared, read_outcomes
from callboard_quota.backends.memory import MemoryAccounts, MemoryCounterStore, MemoryJournal, MemoryLedger
from callboard_quota.backends.usage_streams import StreamCounterStore, StreamUsageLog
from callboard_quota.domain.changes import increments, reversal, settlement
from callboard_quota.domain.decision import Granted
from callboard_quota.domain.event_rules import EventRules
from callboard_quota.domain.kudos import KudosService
from callboard_quota.domain.ledger import Ledger
from callboard_quota.domain.limit_kinds import JOBS_AT_ONCE
from callboard_quota.domain.limits import Limit
from callboard_quota.domain.ports import Change, Counter, LedgerStore, StoreUnavailable
from callboard_quota.domain.reaper import Reaper
from callboard_quota.domain.reconciler import Reconciler
from callboard_quota.domain.settlement import Settler
from callboard_quota.domain.tenants import Secret
from callboard_quota.domain.usage_totals import UsageAggregator
from callboard_quota.domain.verification import Verifier
from callboard_quota.domain.windows import CLOSING_S, hour_bucket
from callboard_quota.handlers.rpc import subscribe_control
from callboard_quota.handlers.usage import UsageFeed
from tests.integration.quota.deployment import report
from tests.support.nats_server import NatsServer
from tests.unit.quota.interleaving import ManualClock, hold_request, no_reward, unheld

pytestmark = [pytest.mark.integration, pytest.mark.timeout(400)]

T = TypeVar("T")
PATIENCE = 5
ADA, BOB = "k_00000000000000aa", "k_00000000000000bb"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Generator[NatsServer]:
    """A bus with all streams."""
    running = NatsServer(tmp_path_factory.mktemp("stores"))
    running.start()

    async def declare() -> None:
        bus = await Bus.connect(NatsSection(url=running.url), "declare", lambda: None)
        await apply_streams(bus, Config())
        await bus.close()

    try:
        asyncio.run(declare())
        yield running
    finally:
        running.kill()


@asynccontextmanager
async def connected(server: NatsServer) -> AsyncGenerator[tuple[Bus, AcknowledgedPublisher]]:
    bus = await Bus.connect(NatsSection(url=server.url), "stores", lambda: None)
    publisher = AcknowledgedPublisher(bus)
    await bus.api("INFO", {})
    await publisher.start()
    repeating = asyncio.ensure_future(publisher.run())
    try:
        yield bus, publisher
    finally:
        repeating.cancel()
        await asyncio.gather(repeating, return_exceptions=True)
        await bus.close()


@pytest.fixture(params=["memory", "jetstream"])
async def store(request: pytest.FixtureRequest, server: NatsServer) -> AsyncGenerator[LedgerStore]:
    """Each implementation in turn."""
    clock = ManualClock(time.time())
    if request.param == "memory":
        yield MemoryLedger(clock)
        return
    async with connected(server) as (bus, publisher):
        yield JetStreamLedger(bus, publisher)


async def test_what_a_killed_server_may_have_stored_in_part_is_repeated_as_soon_as_it_is_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(acknowledged, "REPEAT_S", 60.0)
    server = NatsServer(tmp_path)
    await asyncio.to_thread(server.start)
    try:
        bus = await Bus.connect(NatsSection(url=server.url), "declare", lambda: None)
        await apply_streams(bus, Config())
        await bus.close()
        async with connected(server) as (bus, publisher):
            store, taken = JetStreamLedger(bus, publisher), hold("killed")
            await store.open(hold("before"), increments(hold("before")))
            assert server.child is not None
            server.child.signal(signal.SIGSTOP)
            opening = asyncio.ensure_future(store.open(taken, increments(taken), timeout_s=30))
            # The messages leave for the server's socket, which goes with it.
            await asyncio.sleep(0.1)
            await asyncio.to_thread(server.kill)
            await asyncio.to_thread(server.start)
            applied = await asyncio.wait_for(opening, 20)
            assert [one.value for one in applied] == [500, 1]
            assert await open_ids(store) == {hold("before").id, taken.id}
    finally:
        await asyncio.to_thread(server.kill)


def hold(name: str) -> Hold:
    entries = (
        HoldEntry(tenant=f"k_{name}", metric="units", bucket="h2026112012", amount=500),
        HoldEntry(tenant=f"k_{name}", metric="jobs", bucket="h2026112012", amount=1),
    )
    return Hold(
        id=f"{name}-1",
        request_id=name,
        tenant=f"k_{name}",
        kind="chat",
        model="owl",
        entries=entries,
        expires_at=time.time() + 60,
    )


def outcome(of: Hold, kind: str, units: int) -> AuditEvent:
    return AuditEvent.model_validate(
        {"kind": kind, "request_id": of.request_id, "hold_id": of.id, "units": units, "at": 1.0}
    )


async def open_ids(store: LedgerStore) -> set[str]:
    return {hold.id async for hold in store.leases()}


async def test_opening_raises_every_counter_and_leaves_a_lease(store: LedgerStore) -> None:
    taken = hold("opens")
    applied = await store.open(taken, increments(taken))
    assert [(one.value, one.duplicate) for one in applied] == [(500, False), (1, False)]
    assert taken.id in await open_ids(store)
    assert [hold async for hold in store.leases() if hold.id == taken.id] == [taken]
    await store.apply(reversal(taken))
    await store.close(taken)
    assert taken.id not in await open_ids(store)


async def test_more_leases_than_are_read_at_once_are_all_read_oldest_first(store: LedgerStore) -> None:
    before = await open_ids(store)
    opened = [hold(f"many-{n}") for n in range(2 * LEASES_PER_READ + 1)]
    for start in range(0, len(opened), 200):
        await asyncio.gather(*[store.open(one, []) for one in opened[start : start + 200]])
    assert [one.id async for one in store.leases() if one.id not in before] == [one.id for one in opened]
    for start in range(0, len(opened), 200):
        await asyncio.gather(*[store.close(one) for one in opened[start : start + 200]])
    assert await open_ids(store) == before


async def test_id_counts_once_and_hides_the_value_of_a_repeat(store: LedgerStore) -> None:
    counter = Counter("k_once", "units", "h2026112012")
    first, second, look = await store.apply(
        [Change(counter, 7, "once"), Change(counter, 9, "once"), Change(counter, 0, None)]
    )
    assert (first.value, first.duplicate) == (7, False)
    assert (second.value, second.duplicate) == (None, True)
    assert look.value == 7
    assert await store.read([counter, counter._replace(tenant="k_never")]) == {counter: 7}


async def test_counters_fall_below_zero_and_come_back(store: LedgerStore) -> None:
    counter = Counter("k_below", "units", "h2026112012")
    values = [one.value for one in await store.apply([Change(counter, n, f"below{n}") for n in (-5, 3, 2)])]
    assert values == [-5, -2, 0]


async def test_first_outcome_wins(store: LedgerStore) -> None:
    taken = hold("outcome")
    settled = outcome(taken, "settled", 3)
    assert await store.record_outcome(settled) is settled
    assert await store.record_outcome(outcome(taken, "expired", 0)) == settled
    assert await store.record_outcome(outcome(taken, "released", 0)) == settled


async def test_of_outcomes_that_are_recorded_together_each_wins_or_loses_by_itself(store: LedgerStore) -> None:
    holds = [hold(f"together-{n}") for n in range(4)]
    for taken in holds:
        await store.open(taken, increments(taken))
    expired = await store.record_outcome(outcome(holds[1], "expired", 0))
    wanted = [outcome(taken, "settled", n) for n, taken in enumerate([*holds, holds[2]])]
    recorded = await store.record_outcomes(wanted)
    assert recorded == [wanted[0], expired, wanted[2], wanted[3], wanted[2]]
    assert [mine is one for mine, one in zip(wanted, recorded, strict=True)] == [True, False, True, True, False]
    settled = [0, 2, 3]
    await store.complete(
        [change for n in settled for change in settlement(holds[n], recorded[n])], [holds[n] for n in settled]
    )
    assert await open_ids(store) & {taken.id for taken in holds} == {holds[1].id}
    counters = [Counter(taken.tenant, "units", "h2026112012") for taken in holds]
    assert await store.read(counters) == dict(zip(counters, [0, 500, 2, 3], strict=True))


@pytest.mark.parametrize("work", ["chat", "kudos"])
async def test_only_one_of_those_that_record_one_outcome_at_one_moment_was_first(store: LedgerStore, work: str) -> None:
    settled = outcome(hold(f"moment-{work}"), "settled", 3).model_copy(update={"work": work})
    rivals = [settled.model_copy() for _ in range(8)]
    recorded = await asyncio.gather(*map(store.record_outcome, rivals))
    assert recorded == rivals
    assert sum(one is rival for one, rival in zip(recorded, rivals, strict=True)) == 1


async def test_many_counters_are_read_at_once(store: LedgerStore) -> None:
    many = [Counter("k_many", "units", f"h20261120{n:04}") for n in range(1500)]
    changes = [Change(counter, n, f"many{n}") for n, counter in enumerate(many)]
    await with_retries(lambda: store.apply(changes))
    assert await with_retries(lambda: store.read(many)) == {counter: n for n, counter in enumerate(many)}


async def test_removal_of_a_lease_may_ride_with_the_counters(store: LedgerStore) -> None:
    taken = hold("rides")
    await store.open(taken, increments(taken))
    await store.complete(reversal(taken), [taken])
    assert taken.id not in await open_ids(store)


def kudos_service(store: LedgerStore) -> KudosService:
    accounts = MemoryAccounts([Account(id=one, name=one, tier="t", keys=(), created_at=0) for one in (ADA, BOB)])
    clock = SteadyClock()
    return KudosService(store, Ledger(store, clock), accounts, clock, MemoryJournal(), lambda _rule: None)


async def test_first_outcome_of_a_transaction_wins_whichever_hold_it_is_tried_with(store: LedgerStore) -> None:
    made = outcome(hold("transaction"), "settled", 0).model_copy(update={"work": "kudos"})
    assert await store.transaction_outcome("transaction") is None
    assert await store.record_outcome(made) == made
    assert await store.record_outcome(made.model_copy(update={"hold_id": "transaction-2", "kind": "expired"})) == made
    assert await store.transaction_outcome("transaction") == made


async def test_kudos_are_earned_and_transferred_once(store: LedgerStore) -> None:
    kudos = kudos_service(store)
    for repeated in (False, True):
        reply = await kudos.earn(KudosEarnRequest(id="store-earn", account=ADA, amount=700))
        assert (reply.balance, reply.repeated, reply.error) == (700, repeated, None)
    transfer = KudosTransferRequest(id="store-transfer", source=ADA, target=BOB, amount=500)
    replies = await asyncio.gather(*(kudos.transfer(transfer) for _ in range(5)))
    assert sorted(reply.repeated for reply in replies) == [False, True, True, True, True]
    refused = await kudos.transfer(transfer.model_copy(update={"id": "store-more"}))
    assert refused.error is not None
    assert (refused.error.limit, refused.balance) == ("key.kudos", 200)
    assert (await kudos.balance(KudosBalanceRequest(account=BOB))).balance == 500


@pytest.mark.parametrize("decided", [True, False])
async def test_transaction_that_was_left_long_ago_is_completed_or_undone(
    store: LedgerStore, server: NatsServer, decided: bool
) -> None:
    name = f"left-{decided}"
    entries = (
        HoldEntry(tenant=f"k_{name}", metric="kudos", bucket="ever", amount=30),
        HoldEntry(tenant=f"k_{name}-to", metric="kudos_credit", bucket="ever", amount=30),
    )
    left = hold(name).model_copy(update={"entries": entries, "expires_at": time.time() - 7200, "model": "transfer"})
    await store.open(left, increments(left))
    if decided:
        await store.record_outcome(outcome(left, "settled", 0).model_copy(update={"work": "kudos", "kudos": 30}))
    clock = ManualClock(time.time())
    async with connected(server) as (bus, _publisher):
        counters = MemoryCounterStore(store) if isinstance(store, MemoryLedger) else StreamCounterStore(bus)
        await Reaper(store, Ledger(store, clock), clock, MemoryJournal(), counters).pass_once()
    assert left.id not in await open_ids(store)
    counters = [Counter(entry.tenant, "kudos", "ever") for entry in entries]
    found = await store.read(counters)
    assert [found.get(counter, 0) for counter in counters] == ([30, -30] if decided else [0, 0])


async def test_stream_that_counts_wrongly_is_refused(server: NatsServer) -> None:
    async with connected(server) as (bus, publisher):
        ledger = JetStreamLedger(bus, publisher)
        await ledger.check()
        config = (await bus.api(f"STREAM.INFO.{QUOTA}", {}))["config"]
        await bus.api(f"STREAM.UPDATE.{QUOTA}", {**config, "max_msgs_per_subject": 1})
        with pytest.raises(LedgerMisdeclared, match="drops messages"):
            await ledger.check()
        await bus.api(f"STREAM.UPDATE.{QUOTA}", config)


async def test_journal_publishes_what_was_recorded_just_before_it_is_drained(server: NatsServer) -> None:
    async with connected(server) as (bus, publisher):
        counted: list[AuditEvent] = []
        journal = AuditJournal(publisher, counted.extend, pytest.fail)
        recorded = outcome(hold("recorded-last"), "settled", 7)
        journal.record(recorded)
        running = asyncio.ensure_future(journal.run())
        await journal.drain(PATIENCE)
        running.cancel()
        assert await read_outcomes(bus, recorded.request_id) == counted == [recorded]


async def test_invalidation_reaches_all_processes(server: NatsServer) -> None:
    async with connected(server) as (one, _), connected(server) as (other, _):
        received: list[tuple[str, str]] = []
        for name, bus in (("one", one), ("other", other)):
            broker = BusBroker(bus, BackgroundTasks(), {})
            subscribe_control(broker, pytest.fail, lambda tenant, name=name: received.append((name, tenant)))
            await broker.start()
        await other.connection.flush()
        await CacheInvalidation(one).publish("k_ada")
        async with asyncio.timeout(PATIENCE):
            while len(received) < 2:
                await asyncio.sleep(0.01)
        assert sorted(received) == [("one", "k_ada"), ("other", "k_ada")]
        await one.connection.close()
        await CacheInvalidation(one).publish("k_ada")


class BlockedSettler(Settler):
    """Records the events that it is given, and settles them once it is released."""

    def __init__(self) -> None:
        self.seen: list[str] = []
        self.released = asyncio.Event()

    async def settle_all(self, events: Sequence[tuple[UsageEvent, float]]) -> list[str]:
        assert all(stored_at > 0 for _event, stored_at in events)
        self.seen += [event.request_id for event, _stored_at in events]
        await self.released.wait()
        return ["settled"] * len(events)


async def test_feed_that_stops_gives_back_what_still_comes(server: NatsServer) -> None:
    async with connected(server) as (bus, _):
        await bus.api(f"STREAM.PURGE.{USAGE}", {})
        first, second = BlockedSettler(), BlockedSettler()
        second.released.set()
        feeds = [UsageFeed(bus, settler) for settler in (first, second)]
        running = [asyncio.ensure_future(feeds[0].run())]
        await report(bus, unheld("feed-0"))
        async with asyncio.timeout(PATIENCE):
            while not first.seen:
                await asyncio.sleep(0.01)
        draining = asyncio.ensure_future(feeds[0].drain(PATIENCE))
        await asyncio.gather(*[report(bus, unheld(f"feed-{n}")) for n in range(1, 200)])
        first.released.set()
        await draining
        running.append(asyncio.ensure_future(feeds[1].run()))
        async with asyncio.timeout(PATIENCE):
            while len(first.seen) + len(second.seen) < 200:
                await asyncio.sleep(0.01)
        assert sorted(first.seen + second.seen) == sorted(f"feed-{n}" for n in range(200))
        await feeds[1].drain(PATIENCE)
        for one in running:
            one.cancel()
        await asyncio.gather(*running, return_exceptions=True)


async def test_feed_asks_now_and_then_for_a_consumer_that_is_gone(server: NatsServer) -> None:
    async with connected(server) as (bus, _):
        await bus.api(f"STREAM.PURGE.{USAGE}", {})
        config = (await bus.api(f"CONSUMER.INFO.{USAGE}.{SETTLEMENT}", {}))["config"]
        settler = BlockedSettler()
        settler.released.set()
        running = asyncio.ensure_future(UsageFeed(bus, settler).run())
        await asyncio.sleep(0.2)
        await bus.api(f"CONSUMER.DELETE.{USAGE}.{SETTLEMENT}", {})
        sent = bus.connection.stats["out_msgs"]
        await asyncio.sleep(1.5)
        assert 0 < bus.connection.stats["out_msgs"] - sent <= 10
        await bus.api(f"CONSUMER.CREATE.{USAGE}.{SETTLEMENT}", {"stream_name": USAGE, "config": config})
        await report(bus, unheld("back"))
        async with asyncio.timeout(PATIENCE):
            while settler.seen != ["back"]:
                await asyncio.sleep(0.01)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def test_bus_that_is_gone_is_said_to_be(server: NatsServer) -> None:
    async with connected(server) as (bus, publisher):
        ledger = JetStreamLedger(bus, publisher)
        await bus.connection.close()
        with pytest.raises(StoreUnavailable):
            await anext(ledger.leases())
        with pytest.raises(StoreUnavailable):
            await ledger.apply([Change(Counter("k_x", "units", "h1"), 1, "gone")])


async def with_retries(asking: Callable[[], Awaitable[T]]) -> T:
    """Retries when a busy machine did not answer in time, as any caller would."""
    for _ in range(PATIENCE):
        try:
            return await asking()
        except StoreUnavailable:
            await asyncio.sleep(0.2)
    return await asking()


@dataclass
class Harness:
    """The services over a real bus, with a manual clock."""

    clock: ManualClock
    ledger: Ledger
    settler: Settler
    reaper: Reaper
    reconciler: Reconciler
    verifier: Verifier
    counters: StreamCounterStore


def make_harness(bus: Bus, publisher: AcknowledgedPublisher) -> Harness:
    clock, journal, secret = ManualClock(time.time()), MemoryJournal(), Secret(b"x" * 32)
    store, counters, log = JetStreamLedger(bus, publisher), StreamCounterStore(bus), StreamUsageLog(bus)
    ledger = Ledger(store, clock, secret.signed)
    rules = EventRules(secret, MemoryAccounts())
    aggregator = UsageAggregator(log, counters, rules, QuotaSection)
    return Harness(
        clock,
        ledger,
        Settler(QuotaSection(), rules, ledger, counters, clock, journal, no_reward),
        Reaper(store, ledger, clock, journal, counters),
        Reconciler("w", store, counters, log, aggregator, clock, journal, ledger.invalidate),
        Verifier(store, counters, log, aggregator, clock, asyncio.sleep),
        counters,
    )


async def test_hour_is_closed_by_its_events_on_a_real_bus(server: NatsServer) -> None:
    async with connected(server) as (bus, publisher):
        harness = make_harness(bus, publisher)
        begin = harness.clock.at
        assert await harness.reconciler.pass_once()
        limit = Limit("key", "k_close", JOBS_AT_ONCE, 200)
        events: list[UsageEvent] = []
        for n in range(150):
            wanted = hold_request(f"close{n}", limit, tenant="k_close", at=begin)
            outcome = await with_retries(partial(harness.ledger.reserve, wanted))
            assert isinstance(outcome, Granted)
            event = UsageEvent(
                request_id=f"close{n}",
                tenant="k_close",
                kind="chat",
                model="owl",
                pool="main",
                work=Work(prompt_tokens=1),
                outcome="stop",
                hold=outcome.hold,
                at=begin,
            )
            events.append(event)
            await report(bus, event)
            if n % 2:
                await harness.settler.settle(event)
        units = Counter("k_close", "units", hour_bucket(begin))
        harness.clock.at = begin + 3600 + CLOSING_S
        # Nothing was settled or expired for the even ones, and now nothing may be: the counters alone must get it
        # right.
        await harness.reaper.pass_once()
        assert await harness.reconciler.pass_once()
        assert (await harness.counters.counters(units.bucket))[units] == 150_000
        reply = await harness.verifier.verify(VerifyRequest(since=begin - 60))
        assert [one for one in reply.drift if one.tenant == "k_close"] == []
        await report(bus, events[0], msg_id="replayed")
        assert await harness.reconciler.pass_once()
        assert (await harness.counters.counters(units.bucket))[units] == 150_000
        found = await harness.counters.counters(units.bucket)
        assert {counter.metric for counter in found if counter.tenant == "k_close"} == {"units"}
