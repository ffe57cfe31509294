"""Wires the quota service together; the only place that does."""

import argparse
import asyncio
import logging
import math
import secrets
import time
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import TypeVar

from callboard_contracts.config import Config
from callboard_contracts.permissions import checked_streams
from callboard_contracts.streams import stored_streams
from callboard_contracts.subjects import QUOTA_RESERVE
from callboard_kit.background_tasks import BackgroundTasks
from callboard_kit.broker import BusBroker
from callboard_kit.bus import Bus, BusError
from callboard_kit.lifecycle import Shutdown, StartError, TaskSupervisor
from callboard_kit.process_memory import settle_memory
from callboard_kit.resources import bus_connection, ops_server
from callboard_kit.store_health import StoreHealth
from callboard_quota import settings
from callboard_quota.backends.accounts import BucketAccounts
from callboard_quota.backends.acknowledged import AcknowledgedPublisher
from callboard_quota.backends.audit import AuditJournal
from callboard_quota.backends.cache_invalidation import CacheInvalidation
from callboard_quota.backends.clock import SteadyClock
from callboard_quota.backends.jetstream_ledger import JetStreamLedger, LedgerMisdeclared
from callboard_quota.backends.usage_streams import StreamCounterStore, StreamUsageLog
from callboard_quota.domain.concurrency import ConcurrencyWait
from callboard_quota.domain.event_rules import EventRules
from callboard_quota.domain.kudos import KudosService
from callboard_quota.domain.ledger import Ledger
from callboard_quota.domain.ports import StoreUnavailable
from callboard_quota.domain.reaper import Reaper
from callboard_quota.domain.reconciler import Reconciler
from callboard_quota.domain.repair import CounterRepair
from callboard_quota.domain.reservations import ReservationService
from callboard_quota.domain.settlement import Settler
from callboard_quota.domain.usage_totals import UsageAggregator
from callboard_quota.domain.verification import Verifier
from callboard_quota.domain.windows import CLOCK_SKEW_S
from callboard_quota.handlers.rpc import RpcHandlers, subscribe_control
from callboard_quota.handlers.usage import UsageFeed
from callboard_quota.metrics import (
    AUDIT_LOSSES,
    CONCURRENCY_WAITS,
    DRIFT_UNITS,
    KUDOS_REFUSALS,
    OLDEST_LEASE_SECONDS,
    OPEN_LEASES,
    RECONCILE_AGE_SECONDS,
    begin,
    count_events,
)

log = logging.getLogger(__name__)

T = TypeVar("T")

DRAIN_TIMEOUT_S = 10.0
SETTINGS_INTERVAL_S = 2.0
CHECK_STORE_INTERVAL_S = 30.0
MEMBERSHIP_INTERVAL_S = 0.5
RECONCILE_INTERVAL_S = 60.0
STEADY_BEFORE_REAPING_S = 30.0
"""After a jump of the clock no lease is ended for this long, so that running jobs can still report."""
FIRST_STORE_WAIT_S = 30.0
FIRST_STORE_PAUSE_S = 0.25


class Readiness:
    """Why the process cannot decide now, if so."""

    def __init__(self, bus: Bus, streams: Sequence[str]) -> None:
        self.store = StoreHealth(bus, f"quota-{secrets.token_hex(6)}", streams)
        self._bus = bus
        self.clock: SteadyClock | None = None
        """Known once the bus has told its time."""
        self.serving = False

    def __call__(self) -> str | None:
        """None, or the reason."""
        if not self._bus.connected:
            return "no connection to the bus"
        return self.clock_reason() or self.store.reason or (None if self.serving else "starting or stopping")

    def clock_reason(self) -> str | None:
        """Why the process must not decide by its clock, or None."""
        if self.clock is None:
            return "the bus has not told its time"
        return None if self.may_decide() else f"the clock is {self.clock.ahead_s:.1f} s ahead of the bus's"

    def may_decide(self) -> bool:
        """Whether the clock is right."""
        if self.clock is None:
            return False
        self.clock.now()
        return self.clock.ahead_s <= CLOCK_SKEW_S


async def main(config: Config, shutdown: Shutdown, arguments: argparse.Namespace) -> None:
    """Runs the quota service until it is told to stop."""
    settings.check(config)
    async with bus_connection(config.nats, "quota", shutdown) as bus:
        ready = Readiness(bus, checked_streams("quota", stored_streams(config)))
        port, host = config.quota.metrics_port, config.site.metrics_host
        async with ops_server("quota.metrics_port", port, ready, host):
            await _serve(config, shutdown, arguments, bus, ready)


async def _serve(config: Config, shutdown: Shutdown, arguments: argparse.Namespace, bus: Bus, ready: Readiness) -> None:
    publisher = AcknowledgedPublisher(bus)
    await publisher.start()
    store = JetStreamLedger(bus, publisher)
    accounts = BucketAccounts(bus)
    await _first(shutdown, store.check)
    await _first(shutdown, bus.clock.measure)
    clock = ready.clock = SteadyClock(bus.clock.now)
    secret = await _first(shutdown, accounts.secret)
    journal = AuditJournal(publisher, count_events, AUDIT_LOSSES.inc)
    ledger = Ledger(store, clock, secret.signed, CacheInvalidation(bus).publish)
    waits = ConcurrencyWait(ledger, asyncio.sleep, lambda result: CONCURRENCY_WAITS.labels(result).inc())
    reservations = ReservationService(config.quota, secret, accounts, ledger, clock, journal, waits)
    counters = StreamCounterStore(bus)
    rules = EventRules(secret, accounts)
    kudos = KudosService(
        store, ledger, accounts, clock, journal, lambda rule: KUDOS_REFUSALS.labels(rule).inc(), config.kudos
    )
    settler = Settler(config.quota, rules, ledger, counters, clock, journal, kudos.reward)
    reaper = Reaper(store, ledger, clock, journal, counters)
    usage_log = StreamUsageLog(bus)
    aggregator = UsageAggregator(usage_log, counters, rules, lambda: reservations.settings)
    process = secrets.token_hex(4)
    reconciler = Reconciler(process, store, counters, usage_log, aggregator, clock, journal, ledger.invalidate)
    verifier = Verifier(store, counters, usage_log, aggregator, clock, asyncio.sleep)
    repair = CounterRepair(store, counters, usage_log, ledger, settler, aggregator, verifier, reconciler, asyncio.sleep)
    feed = UsageFeed(bus, settler, ready.may_decide)
    in_flight = BackgroundTasks()
    handlers = RpcHandlers(bus, in_flight, reservations, kudos, verifier, repair, ready.may_decide)
    broker = BusBroker(bus, in_flight, {QUOTA_RESERVE: handlers.reserve}, [handlers])
    handlers.subscribe(broker)
    subscribe_control(broker, accounts.invalidate, ledger.window_cache.invalidate)

    def apply(changed: Config) -> None:
        reservations.settings = settler.settings = changed.quota
        kudos.settings = changed.kudos

    live = settings.LiveSettings(arguments.config, config, apply)

    begin()

    earliest_end = math.inf
    # Computed when it is read, so that it grows while the reaper does not run.
    OLDEST_LEASE_SECONDS.set_function(lambda: 0.0 if earliest_end == math.inf else clock.now() - earliest_end)

    async def reap() -> None:
        nonlocal earliest_end
        if clock.steady_for_s() < STEADY_BEFORE_REAPING_S or not ready.may_decide():
            return
        found = await reaper.pass_once()
        OPEN_LEASES.set(found.count)
        earliest_end = found.earliest_end

    reconciled_at = clock.now()
    RECONCILE_AGE_SECONDS.set_function(lambda: clock.now() - reconciled_at)

    async def reconcile() -> None:
        nonlocal reconciled_at
        if ready.may_decide() and await reconciler.pass_once():
            reconciled_at = clock.now()
            DRIFT_UNITS.set(reconciler.drift_units)
        ledger.window_cache.invalidate_all()

    async def follow_clock() -> None:
        """Is a member of the queue groups while the clock is right."""
        while True:
            reason = ready.clock_reason()
            try:
                if not bus.connected:
                    # No request comes, and what is subscribed or ended now may not last.
                    pass
                elif broker.joined and reason is not None:
                    log.error("queue_group_left", extra={"reason": reason})
                    ready.serving = False
                    await broker.leave()
                elif not broker.joined and reason is None:
                    await broker.join()
                    ready.serving = True
            except BusError as error:
                log.warning("task_postponed", extra={"reason": str(error)})
            await asyncio.sleep(MEMBERSHIP_INTERVAL_S)

    async with TaskSupervisor(shutdown) as supervisor:
        supervisor.start(publisher.run(), "acknowledgements")
        supervisor.start(journal.run(), "audit")
        supervisor.start(ready.store.run(), "store-health")
        supervisor.start(feed.run(), "usage")
        supervisor.start(_every(config.quota.reap_interval_s, reap), "reaper")
        supervisor.start(_every(RECONCILE_INTERVAL_S, reconcile), "reconciler")
        supervisor.start(_every(SETTINGS_INTERVAL_S, partial(asyncio.to_thread, live.reload)), "settings")
        supervisor.start(_every(CHECK_STORE_INTERVAL_S, store.check), "store-check")
        settle_memory()
        membership = supervisor.start(follow_clock(), "queue-groups")
        await shutdown.wait()
        ready.serving = False
        membership.cancel()
        await asyncio.gather(membership, return_exceptions=True)
        await broker.drain()
        await in_flight.close(DRAIN_TIMEOUT_S)
        await feed.drain(DRAIN_TIMEOUT_S)
        await journal.drain(DRAIN_TIMEOUT_S)


async def _first(shutdown: Shutdown, read: Callable[[], Awaitable[T]]) -> T:
    """Reads from the store until it answers, since it may still be starting."""
    until = time.monotonic() + FIRST_STORE_WAIT_S
    while True:
        try:
            return await read()
        except (StoreUnavailable, LedgerMisdeclared, BusError, TimeoutError) as error:
            if time.monotonic() > until or shutdown.stopping:
                raise StartError(str(error)) from error
        await asyncio.sleep(FIRST_STORE_PAUSE_S)


async def _every(interval_s: float, run: Callable[[], Awaitable[object]]) -> None:
    while True:
        try:
            await run()
        except (StoreUnavailable, LedgerMisdeclared) as error:
            log.warning("task_postponed", extra={"reason": str(error)})
        await asyncio.sleep(interval_s)
