"""What a rooms process remembers of what it has written."""

import pytest

from callboard_rooms.domain.ports import StoredRoom
from callboard_rooms.domain.recent_rooms import LAG_S, MAX_RECALLED_BYTES, RecentRooms
from callboard_rooms.domain.room import new_room

pytestmark = pytest.mark.unit


class Clock:
    """A clock that stands still."""

    time = 0.0


def stored(revision: int, size_bytes: int = 100) -> StoredRoom:
    return StoredRoom(new_room("ait", "stage", 0.0), revision, size_bytes)


def test_documents_are_kept_within_their_bound_and_the_latest_first() -> None:
    recent = RecentRooms(lambda: 0.0)
    half = MAX_RECALLED_BYTES // 2
    for name in ("a", "b", "c"):
        recent.note(name, stored(1, half))
    assert recent.recall("a") is None
    assert recent.recall("b") == recent.recall("c") == stored(1, half)
    assert recent.revision("a") == 1
    recent.note("b", stored(2, half))
    recent.note("d", stored(1, half))
    assert recent.recall("c") is None
    assert recent.recall("b") == stored(2, half)
    recent.note("huge", stored(1, MAX_RECALLED_BYTES + 1))
    assert recent.recall("huge") is None
    recent.note("e", stored(1))
    assert recent.recall("e") is not None


def test_what_was_written_is_forgotten_after_a_while() -> None:
    clock = Clock()
    recent = RecentRooms(lambda: clock.time)
    recent.note("a", stored(7))
    clock.time = LAG_S - 1
    assert (recent.revision("a"), recent.revision("b")) == (7, 0)
    clock.time = LAG_S
    assert recent.revision("a") == 0
    recent.note("b", stored(1))
    assert recent.recall("a") is None
