"""Rooms and what their turns need, in memory."""

from collections.abc import AsyncGenerator, Callable

from callboard_contracts.characters import CharacterChanged
from callboard_contracts.chat import ChatEnd, ChatJob, ChatResult
from callboard_contracts.errors import CallboardError, ErrorInfo
from callboard_contracts.quota import Hold
from callboard_contracts.rooms import Room, Turn
from callboard_contracts.speech import SpeechJob
from callboard_rooms.domain.ports import Conflict, StoredRoom, StoreUnavailable


class MemoryRoomStore:
    """Behaves like the bucket; `before_write` is called before each write, so that a test can write first.

    The next `lagging` reads find a room as it was before its last write, as a replica that lags behind has it; `loads`
    counts all of them.
    """

    def __init__(self, max_document_bytes: int = 1_000_000) -> None:
        self.max_document_bytes = max_document_bytes
        self.before_write: Callable[[str], object] = lambda _room_id: None
        self.lagging = 0
        self.loads = 0
        self._rooms: dict[str, tuple[bytes | None, int]] = {}
        self._before: dict[str, tuple[bytes | None, int]] = {}
        self._revision = 0

    async def load(self, room_id: str) -> StoredRoom:
        """Reads a room."""
        self.loads += 1
        lags, self.lagging = self.lagging > 0, max(0, self.lagging - 1)
        return _stored(*(self._before if lags else self._rooms).get(room_id, (None, 0)))

    async def save(self, room: Room, revision: int, document: bytes | None = None) -> StoredRoom:
        """Writes a room that is at a revision."""
        data = document or room.compact()
        return StoredRoom(room, self._write(room.id, data, revision), len(data))

    async def delete(self, room_id: str, revision: int) -> None:
        """Deletes a room that is at a revision."""
        self._write(room_id, None, revision)

    async def changes(self, after_revision: int) -> AsyncGenerator[list[tuple[str, StoredRoom]]]:
        """Yields the rooms that were changed after a revision."""
        yield [(name, _stored(*one)) for name, one in self._rooms.items() if one[1] > after_revision]

    def bump(self, room_id: str) -> None:
        """Writes a room as it is, as another process may at any time."""
        self._revision += 1
        self._rooms[room_id] = (self._rooms[room_id][0], self._revision)

    def discard(self, room_id: str) -> None:
        """Drops a room without a mark, as the bucket does where it has no space."""
        del self._rooms[room_id]

    def _write(self, room_id: str, data: bytes | None, revision: int) -> int:
        self.before_write(room_id)
        before = self._rooms.get(room_id, (None, 0))
        if before[1] != revision:
            raise Conflict(room_id)
        self._revision += 1
        self._before[room_id], self._rooms[room_id] = before, (data, self._revision)
        return self._revision


class MemoryCharacterStore:
    """Characters in memory; `before_write` is called before each write, so that a test can write first."""

    def __init__(self) -> None:
        self.before_write: Callable[[str], object] = lambda _entry: None
        self.entries: dict[str, tuple[bytes | None, int]] = {}
        self.told: list[CharacterChanged] = []
        self._revision = 0

    async def load(self, entry: str) -> tuple[bytes | None, int]:
        """Reads an entry and its revision."""
        return self.entries.get(entry, (None, 0))

    async def save(self, entry: str, data: bytes, revision: int | None) -> int:
        """Writes an entry."""
        return self._write(entry, data, revision)

    async def delete(self, entry: str, revision: int | None) -> int:
        """Deletes an entry."""
        return self._write(entry, None, revision)

    async def changed(self, news: CharacterChanged) -> None:
        """Notes a change."""
        self.told.append(news)

    def _write(self, entry: str, data: bytes | None, revision: int | None) -> int:
        self.before_write(entry)
        if revision is not None and self.entries.get(entry, (None, 0))[1] != revision:
            raise Conflict(entry)
        self._revision += 1
        self.entries[entry] = data, self._revision
        return self._revision


class MemoryTurns:
    """Work queues, results, announcements and holds in memory.

    `refusal` and `failure` are raised on demand; the next `cancel_failures` cancellations find no bus.
    """

    def __init__(self) -> None:
        self.max_request_bytes = 1_000_000
        self.failure: Exception | None = None
        self.cancel_failures = 0
        self.refusal: CallboardError | None = None
        self.speech_refusal: CallboardError | None = None
        self.chats: list[ChatJob] = []
        self.speeches: list[SpeechJob] = []
        self.removed: list[int] = []
        self.cancelled: list[str] = []
        self.begun: set[str] = set()
        self.results: dict[str, ChatResult] = {}
        self.announced: list[int] = []
        self.left_out: list[int] = []
        self.released: list[str] = []
        self.told: list[str] = []

    async def queue_chat(self, job: ChatJob, pool: str) -> int:
        """Stores a job once."""
        self._fail(self.refusal)
        if all(known.request_id != job.request_id for known in self.chats):
            self.chats.append(job)
        return self._place(job.request_id)

    async def queue_speech(self, job: SpeechJob, pool: str) -> int:
        """Stores a job once."""
        self._fail(self.speech_refusal)
        if all(known.request_id != job.request_id for known in self.speeches):
            self.speeches.append(job)
        return len(self.speeches)

    async def find_chat(self, turn: Turn) -> int | None:
        """The place of a turn's job, or None."""
        self._fail()
        known = any(job.request_id == turn.id for job in self.chats)
        return self._place(turn.id) if known and turn.id not in self.results else None

    async def cancel(self, request_id: str) -> None:
        """Notes the cancellation."""
        if self.cancel_failures:
            self.cancel_failures -= 1
            raise StoreUnavailable("away")
        self.cancelled.append(request_id)

    async def remove_chat(self, seq: int) -> None:
        """Notes the removal."""
        self.removed.append(seq)

    async def remove_speech(self, seq: int) -> None:
        """Notes the removal."""
        self.removed.append(-seq)

    async def was_begun(self, request_id: str) -> bool:
        """Whether a test says so."""
        return request_id in self.begun

    async def read(self, turn_id: str) -> ChatResult | None:
        """How a turn ended, or None."""
        self._fail()
        return self.results.get(turn_id)

    async def keep_error(self, turn: Turn, error: ErrorInfo | None) -> None:
        """Keeps that a turn ended without a worker."""
        end = ChatEnd(reason="error", error=error) if error else ChatEnd(reason="cancelled")
        self.results.setdefault(turn.id, ChatResult(request_id=turn.id, model="", text="", end=end))

    async def announce(self, room: Room, turn: Turn) -> None:
        """Notes an utterance, once."""
        del room
        self._fail()
        if turn.number not in self.announced:
            self.announced.append(turn.number)

    async def leave_out(self, room_id: str, turn: Turn) -> None:
        """Notes an utterance that does not come."""
        self.left_out.append(turn.number)

    async def release(self, hold: Hold) -> None:
        """Notes a hold that was given back."""
        self.released.append(hold.request_id)

    async def changed(self, room_id: str) -> None:
        """Notes a change."""
        self.told.append(room_id)

    def _place(self, request_id: str) -> int:
        return next(n for n, job in enumerate(self.chats, 1) if job.request_id == request_id)

    def _fail(self, refusal: Exception | None = None) -> None:
        if self.failure is not None or refusal is not None:
            raise self.failure or refusal  # pyright: ignore[reportGeneralTypeIssues] - one of them is set


def _stored(data: bytes | None, revision: int) -> StoredRoom:
    return StoredRoom(None if data is None else Room.model_validate_json(data), revision)
