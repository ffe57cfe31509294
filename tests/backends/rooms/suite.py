"""What a store of rooms must do, on the bus and in memory alike."""

from uuid import uuid4

import pytest

from callboard_contracts.rooms import Room
from callboard_rooms.domain.ports import Conflict, RoomStore, StoredRoom
from callboard_rooms.domain.room import new_room


def fresh() -> Room:
    """A room of a key that no other test uses."""
    return new_room("ait", uuid4().hex, now=1000.0)


async def changed(store: RoomStore, after_revision: int) -> dict[str, StoredRoom]:
    return {name: stored async for batch in store.changes(after_revision) for name, stored in batch}


class RoomStoreSuite:
    """Subclasses supply `store`."""

    async def test_room_is_read_as_it_was_written(self, store: RoomStore) -> None:
        room = fresh()
        assert await store.load(room.id) == StoredRoom(None, 0)
        await store.save(room, 0)
        stored = await store.load(room.id)
        assert stored.room == room
        later = room.model_copy(update={"generation": 1})
        await store.save(later, stored.revision)
        assert (await store.load(room.id)).room == later

    async def test_room_that_others_changed_is_not_written(self, store: RoomStore) -> None:
        room = fresh()
        await store.save(room, 0)
        first = await store.load(room.id)
        await store.save(room.model_copy(update={"generation": 1}), first.revision)
        with pytest.raises(Conflict):
            await store.save(room, first.revision)
        with pytest.raises(Conflict):
            await store.save(room, 0)
        with pytest.raises(Conflict):
            await store.delete(room.id, first.revision)
        found = (await store.load(room.id)).room
        assert found is not None
        assert found.generation == 1

    async def test_room_that_has_ended_leaves_a_revision_to_open_it_at(self, store: RoomStore) -> None:
        room = fresh()
        await store.save(room, 0)
        await store.delete(room.id, (await store.load(room.id)).revision)
        ended = await store.load(room.id)
        assert ended.room is None
        assert ended.revision > 0
        with pytest.raises(Conflict):
            await store.save(room, 0)
        await store.save(room, ended.revision)
        again = await store.load(room.id)
        assert again.room == room
        assert again.revision > ended.revision

    async def test_changes_are_told_after_a_revision(self, store: RoomStore) -> None:
        first, second, third = fresh(), fresh(), fresh()
        await store.save(first, 0)
        begin = (await store.load(first.id)).revision
        await store.save(second, 0)
        await store.save(third, 0)
        await store.delete(third.id, (await store.load(third.id)).revision)
        told = await changed(store, begin)
        assert (first.id in told, told[second.id].room, told[third.id].room) == (False, second, None)
        assert first.id in await changed(store, 0)
        assert await changed(store, max(one.revision for one in told.values())) == {}
