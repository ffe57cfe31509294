"""Finds the rooms for which something is due by the clock, without reading all of them each time."""

import logging
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from callboard_contracts.errors import CallboardError
from callboard_contracts.rooms import Room, RoomKind
from callboard_rooms.domain.ports import RoomStore, StoreUnavailable
from callboard_rooms.domain.room import IdlePolicy, due_at
from callboard_rooms.domain.rooms import RoomService

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Known:
    kind: RoomKind
    waiting: int
    due_at: float


class Reaper:
    """Remembers of every room when something is due, and follows the changes of the store."""

    def __init__(self, store: RoomStore, rooms: RoomService, policy: IdlePolicy, now: Callable[[], float]) -> None:
        self._store = store
        self._rooms = rooms
        self._policy = policy
        self._now = now
        self._known: dict[str, _Known] = {}
        self._revision = 0

    @property
    def rooms_by_kind(self) -> Counter[RoomKind]:
        """How many rooms there are."""
        return Counter(known.kind for known in self._known.values())

    @property
    def waiting(self) -> int:
        """How many turns wait for those before them."""
        return sum(known.waiting for known in self._known.values())

    def forget(self) -> None:
        """Reads all rooms again with the next pass, as after the bus was away."""
        self._revision = 0

    async def pass_once(self) -> None:
        """Reads what has changed, and tidies the rooms for which something is due; raises StoreUnavailable."""
        if self._revision == 0:
            self._known.clear()
        async for batch in self._store.changes(self._revision):
            for room_id, stored in batch:
                self._revision = max(self._revision, stored.revision)
                self._note(room_id, stored.room)
        now = self._now()
        for room_id in [room_id for room_id, known in self._known.items() if known.due_at <= now]:
            try:
                if not await self._rooms.tidy(room_id):
                    # A room that the bucket had no space for leaves no mark there.
                    self._known.pop(room_id, None)
            except StoreUnavailable:
                # The others come first in the next pass, since it may be this room alone that cannot be changed.
                self._known[room_id] = self._known.pop(room_id)
                raise
            except CallboardError as error:
                log.warning("room_not_tidied", extra={"room": room_id, "code": error.info.code.value})

    def _note(self, room_id: str, room: Room | None) -> None:
        if room is None:
            self._known.pop(room_id, None)
        else:
            self._known[room_id] = _Known(room.kind, len(room.waiting), due_at(room, self._policy))
