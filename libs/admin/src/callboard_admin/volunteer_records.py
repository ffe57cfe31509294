"""The records of volunteers, in the bucket VOLUNTEERS."""

from collections.abc import Callable
from typing import Protocol

from callboard_contracts.errors import CallboardError, ErrorCode
from callboard_contracts.streams import BUCKET_VOLUNTEERS
from callboard_contracts.volunteers import RECORD_LIFE_S, VolunteerRecord, volunteer_entry, volunteer_id
from callboard_kit.bucket import Bucket, Conflict, Entry
from callboard_kit.bus import Bus

MAX_ATTEMPTS = 20
MAX_VOLUNTEERS = 100_000

Change = Callable[[VolunteerRecord], VolunteerRecord]


class VolunteerBucket(Protocol):
    """What of a bucket is needed."""

    async def get(self, key: str, *, deleted: bool = False) -> Entry | None:
        """Reads one entry, or None; with `deleted` also what is left of one that was."""
        ...

    async def list(self, pattern: str, limit: int = ...) -> list[Entry]:
        """Reads every entry that matches."""
        ...

    async def put(self, key: str, value: bytes, revision: int | None, *, life_s: int | None = None) -> int:
        """Writes an entry that is at a revision; raises Conflict."""
        ...

    async def delete(self, key: str, *, marker_life_s: int | None = None) -> int:
        """Deletes an entry."""
        ...


class VolunteerRecords:
    """Reads and changes the records; every method raises BusError when the bus fails."""

    def __init__(self, bucket: VolunteerBucket) -> None:
        self._bucket = bucket

    @classmethod
    def on(cls, bus: Bus) -> "VolunteerRecords":
        """The records of an installation."""
        return cls(Bucket(bus, BUCKET_VOLUNTEERS))

    async def all(self) -> list[VolunteerRecord]:
        """Every record, by name."""
        entries = await self._bucket.list(volunteer_entry("*"), MAX_VOLUNTEERS)
        return sorted((_read(entry) for entry in entries), key=lambda record: record.name.casefold())

    async def find(self, text: str) -> VolunteerRecord:
        """The record of an id or name.

        Raises:
            CallboardError: there is none.
        """
        for record in await self.all():
            if record.id in (text.casefold(), volunteer_id(text)):
                return record
        raise CallboardError(ErrorCode.NOT_FOUND, f"{text[:200]!r} names no volunteer", param="who")

    async def change(self, worker_id: str, change: Change, new: VolunteerRecord | None = None) -> VolunteerRecord:
        """Applies a change to the newest version of a record, again if somebody else changed it meanwhile.

        `new` is what is changed where there is none yet. What `change` raises is passed on.

        Raises:
            CallboardError: there is no such record, or it changes all the time.
        """
        key = volunteer_entry(worker_id)
        for _ in range(MAX_ATTEMPTS):
            entry = await self._bucket.get(key, deleted=True)
            known = new if entry is None or entry.deleted else _read(entry)
            if known is None:
                raise CallboardError(ErrorCode.NOT_FOUND, "there is no such volunteer")
            changed = change(known)
            try:
                revision = 0 if entry is None else entry.revision
                await self._bucket.put(key, changed.encoded(), revision, life_s=RECORD_LIFE_S)
            except Conflict:
                continue
            return changed
        raise CallboardError(ErrorCode.CONFLICT, "the volunteer's record changes all the time; try again")

    async def remove(self, worker_id: str) -> None:
        """Forgets a volunteer."""
        await self._bucket.delete(volunteer_entry(worker_id), marker_life_s=60)


def _read(entry: Entry) -> VolunteerRecord:
    return VolunteerRecord.model_validate_json(entry.value)
