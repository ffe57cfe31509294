"""The bucket of rooms on a real server."""

import pytest

from callboard_contracts.rooms import RoomSettings
from callboard_contracts.streams import BUCKET_ROOMS, buckets
from callboard_kit.bus import Bus
from callboard_rooms.backends.room_store import BucketRoomStore
from callboard_rooms.domain.room import new_room

pytestmark = pytest.mark.integration

MAX_BYTES = 200_000
SETTINGS = RoomSettings(system_instructions="x" * 10_000)


async def test_full_bucket_takes_new_rooms_in_place_of_those_that_rested_longest(bus: Bus) -> None:
    spec = next(bucket.config(1) for bucket in buckets() if bucket.name == BUCKET_ROOMS)
    await bus.api(f"STREAM.UPDATE.{spec['name']}", {**spec, "max_bytes": MAX_BYTES})
    store = BucketRoomStore(bus)
    busy = new_room("ait", "busy", 0.0)
    revision = (await store.save(busy, 0)).revision
    rooms = [new_room("ait", f"room-{n}", 0.0).model_copy(update={"settings": SETTINGS}) for n in range(40)]
    for room in rooms:
        await store.save(room, 0)
        revision = (await store.save(busy, revision)).revision
    assert (await store.load(busy.id)).room == busy
    assert (await store.load(rooms[0].id)).room is None
    assert (await store.load(rooms[-1].id)).room == rooms[-1]
    await store.delete(busy.id, revision)
    assert (await store.load(busy.id)).room is None
