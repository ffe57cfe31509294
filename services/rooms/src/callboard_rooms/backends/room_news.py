"""Tells other processes that a room has changed."""

import logging

from callboard_contracts import subjects
from callboard_kit.bus import Bus, BusError

log = logging.getLogger(__name__)


class BusRoomNews:
    """Publishes changes; see `RoomNews`."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus

    async def changed(self, room_id: str) -> None:
        """Says that a room has changed."""
        try:
            await self._bus.publish(subjects.room_changed(room_id))
        except BusError:
            log.debug("room_change_untold", extra={"room": room_id})
