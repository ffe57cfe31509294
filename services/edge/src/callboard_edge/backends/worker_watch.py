"""Keeps the edge's view of the workers current.

Announcements are puts into the bucket WORKERS, which a plain subscription sees at once; a watch of the bucket would lag
by seconds after a restart of the server. The bucket is read whole at the start, after each reconnection, and now and
then, since a plain subscription can miss a message.
"""

import logging

from nats.aio.msg import Msg

from callboard_contracts.jobs import Service
from callboard_contracts.streams import BUCKET_WORKERS
from callboard_contracts.workers import PoolRecord, ProcessRecord, WorkerInfo
from callboard_edge.backends.record_watch import RecordWatch
from callboard_edge.domain.workers import Workers
from callboard_kit.bucket import OPERATION, Bucket
from callboard_kit.bus import Bus, BusError
from callboard_kit.lifecycle import is_set_within

log = logging.getLogger(__name__)

READ_INTERVAL_S = 30.0
RETRY_INTERVAL_S = 1.0
_PREFIX = f"$KV.{BUCKET_WORKERS}."


class WorkerWatch(RecordWatch):
    """Fills `Workers` from the bus."""

    name = "worker-watch"

    def __init__(self, bus: Bus, workers: Workers) -> None:
        super().__init__(bus, f"{_PREFIX}>")
        self._bucket = Bucket(bus, BUCKET_WORKERS)
        self._workers = workers

    async def run(self) -> None:
        """Reads the bucket again from time to time, for as long as the process runs."""
        while True:
            await is_set_within(self.due, RETRY_INTERVAL_S if self._workers.loaded_at is None else READ_INTERVAL_S)
            self.due.clear()
            await self.read()

    async def read(self) -> None:
        """Reads the whole bucket."""
        try:
            entries = await self._bucket.list(">")
        except BusError as error:
            log.warning("workers_unread", extra={"reason": str(error)})
            return
        for entry in entries:
            self._take(entry.key, entry.value)
        self._workers.mark_loaded()

    async def heard(self, message: Msg) -> None:
        """Takes an announcement."""
        key = message.subject.removeprefix(_PREFIX)
        if message.headers and OPERATION in message.headers:
            self._workers.forget(key.rpartition(".")[2])
        else:
            self._take(key, message.data)

    def _take(self, key: str, value: bytes) -> None:
        kind, _, rest = key.partition(".")
        try:
            if kind == "worker":
                self._workers.announce(WorkerInfo.model_validate_json(value))
            elif kind == "pool":
                service, _, pool = rest.partition(".")
                self._workers.record(_service(service), pool, PoolRecord.model_validate_json(value))
            elif kind == "process":
                self._workers.supervise(ProcessRecord.model_validate_json(value))
        except ValueError:
            log.warning("announcement_malformed", extra={"key": key})


def _service(text: str) -> Service:
    match text:
        case "chat" | "tts" | "stt":
            return text
        case _:
            raise ValueError(text)
