"""Keeps the edge's view of the volunteers current.

A record is written by compare-and-set, and refused writes pass on the bucket's subject too. So a message there says
which record to read, and no more. All are read at the start, after each reconnection, and now and then, since a message
can be lost.
"""

import asyncio
import logging

from nats.aio.msg import Msg

from callboard_contracts.streams import BUCKET_VOLUNTEERS
from callboard_contracts.volunteers import VolunteerRecord, volunteer_entry
from callboard_edge.backends.record_watch import RecordWatch
from callboard_edge.domain.volunteers import Volunteers
from callboard_kit.bucket import Bucket
from callboard_kit.bus import Bus, BusError
from callboard_kit.lifecycle import is_set_within

log = logging.getLogger(__name__)

READ_INTERVAL_S = 60.0
RETRY_INTERVAL_S = 1.0
LAG_PAUSE_S = 0.2
"""How long a write may need until it can be read."""
_PREFIX = f"$KV.{BUCKET_VOLUNTEERS}."


class VolunteerWatch(RecordWatch):
    """Fills `Volunteers` from the bus."""

    name = "volunteer-watch"

    def __init__(self, bus: Bus, volunteers: Volunteers) -> None:
        super().__init__(bus, f"{_PREFIX}>")
        self._bucket = Bucket(bus, BUCKET_VOLUNTEERS)
        self._volunteers = volunteers
        self._written: set[str] = set()
        """The entries that may have changed."""

    async def run(self) -> None:
        """Reads what was written, and all records from time to time, for as long as the process runs."""
        while True:
            await is_set_within(self.due, RETRY_INTERVAL_S if self._written else READ_INTERVAL_S)
            self.due.clear()
            if self._written:
                await asyncio.sleep(LAG_PAUSE_S)
                await self._read_written()
            else:
                await self.read()

    async def read(self) -> None:
        """Reads all records."""
        try:
            entries = await self._bucket.list(volunteer_entry("*"))
        except BusError as error:
            log.warning("volunteers_unread", extra={"reason": str(error)})
            return
        self._volunteers.keep_only(_id(entry.key) for entry in entries)
        for entry in entries:
            self._take(entry.key, entry.value)

    async def _read_written(self) -> None:
        written, self._written = self._written, set()
        try:
            for key in written:
                entry = await self._bucket.get(key, deleted=True)
                if entry is None or entry.deleted:
                    self._volunteers.forget(_id(key))
                else:
                    self._take(key, entry.value)
        except BusError as error:
            log.warning("volunteers_unread", extra={"reason": str(error)})
            self._written |= written

    def reconnected(self) -> None:
        """Lets all records be read, whatever was written."""
        self._written.clear()
        super().reconnected()

    async def heard(self, message: Msg) -> None:
        """Lets the record be read that was written."""
        self._written.add(message.subject.removeprefix(_PREFIX))
        self.due.set()

    def _take(self, key: str, value: bytes) -> None:
        try:
            self._volunteers.take(VolunteerRecord.model_validate_json(value))
        except ValueError:
            log.warning("volunteer_unreadable", extra={"key": key})


def _id(key: str) -> str:
    return key.rpartition(".")[2]
