"""Whether the bus stores messages, which readiness follows.

A server whose disk is full keeps its connections. It answers nothing to a publish into a stream that could not be
written, even after there is space again, until it is restarted.
"""

import asyncio
import logging
import re
from collections.abc import Sequence
from itertools import count

from callboard_contracts.headers import MESSAGE_TTL
from callboard_contracts.streams import BUCKET_WORKERS
from callboard_contracts.workers import ANNOUNCE_LIFE_S, store_check_entry
from callboard_kit.bus import ApiError, Bus, BusError

log = logging.getLogger(__name__)

CHECK_INTERVAL_S = 5.0
CHECK_TIMEOUT_S = 5.0
NO_SUCH_MESSAGE = {"seq": 2**63 - 1}
FILE_ERROR = re.compile(r"^\w+ /.*: ")
"""How the server words an error of its disk: what it did, to which file, and why that failed."""


class StoreHealth:
    """Checks the store again and again, by a write and by asking each of some streams for an error of its disk."""

    def __init__(self, bus: Bus, process: str, streams: Sequence[str]) -> None:
        self.reason: str | None = None
        """Why the store cannot be used, or None."""
        self._bus = bus
        self._streams = streams
        self._subject = f"$KV.{BUCKET_WORKERS}.{store_check_entry(process)}"
        self._ids = (f"{process}.{number}" for number in count())

    async def run(self) -> None:
        """Checks until cancelled."""
        while True:
            if self._bus.connected:
                reason = await self._check()
                if reason != self.reason:
                    log.log(logging.WARNING if reason else logging.INFO, "store_state", extra={"reason": reason})
                self.reason = reason
            await asyncio.sleep(CHECK_INTERVAL_S)

    async def _check(self) -> str | None:
        try:
            for stream in self._streams:
                if await self._failed(stream):
                    return f"the bus's store failed: the stream {stream} could not be written"
            life = {MESSAGE_TTL: f"{ANNOUNCE_LIFE_S}s"}
            await self._bus.publish_stored(self._subject, b"", next(self._ids), CHECK_TIMEOUT_S, life)
        except BusError as error:
            return f"the bus does not store messages: {error}"
        return None

    async def _failed(self, stream: str) -> bool:
        """Whether an earlier write failed, as the server says to a deletion, even of a message that does not exist."""
        try:
            await self._bus.api(f"STREAM.MSG.DELETE.{stream}", NO_SUCH_MESSAGE, CHECK_TIMEOUT_S)
        except ApiError as error:
            return FILE_ERROR.match(str(error)) is not None
        return False
