"""What a process has written lately, so that it need not read again what nobody else has changed."""

from collections import OrderedDict
from collections.abc import Callable

from callboard_rooms.domain.ports import StoredRoom

LAG_S = 10.0
"""For so long a replica may answer with a room as it was before this process wrote it."""
MAX_RECALLED_BYTES = 8 * 1024 * 1024
"""The documents that are kept have no more bytes than this together; as objects they are several times as large."""


class RecentRooms:
    """The rooms that this process has written in the last 10 s: the revisions of all, the documents of the latest."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._revisions: OrderedDict[str, tuple[int, float]] = OrderedDict()
        self._documents: OrderedDict[str, StoredRoom] = OrderedDict()
        self._bytes = 0

    def note(self, room_id: str, written: StoredRoom) -> None:
        """Remembers what was written."""
        now = self._now()
        self._revisions[room_id] = (written.revision, now + LAG_S)
        self._revisions.move_to_end(room_id)
        self.forget(room_id)
        self._documents[room_id] = written
        self._bytes += written.size_bytes
        while next(iter(self._revisions.values()))[1] <= now:
            self.forget(self._revisions.popitem(last=False)[0])
        while self._bytes > MAX_RECALLED_BYTES:
            self.forget(next(iter(self._documents)))

    def forget(self, room_id: str) -> None:
        """Forgets a document that may not be what is stored."""
        if (document := self._documents.pop(room_id, None)) is not None:
            self._bytes -= document.size_bytes

    def recall(self, room_id: str) -> StoredRoom | None:
        """A room as this process wrote it last; others may have changed it since."""
        return self._documents.get(room_id)

    def revision(self, room_id: str) -> int:
        """The latest revision of a room that this process knows to have been written; 0 for none."""
        revision, until = self._revisions.get(room_id, (0, 0.0))
        return revision if self._now() < until else 0
