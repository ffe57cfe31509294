"""Invalidates a tenant in the caches of all quota processes when its use of an hour that is over grew."""

import logging

from callboard_contracts.subjects import CTL_INVALIDATE
from callboard_kit.bus import Bus, BusError

log = logging.getLogger(__name__)


class CacheInvalidation:
    """Publishes invalidations; where one is lost, the caches are dropped with the next pass of the reconciler."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus

    async def publish(self, tenant: str) -> None:
        """Tells every process, this one too."""
        try:
            await self._bus.publish(CTL_INVALIDATE, tenant.encode())
        except BusError:
            log.warning("invalidation_unsent")
