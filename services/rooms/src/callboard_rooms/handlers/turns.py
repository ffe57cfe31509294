"""The ends of turns from the stream TURNS; each is acknowledged once the room knows of it and the next turn runs."""

import logging

from nats.aio.msg import Msg

from callboard_contracts.rooms import TurnEnded
from callboard_contracts.streams import TURN_CONSUMER, TURNS
from callboard_kit.bus import Bus
from callboard_kit.feed import ACK, TERM, Feed, nak
from callboard_rooms.domain.ports import StoreUnavailable
from callboard_rooms.domain.rooms import RoomService

log = logging.getLogger(__name__)

STORE_RETRY_S = 0.5
LAG_RETRY_S = 0.2
MAX_LAGS = 5
"""A replica that lags behind may not have a result, or the turn itself, for a moment."""


class TurnFeed(Feed):
    """Hands the ends of turns to their rooms."""

    def __init__(self, bus: Bus, rooms: RoomService) -> None:
        super().__init__(bus, TURNS, TURN_CONSUMER, self._end)
        self._rooms = rooms

    async def _end(self, message: Msg) -> bytes:
        try:
            event = TurnEnded.model_validate_json(message.data)
        except ValueError:
            log.warning("turn_end_unreadable", extra={"subject": message.subject})
            return TERM
        may_lag = (message.metadata.num_delivered or 1) <= MAX_LAGS
        try:
            done = await self._rooms.turn_ended(event, may_lag=may_lag)
        except StoreUnavailable:
            return nak(STORE_RETRY_S)
        return ACK if done else nak(LAG_RETRY_S)
