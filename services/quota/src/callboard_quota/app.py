"""Wires the quota service together; the only place that does."""

import argparse
import asyncio
import logging
import math
import secrets
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from nats import errors

from callboard_contracts.config import Config, QuotaSection
from callboard_kit.bus import Bus
from callboard_kit.lifecycle import Shutdown, StartError, TaskSupervisor, freeze_gc
from callboard_kit.resources import bus_connection, ops_server
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
from callboard_quota.domain.reservations import ReservationService
from callboard_quota.domain.settlement import Settler
from callboard_quota.domain.usage_totals import UsageAggregator
from callboard_quota.domain.verification import Verifier
from callboard_quota.domain.windows import CLOCK_SKEW_S
from callboard_quota.handlers.broker import BusBroker
from callboard_quota.handlers.rpc import RpcHandler
from callboard_quota.handlers.usage import UsageFeed
from callboard_quota.metrics import (
    AUDIT_LOSSES,
    DRIFT_UNITS,
    KUDOS_REFUSALS,
    OLDEST_LEASE_SECONDS,
    OPEN_LEASES,
    PLACE_WAITS,
    RECONCILE_AGE_SECONDS,
    begin,
    count_event,
)

log = logging.getLogger(__name__)

T = TypeVar("T")

DRAIN_TIMEOUT_S = 10.0
SETTINGS_INTERVAL_S = 2.0
CLOCK_INTERVAL_S = 30.0
RECONCILE_INTERVAL_S = 60.0
STEADY_BEFORE_REAPING_S = 30.0
"""After a jump of the clock no lease is ended for this long, so that running jobs can still report."""
FIRST_STORE_WAIT_S = 30.0
FIRST_STORE_PAUSE_S = 0.25


class Readiness:
    """Why the process cannot decide at this moment, if so."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self.clock_differs_s = 0.0
        self.serving = False

    def __call__(self) -> str | None:
        """None, or the reason."""
        if not self._bus.connected:
            return "no connection to the bus"
        if abs(self.clock_differs_s) > CLOCK_SKEW_S:
            return f"the clock differs from the bus's by {self.clock_differs_s:.1f} s"
        return None if self.serving else "starting or stopping"


async def main(config: Config, shutdown: Shutdown, arguments: argparse.Namespace) -> None:
    """Runs the quota service until it is told to stop."""
    settings.check(config)
    async with bus_connection(config.nats, "quota", shutdown) as bus:
        ready = Readiness(bus)
        port, host = config.quota.metrics_port, config.site.metrics_host
        async with ops_server("quota.metrics_port", port, ready, host):
            await _serve(config, shutdown, arguments, bus, ready)


async def _serve(config: Config, shutdown: Shutdown, arguments: argparse.Namespace, bus: Bus, ready: Readiness) -> None:
    clock = SteadyClock()
    publisher = AcknowledgedPublisher(bus)
    await publisher.start()
    store = JetStreamLedger(bus, publisher)
    accounts = BucketAccounts(bus)
    await accounts.start()
    ready.clock_differs_s = await _first(shutdown, store.check) - clock.now()
    secret = await _first(shutdown, accounts.secret)
    journal = AuditJournal(publisher, count_event, AUDIT_LOSSES.inc)
    invalidation = CacheInvalidation(bus)
    ledger = Ledger(store, clock, secret.signed, invalidation.tell)
    await invalidation.listen(ledger.forget)
    places = ConcurrencyWait(ledger, asyncio.sleep, lambda waited: PLACE_WAITS.labels(waited).inc())
    reservations = ReservationService(config.quota, secret, accounts, ledger, clock, journal, places)
    counters = StreamCounterStore(bus)
    rules = EventRules(secret, accounts)
    settler = Settler(config.quota, rules, ledger, counters, clock, journal)
    reaper = Reaper(store, ledger, clock, journal, counters.stands)
    kudos = KudosService(store, ledger, accounts, clock, journal, lambda rule: KUDOS_REFUSALS.labels(rule).inc())
    usage_log = StreamUsageLog(bus)
    aggregator = UsageAggregator(usage_log, counters, rules, lambda: reservations.settings)
    reconciler = Reconciler(secrets.token_hex(4), store, counters, usage_log, aggregator, clock, journal, ledger.raised)
    verifier = Verifier(store, counters, usage_log, aggregator, clock, asyncio.sleep)
    requests = RpcHandler(bus, reservations, kudos, verifier)
    feed = UsageFeed(bus, settler)
    broker = BusBroker(bus)
    requests.attach(broker)

    def adopt(quota: QuotaSection) -> None:
        reservations.settings = quota
        settler.settings = quota

    live = settings.LiveSettings(arguments.config, config.quota, adopt)

    begin()

    async def read_settings() -> None:
        await asyncio.to_thread(live.look)

    earliest_end = math.inf
    # Reckoned when it is asked for, so that it grows while the reaper stands still.
    OLDEST_LEASE_SECONDS.set_function(lambda: 0.0 if earliest_end == math.inf else clock.now() - earliest_end)

    async def reap() -> None:
        nonlocal earliest_end
        if clock.steady_for_s() < STEADY_BEFORE_REAPING_S:
            return
        found = await reaper.pass_once()
        OPEN_LEASES.set(found.count)
        earliest_end = found.earliest_end

    reconciled_at = clock.now()
    RECONCILE_AGE_SECONDS.set_function(lambda: clock.now() - reconciled_at)

    async def reconcile() -> None:
        nonlocal reconciled_at
        if await reconciler.pass_once():
            reconciled_at = clock.now()
            DRIFT_UNITS.set(reconciler.drift_units)
        ledger.forget()

    async def compare_clocks() -> None:
        ready.clock_differs_s = await store.check() - clock.now()

    async with TaskSupervisor(shutdown) as supervisor:
        supervisor.start(publisher.run(), "acknowledgements")
        supervisor.start(journal.run(), "audit")
        supervisor.start(feed.run(), "usage")
        supervisor.start(_every(config.quota.reap_interval_s, reap), "reaper")
        supervisor.start(_every(RECONCILE_INTERVAL_S, reconcile), "reconciler")
        supervisor.start(_every(SETTINGS_INTERVAL_S, read_settings), "settings")
        supervisor.start(_every(CLOCK_INTERVAL_S, compare_clocks), "clock")
        await broker.start()
        freeze_gc()
        await requests.open()
        ready.serving = True
        await shutdown.wait()
        ready.serving = False
        await _stop_taking(broker, requests)
        await requests.drain(DRAIN_TIMEOUT_S)
        await feed.drain(DRAIN_TIMEOUT_S)
        await journal.drain(DRAIN_TIMEOUT_S)


async def _first(shutdown: Shutdown, ask: Callable[[], Awaitable[T]]) -> T:
    """Asks the store until it answers, since it may still be starting."""
    until = time.monotonic() + FIRST_STORE_WAIT_S
    while True:
        try:
            return await ask()
        except (StoreUnavailable, LedgerMisdeclared) as error:
            if time.monotonic() > until or shutdown.stopping:
                raise StartError(str(error)) from error
        await asyncio.sleep(FIRST_STORE_PAUSE_S)


async def _every(interval_s: float, act: Callable[[], Awaitable[None]]) -> None:
    while True:
        try:
            await act()
        except (StoreUnavailable, LedgerMisdeclared) as error:
            log.warning("task_postponed", extra={"reason": str(error)})
        await asyncio.sleep(interval_s)


async def _stop_taking(broker: BusBroker, requests: RpcHandler) -> None:
    """Takes no more requests; a connection that is just being restored has none to take."""
    try:
        async with asyncio.timeout(DRAIN_TIMEOUT_S):
            await requests.close()
            await broker.stop()
    except (TimeoutError, errors.Error):
        log.warning("broker_not_drained")
