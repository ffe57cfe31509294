"""The services' work queues on JetStream."""

import logging

from callboard_contracts import subjects
from callboard_contracts.errors import CallboardError, ErrorCode
from callboard_contracts.jobs import Job, Service
from callboard_contracts.streams import JOB_STREAMS
from callboard_contracts.subjects import JobClass
from callboard_edge.domain.ports import JobRef
from callboard_kit.bus import MESSAGE_TOO_LARGE, Bus, BusError, BusUnavailable, PublishRefused
from callboard_kit.payload_cipher import OVERHEAD_BYTES

log = logging.getLogger(__name__)

ENQUEUE_TIMEOUT_S = 10.0
JOB_BYTES = 16 * 1024
"""Far more than a job's ids, times, hold and headers take beside its request."""
QUEUE_FULL_RETRY_S = 2.0
STREAM_STORE_FAILED = 10077
"""The server's error code for a message that a stream's bounds refuse."""


class BusJobQueue:
    """Enqueues jobs, and removes them again."""

    def __init__(self, bus: Bus, enqueue_timeout_s: float = ENQUEUE_TIMEOUT_S) -> None:
        self._bus = bus
        self._enqueue_timeout_s = enqueue_timeout_s

    @property
    def max_request_bytes(self) -> int:
        """How large the request in a job may be; see `JobQueue`."""
        return self._bus.connection.max_payload - OVERHEAD_BYTES - JOB_BYTES

    async def enqueue(self, job: Job, service: Service, pool: str, job_class: JobClass) -> JobRef:
        """Stores a job; see `JobQueue`."""
        subject = subjects.job(service, pool, job_class, job.tenant)
        try:
            payload = await self._bus.cipher.encrypt(job.compact())
            stored = await self._bus.publish_stored(
                subject, payload, job.request_id, self._enqueue_timeout_s, flush=True
            )
        except PublishRefused as refused:
            if refused.err_code == STREAM_STORE_FAILED:
                raise CallboardError(
                    ErrorCode.QUEUE_FULL,
                    "Too many of your requests are already waiting; try again shortly.",
                    retry_after_s=QUEUE_FULL_RETRY_S,
                ) from refused
            if refused.err_code == MESSAGE_TOO_LARGE:
                most = self._bus.connection.max_payload
                raise CallboardError(
                    ErrorCode.BODY_TOO_LARGE, f"The request is larger than the {most} bytes that a job may have."
                ) from refused
            log.warning("job_refused", extra={"request_id": job.request_id, "err_code": refused.err_code})
            raise bus_unavailable() from refused
        except BusUnavailable as error:
            raise bus_unavailable() from error
        return JobRef(JOB_STREAMS[service], stored.seq)

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


def bus_unavailable() -> CallboardError:
    """The error for a bus that does not do its part."""
    return CallboardError(
        ErrorCode.BUS_UNAVAILABLE, "The message bus did not accept the work; try again shortly.", retry_after_s=2.0
    )
