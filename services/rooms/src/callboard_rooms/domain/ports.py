"""What rooms need from the outside, as the protocols that the backends implement."""

from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Protocol

from callboard_contracts.characters import CharacterChanged
from callboard_contracts.chat import ChatJob, ChatResult
from callboard_contracts.errors import ErrorInfo
from callboard_contracts.quota import Hold
from callboard_contracts.rooms import Room, Turn
from callboard_contracts.speech import SpeechJob


class StoreUnavailable(Exception):  # noqa: N818 - a state, not a failure
    """The bus did not answer in time; a write may have happened."""


class Conflict(Exception):  # noqa: N818 - a state, not a failure
    """The room was changed since it was read."""


@dataclass(frozen=True, slots=True)
class StoredRoom:
    """A room at a revision; what is left of one that has ended is a revision alone, and 0 stands for none.

    `size_bytes` is that of its document, where it was written.
    """

    room: Room | None
    revision: int
    size_bytes: int = 0


class RoomStore(Protocol):
    """Keeps rooms, which change only at the revision that was read. Every method raises StoreUnavailable."""

    @property
    def max_document_bytes(self) -> int:
        """How large a room may be, as JSON."""
        ...

    async def load(self, room_id: str) -> StoredRoom:
        """Reads a room."""
        ...

    async def save(self, room: Room, revision: int, document: bytes | None = None) -> StoredRoom:
        """Writes a room that is at a revision and returns it at the new one; raises Conflict.

        `document` is the room's JSON, where it is known.
        """
        ...

    async def delete(self, room_id: str, revision: int) -> None:
        """Deletes a room that is at a revision; raises Conflict."""
        ...

    def changes(self, after_revision: int) -> AsyncGenerator[list[tuple[str, StoredRoom]]]:
        """Yields the rooms that were changed after a revision, by their ids, some at a time."""
        ...


class CharacterStore(Protocol):
    """Keeps characters, which change only at the revision that was read, and what was imported with them.

    Every method raises StoreUnavailable.
    """

    async def load(self, entry: str) -> tuple[bytes | None, int]:
        """Reads an entry and its revision; nothing and the mark's revision where it was deleted, 0 for none."""
        ...

    async def save(self, entry: str, data: bytes, revision: int | None) -> int:
        """Writes an entry that is at a revision, or whatever is there, and returns the new one; raises Conflict."""
        ...

    async def delete(self, entry: str, revision: int | None) -> int:
        """Deletes an entry that is at a revision, or whatever is there, and returns the mark's; raises Conflict."""
        ...


class CharacterNews(Protocol):
    """Tells edges of characters that have changed."""

    async def changed(self, news: CharacterChanged) -> None:
        """Says that a character has changed; lost where the bus is away."""
        ...


class TurnJobs(Protocol):
    """The work queues, as turns use them. Every method raises StoreUnavailable."""

    @property
    def max_request_bytes(self) -> int:
        """How large the request in a job may be, as JSON."""
        ...

    async def queue_chat(self, job: ChatJob, pool: str) -> int:
        """Stores a job, once for each id within two minutes, and returns its place.

        Raises:
            CallboardError: `queue_full` or `body_too_large`.
        """
        ...

    async def queue_speech(self, job: SpeechJob, pool: str) -> int:
        """Stores a job; raises as `queue_chat`."""
        ...

    async def find_chat(self, turn: Turn) -> int | None:
        """The place of a turn's job that is queued or in work, or None."""
        ...

    async def cancel(self, request_id: str) -> None:
        """Tells the worker of a request, if there is one, to stop."""
        ...

    async def remove_chat(self, seq: int) -> None:
        """Deletes a job that may still be queued."""
        ...

    async def remove_speech(self, seq: int) -> None:
        """Deletes a job that may still be queued."""
        ...

    async def was_begun(self, request_id: str) -> bool:
        """Whether a worker has, or had, the job of a request."""
        ...


class TurnResults(Protocol):
    """The kept results of turns. Every method raises StoreUnavailable."""

    async def read(self, turn_id: str) -> ChatResult | None:
        """How a turn ended, or None."""
        ...

    async def keep_error(self, turn: Turn, error: ErrorInfo | None) -> None:
        """Keeps that a turn ended without a worker: with an error, or because it was cancelled."""
        ...


class RoomAudio(Protocol):
    """What listeners of a room are told beside the sound. Every method raises StoreUnavailable."""

    async def announce(self, room: Room, turn: Turn) -> None:
        """Says that a turn's utterance comes, and who may hear it again."""
        ...

    async def leave_out(self, room_id: str, turn: Turn) -> None:
        """Ends a turn's utterance before its first sound."""
        ...


class Holds(Protocol):
    """What is held of quota for turns."""

    async def release(self, hold: Hold) -> None:
        """Gives a hold back; one that cannot be given back expires."""
        ...


class RoomNews(Protocol):
    """Tells other processes of changes."""

    async def changed(self, room_id: str) -> None:
        """Says that a room has changed; lost where the bus is away."""
        ...


class RoomMetrics(Protocol):
    """What is counted of rooms."""

    def conflict(self) -> None:
        """Another process changed a room first."""
        ...

    def turn_started(self, wait_s: float) -> None:
        """A turn was started after so long."""
        ...

    def turn_ended(self, outcome: str) -> None:
        """A turn ended: `answered`, `spoken`, `failed` or `cancelled`."""
        ...
