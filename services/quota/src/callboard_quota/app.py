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
from callboard_kit.lifecycle import Duties, StartError, Stopper, settle_heap
from callboard_kit.opening import opened_bus, opened_observatory
from callboard_quota import settings
from callboard_quota.backends.accounts import BucketAccounts
from callboard_quota.backends.acknowledged import AcknowledgedPublisher
from callboard_quota.backends.audit import AuditJournal
from callboard_quota.backends.books import StreamBooks, StreamUsageLog
from callboard_quota.backends.clock import SteadyClock
from callboard_quota.backends.jetstream_ledger import JetStreamLedger, LedgerMisdeclared
from callboard_quota.backends.raises import RaiseNews
from callboard_quota.domain.desk import Desk
from callboard_quota.domain.event_rules import EventRules
from callboard_quota.domain.kudos import Treasury
from callboard_quota.domain.ledger import Ledger
from callboard_quota.domain.places import WaitingRoom
from callboard_quota.domain.ports import StoreUnavailable
from callboard_quota.domain.reaper import Reaper
from callboard_quota.domain.reconciler import Reconciler
from callboard_quota.domain.settlement import Settler
from callboard_quota.domain.truth import Bookkeeper
from callboard_quota.domain.verification import Verifier
from callboard_quota.domain.windows import CLOCK_SKEW_S
from callboard_quota.handlers.broker import BusBroker
from callboard_quota.handlers.requests import RequestDesk
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


async def main(config: Config, stopper: Stopper, arguments: argparse.Namespace) -> None:
    """Runs the quota service until it is told to stop."""
    settings.check(config)
    async with opened_bus(config.nats, "quota", stopper) as bus:
        ready = Readiness(bus)
        port, host = config.quota.metrics_port, config.site.metrics_host
        async with opened_observatory("quota.metrics_port", port, ready, host):
            await _serve(config, stopper, arguments, bus, ready)


async def _serve(config: Config, stopper: Stopper, arguments: argparse.Namespace, bus: Bus, ready: Readiness) -> None:
    clock = SteadyClock()
    publisher = AcknowledgedPublisher(bus)
    await publisher.start()
    store = JetStreamLedger(bus, publisher)
    accounts = BucketAccounts(bus)
    await accounts.start()
    ready.clock_differs_s = await _first(stopper, store.check) - clock.now()
    secret = await _first(stopper, accounts.secret)
    journal = AuditJournal(publisher, count_event, AUDIT_LOSSES.inc)
    news = RaiseNews(bus)
    ledger = Ledger(store, clock, secret.sealed, news.tell)
    await news.listen(ledger.forget)
    places = WaitingRoom(ledger, asyncio.sleep, lambda waited: PLACE_WAITS.labels(waited).inc())
    desk = Desk(config.quota, secret, accounts, ledger, clock, journal, places)
    books = StreamBooks(bus)
    rules = EventRules(secret, accounts)
    settler = Settler(config.quota, rules, ledger, books, clock, journal)
    reaper = Reaper(store, ledger, clock, journal, books.stands)
    treasury = Treasury(store, ledger, accounts, clock, journal, lambda rule: KUDOS_REFUSALS.labels(rule).inc())
    usage_log = StreamUsageLog(bus)
    bookkeeper = Bookkeeper(usage_log, books, rules, lambda: desk.settings)
    reconciler = Reconciler(secrets.token_hex(4), store, books, usage_log, bookkeeper, clock, journal, ledger.raised)
    verifier = Verifier(store, books, usage_log, bookkeeper, clock, asyncio.sleep)
    requests = RequestDesk(bus, desk, treasury, verifier)
    feed = UsageFeed(bus, settler)
    broker = BusBroker(bus)
    requests.attach(broker)

    def adopt(quota: QuotaSection) -> None:
        desk.settings = quota
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

    async with Duties(stopper) as duties:
        duties.start(publisher.run(), "acknowledgements")
        duties.start(journal.run(), "audit")
        duties.start(feed.run(), "usage")
        duties.start(_every(config.quota.reap_interval_s, reap), "reaper")
        duties.start(_every(RECONCILE_INTERVAL_S, reconcile), "reconciler")
        duties.start(_every(SETTINGS_INTERVAL_S, read_settings), "settings")
        duties.start(_every(CLOCK_INTERVAL_S, compare_clocks), "clock")
        await broker.start()
        settle_heap()
        await requests.open()
        ready.serving = True
        await stopper.wait()
        ready.serving = False
        await _stop_taking(broker, requests)
        await requests.drain(DRAIN_TIMEOUT_S)
        await feed.drain(DRAIN_TIMEOUT_S)
        await journal.drain(DRAIN_TIMEOUT_S)


async def _first(stopper: Stopper, ask: Callable[[], Awaitable[T]]) -> T:
    """Asks the store until it answers, since it may still be starting."""
    until = time.monotonic() + FIRST_STORE_WAIT_S
    while True:
        try:
            return await ask()
        except (StoreUnavailable, LedgerMisdeclared) as error:
            if time.monotonic() > until or stopper.stopping:
                raise StartError(str(error)) from error
        await asyncio.sleep(FIRST_STORE_PAUSE_S)


async def _every(interval_s: float, act: Callable[[], Awaitable[None]]) -> None:
    while True:
        try:
            await act()
        except (StoreUnavailable, LedgerMisdeclared) as error:
            log.warning("duty_postponed", extra={"reason": str(error)})
        await asyncio.sleep(interval_s)


async def _stop_taking(broker: BusBroker, requests: RequestDesk) -> None:
    """Takes no more requests; a connection that is just being restored has none to take."""
    try:
        async with asyncio.timeout(DRAIN_TIMEOUT_S):
            await requests.close()
            await broker.stop()
    except (TimeoutError, errors.Error):
        log.warning("broker_not_drained")
