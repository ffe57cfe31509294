"""Keeps the edge's view of the volunteers current, as `worker_watch` does for workers."""

import asyncio
import logging

from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from callboard_contracts.streams import BUCKET_VOLUNTEERS
from callboard_contracts.volunteers import VolunteerRecord, volunteer_entry
from callboard_edge.domain.volunteers import Volunteers
from callboard_kit.bucket import OPERATION, Bucket
from callboard_kit.bus import Bus, BusError
from callboard_kit.lifecycle import is_set_within

log = logging.getLogger(__name__)

READ_INTERVAL_S = 60.0
_PREFIX = f"$KV.{BUCKET_VOLUNTEERS}."


class VolunteerWatch:
    """Fills `Volunteers` from the bus."""

    name = "volunteer-watch"

    def __init__(self, bus: Bus, volunteers: Volunteers) -> None:
        self._bus = bus
        self._bucket = Bucket(bus, BUCKET_VOLUNTEERS)
        self._volunteers = volunteers
        self._due = asyncio.Event()
        self._subscription: Subscription | None = None

    async def start(self) -> None:
        """Subscribes to changes and reads all records; raises BusUnavailable."""
        self._subscription = await self._bus.subscribe(f"{_PREFIX}>", self._changed)
        self._bus.on_reconnect(self._due.set)
        await self._read()

    async def close(self) -> None:
        """Ends the subscription."""
        if self._subscription is not None:
            await self._bus.unsubscribe(self._subscription)
            self._subscription = None

    async def run(self) -> None:
        """Reads all records again from time to time, for as long as the process runs."""
        while True:
            self._due.clear()
            await is_set_within(self._due, READ_INTERVAL_S)
            await self._read()

    async def _read(self) -> None:
        try:
            entries = await self._bucket.list(volunteer_entry("*"))
        except BusError as error:
            log.warning("volunteers_unread", extra={"reason": str(error)})
            return
        self._volunteers.keep_only(_id(entry.key) for entry in entries)
        for entry in entries:
            self._take(entry.key, entry.value)

    async def _changed(self, message: Msg) -> None:
        key = message.subject.removeprefix(_PREFIX)
        if message.headers and OPERATION in message.headers:
            self._volunteers.forget(_id(key))
        else:
            self._take(key, message.data)

    def _take(self, key: str, value: bytes) -> None:
        try:
            self._volunteers.take(VolunteerRecord.model_validate_json(value))
        except ValueError:
            log.warning("volunteer_unreadable", extra={"key": key})


def _id(key: str) -> str:
    return key.rpartition(".")[2]
