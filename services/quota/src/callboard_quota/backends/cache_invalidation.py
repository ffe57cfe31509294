"""Tells all quota processes whose use in an hour that is over has grown, since each remembers such hours."""

import logging
from collections.abc import Callable

from nats.aio.msg import Msg

from callboard_contracts.subjects import CTL_INVALIDATE
from callboard_kit.bus import Bus, BusError

log = logging.getLogger(__name__)


class CacheInvalidation:
    """Sends and brings the invalidation. Where some of it is lost, what is remembered is still dropped every minute."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus

    async def listen(self, forget: Callable[[str], None]) -> None:
        """Begins to hand over the tenants that any process tells of; raises BusUnavailable."""

        def arrived(message: Msg) -> None:
            forget(message.data.decode(errors="replace"))

        await self._bus.subscribe_now(CTL_INVALIDATE, arrived)

    async def tell(self, tenant: str) -> None:
        """Tells every process, this one too."""
        try:
            await self._bus.publish(CTL_INVALIDATE, tenant.encode())
        except BusError:
            log.warning("invalidation_unsent")
