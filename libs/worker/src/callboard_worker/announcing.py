"""Says in the bucket WORKERS that a worker is there and what it offers, until it stops or dies."""

import asyncio
import logging
from collections.abc import Callable

from callboard_contracts.streams import BUCKET_WORKERS
from callboard_contracts.workers import (
    ANNOUNCE_INTERVAL_S,
    ANNOUNCE_LIFE_S,
    PoolRecord,
    WorkerInfo,
    pool_entry,
    worker_entry,
)
from callboard_kit.bucket import Bucket
from callboard_kit.bus import Bus, BusError
from callboard_kit.lifecycle import is_set_within

log = logging.getLogger(__name__)

WITHDRAW_TIMEOUT_S = 2.0


class Announcer:
    """Keeps the entry of one worker true; it expires by itself when nobody renews it."""

    def __init__(self, bus: Bus, describe: Callable[[], WorkerInfo]) -> None:
        self._bucket = Bucket(bus, BUCKET_WORKERS)
        self._clock = bus.clock
        self._describe = describe
        self._due = asyncio.Event()
        self._recorded = False
        bus.on_reconnect(self.renew)

    def renew(self) -> None:
        """Has the worker announced again now, because something about it changed."""
        self._due.set()

    async def run(self) -> None:
        """Announces the worker again and again, until cancelled."""
        while True:
            self._due.clear()
            try:
                await self._announce()
            except BusError as error:
                log.warning("announcement_failed", extra={"reason": str(error)})
            await is_set_within(self._due, ANNOUNCE_INTERVAL_S)

    async def withdraw(self) -> None:
        """Takes the worker's entry out; where the bus is away, it expires."""
        try:
            await self._bucket.delete(_entry_of(self._describe()), WITHDRAW_TIMEOUT_S, ANNOUNCE_LIFE_S)
        except BusError:
            log.info("announcement_left_to_expire")

    async def _announce(self) -> None:
        info = self._describe()
        if info.ready and not self._recorded:
            # It has no life of its own: it tells a pool that is asleep from one that never had a worker.
            record = PoolRecord(last_started_at=self._clock.now(), models=info.models)
            await self._bucket.put(pool_entry(info.service, info.pool), record.encoded(), None)
            self._recorded = True
        await self._bucket.put(_entry_of(info), info.encoded(), None, life_s=ANNOUNCE_LIFE_S)


def _entry_of(info: WorkerInfo) -> str:
    return worker_entry(info.service, info.pool, info.id)
