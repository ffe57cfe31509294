"""Rooms in their bucket."""

import logging
from collections.abc import AsyncGenerator
from uuid import uuid4

from pydantic import ValidationError

from callboard_contracts.rooms import Room
from callboard_contracts.streams import BUCKET_ROOMS
from callboard_kit import bucket
from callboard_kit.bucket import Bucket, Entry
from callboard_kit.bus import Bus, BusError
from callboard_rooms.domain.ports import Conflict, StoredRoom, StoreUnavailable

log = logging.getLogger(__name__)

MARKER_LIFE_S = 7 * 86_400
"""For so long a room that is opened again numbers its turns on."""
HEADER_BYTES = 4096


class BucketRoomStore:
    """Reads and changes rooms; see `RoomStore`."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._bucket = Bucket(bus, BUCKET_ROOMS)

    @property
    def max_document_bytes(self) -> int:
        """How large a room may be."""
        return self._bus.connection.max_payload - HEADER_BYTES

    async def load(self, room_id: str) -> StoredRoom:
        """Reads a room."""
        try:
            entry = await self._bucket.get(room_id, deleted=True)
        except BusError as error:
            raise StoreUnavailable("no answer in time") from error
        return StoredRoom(None, 0) if entry is None else _stored(entry)

    async def save(self, room: Room, revision: int, document: bytes | None = None) -> StoredRoom:
        """Writes a room that is at a revision."""
        data = document or room.compact()
        try:
            return StoredRoom(room, await self._bucket.put(room.id, data, revision, msg_id=uuid4().hex), len(data))
        except bucket.Conflict:
            raise Conflict(room.id) from None
        except BusError as error:
            raise StoreUnavailable("no acknowledgement in time") from error

    async def delete(self, room_id: str, revision: int) -> None:
        """Deletes a room that is at a revision."""
        try:
            await self._bucket.delete(room_id, marker_life_s=MARKER_LIFE_S, revision=revision)
        except bucket.Conflict:
            raise Conflict(room_id) from None
        except BusError as error:
            raise StoreUnavailable("no acknowledgement in time") from error

    async def changes(self, after_revision: int) -> AsyncGenerator[list[tuple[str, StoredRoom]]]:
        """Yields the rooms that were changed after a revision."""
        try:
            async for batch in self._bucket.changes(after_revision):
                yield [(entry.key, _stored(entry)) for entry in batch]
        except BusError as error:
            raise StoreUnavailable("no answer in time") from error


def _stored(entry: Entry) -> StoredRoom:
    if entry.deleted:
        return StoredRoom(None, entry.revision)
    try:
        return StoredRoom(Room.model_validate_json(entry.value), entry.revision)
    except ValidationError:
        # Written over when the room is opened again.
        log.warning("room_unreadable", extra={"room": entry.key})
        return StoredRoom(None, entry.revision)
