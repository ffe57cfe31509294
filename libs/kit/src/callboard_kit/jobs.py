"""Stores jobs in the services' work queues."""

import asyncio
import logging
import time

from callboard_contracts import subjects
from callboard_contracts.errors import CallboardError, ErrorCode
from callboard_contracts.headers import PREFERRED_WORKER
from callboard_contracts.jobs import Job, Service
from callboard_contracts.subjects import JobClass
from callboard_kit import tracing
from callboard_kit.bus import MESSAGE_TOO_LARGE, Bus, BusUnavailable, PublishRefused
from callboard_kit.payload_cipher import OVERHEAD_BYTES

log = logging.getLogger(__name__)

ENQUEUE_TIMEOUT_S = 20.0
"""Longer than the bus takes to elect a leader."""
KEY_RETRY_S = 0.1
JOB_BYTES = 16 * 1024
"""Far more than a job's ids, times, hold and headers take beside its request."""
QUEUE_FULL_RETRY_S = 2.0
STREAM_STORE_FAILED = 10077
"""The server's error code for a message that a stream's bounds refuse."""


def max_request_bytes(bus: Bus) -> int:
    """How large the request in a job may be, as JSON."""
    return bus.connection.max_payload - OVERHEAD_BYTES - JOB_BYTES


async def enqueue(
    bus: Bus, job: Job, service: Service, pool: str, job_class: JobClass, timeout_s: float = ENQUEUE_TIMEOUT_S
) -> int:
    """Stores a job in a pool's queue and returns its place there; a repeat of the same request id is stored once.

    Raises:
        CallboardError: `queue_full`, `body_too_large` or `bus_unavailable`.
    """
    subject = subjects.job(service, pool, job_class, job.tenant)
    until = time.monotonic() + timeout_s
    try:
        headers = {PREFERRED_WORKER: job.preferred_worker} if job.preferred_worker else None
        with tracing.span(f"enqueue {service} job", "producer", attributes=_attributes(job, pool, job_class)):
            payload = await _encrypted(bus, job, until)
            left_s = until - time.monotonic()
            return (await bus.publish_stored(subject, payload, job.request_id, left_s, headers)).seq
    except PublishRefused as refused:
        if refused.err_code == STREAM_STORE_FAILED:
            raise CallboardError(
                ErrorCode.QUEUE_FULL,
                "Too many of your requests are already waiting; try again shortly.",
                retry_after_s=QUEUE_FULL_RETRY_S,
            ) from refused
        if refused.err_code == MESSAGE_TOO_LARGE:
            most = bus.connection.max_payload
            raise CallboardError(
                ErrorCode.BODY_TOO_LARGE, f"The request is larger than the {most} bytes that a job may have."
            ) from refused
        log.warning("job_refused", extra={"request_id": job.request_id, "err_code": refused.err_code})
        raise bus_unavailable() from refused
    except BusUnavailable as error:
        raise bus_unavailable() from error


async def _encrypted(bus: Bus, job: Job, until: float) -> bytes:
    """The bytes of a job; where a new key is due, a bus that elects a leader is waited for."""
    while True:
        try:
            return await bus.cipher.encrypt(job.compact())
        except BusUnavailable:
            if time.monotonic() + KEY_RETRY_S >= until:
                raise
        await asyncio.sleep(KEY_RETRY_S)


def _attributes(job: Job, pool: str, job_class: JobClass) -> tracing.Attributes:
    return {"callboard.request_id": job.request_id, "callboard.pool": pool, "callboard.job_class": job_class}


def bus_unavailable() -> CallboardError:
    """The error for a bus that does not do its part."""
    return CallboardError(
        ErrorCode.BUS_UNAVAILABLE, "The message bus did not accept the work; try again shortly.", retry_after_s=2.0
    )
