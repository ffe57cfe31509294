"""The services' work queues on JetStream."""

import logging

from cachetools import TTLCache

from callboard_contracts import subjects
from callboard_contracts.jobs import Job, Service
from callboard_contracts.streams import JOB_STREAMS, consumer_name
from callboard_contracts.subjects import JobClass
from callboard_edge.domain.ports import JobRef, QueueDepth
from callboard_kit.bus import Bus, BusError, BusUnavailable
from callboard_kit.jobs import ENQUEUE_TIMEOUT_S, bus_unavailable, enqueue, max_request_bytes
from callboard_kit.sounds import delete_sound, store_sound

log = logging.getLogger(__name__)

DEPTH_LIFE_S = 1.0
"""Many clients ask again and again how long the same queue is."""
MAX_DEPTHS = 1024


class BusJobQueue:
    """Enqueues jobs, and removes them again."""

    def __init__(self, bus: Bus, enqueue_timeout_s: float = ENQUEUE_TIMEOUT_S) -> None:
        self._bus = bus
        self._enqueue_timeout_s = enqueue_timeout_s
        self._depths: TTLCache[str, QueueDepth] = TTLCache(MAX_DEPTHS, DEPTH_LIFE_S)

    @property
    def max_request_bytes(self) -> int:
        """How large the request in a job may be; see `JobQueue`."""
        return max_request_bytes(self._bus)

    async def enqueue(self, job: Job, service: Service, pool: str, job_class: JobClass) -> JobRef:
        """Stores a job; see `JobQueue`."""
        seq = await enqueue(self._bus, job, service, pool, job_class, self._enqueue_timeout_s)
        return JobRef(JOB_STREAMS[service], seq)

    async def store_sound(self, edge: str, request_id: str, sound: bytes | bytearray) -> int:
        """Stores a sound in parts; see `JobQueue`."""
        return await store_sound(self._bus, edge, request_id, sound)

    async def delete_sound(self, edge: str, request_id: str) -> None:
        """Deletes what is stored of a sound; see `JobQueue`."""
        await delete_sound(self._bus, edge, request_id)

    async def cancel(self, request_id: str) -> None:
        """Tells the worker of a request to stop."""
        try:
            await self._bus.publish(subjects.cancel(request_id))
        except BusUnavailable:
            log.warning("cancel_unsent", extra={"request_id": request_id})

    async def remove(self, job_ref: JobRef) -> bool:
        """Deletes a job that may still be queued."""
        try:
            return await self._bus.delete_message(job_ref.stream, job_ref.seq)
        except BusError:
            return False

    async def depth(self, service: Service, pool: str, job_class: JobClass) -> QueueDepth:
        """How long a pool's queue is."""
        consumer = consumer_name(service, pool, job_class)
        known = self._depths.get(consumer)
        if known is not None:
            return known
        try:
            info = await self._bus.api(f"CONSUMER.INFO.{JOB_STREAMS[service]}.{consumer}", {})
        except BusError as error:
            raise bus_unavailable() from error
        depth = self._depths[consumer] = QueueDepth(info["num_pending"], info["delivered"]["stream_seq"])
        return depth
