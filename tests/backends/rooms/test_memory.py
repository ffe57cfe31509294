"""The store in memory keeps the promises of the real one."""

import pytest

from callboard_rooms.backends.memory import MemoryRoomStore
from callboard_rooms.domain.ports import RoomStore
from tests.backends.rooms.suite import RoomStoreSuite

pytestmark = pytest.mark.backend


class TestMemory(RoomStoreSuite):
    @pytest.fixture
    def store(self) -> RoomStore:
        return MemoryRoomStore()
