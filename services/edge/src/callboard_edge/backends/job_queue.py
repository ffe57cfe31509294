"""The board itself: JetStream work queues."""

import logging

from callboard_contracts import subjects
from callboard_contracts.chat import ChatJob
from callboard_contracts.errors import CallboardError, ErrorCode
from callboard_contracts.speech import SpeechJob
from callboard_contracts.streams import CHAT, TTS
from callboard_edge.domain.ports import JobRef
from callboard_kit.bus import MESSAGE_TOO_LARGE, Bus, BusError, BusUnavailable, PublishRefused

log = logging.getLogger(__name__)

ENQUEUE_TIMEOUT_S = 10.0
QUEUE_FULL_RETRY_S = 2.0
STREAM_STORE_FAILED = 10077
"""The server's error code for a message that a stream's bounds refuse."""


class BusJobQueue:
    """Posts jobs that somebody waits for, and takes them back."""

    def __init__(self, bus: Bus, enqueue_timeout_s: float = ENQUEUE_TIMEOUT_S) -> None:
        self._bus = bus
        self._enqueue_timeout_s = enqueue_timeout_s

    async def enqueue_chat(self, job: ChatJob, pool: str) -> JobRef:
        """Posts a chat job; a repeat of the same request id is stored once."""
        subject = subjects.chat_job(pool, "live", job.tenant)
        return await self._post(CHAT, subject, job.model_dump_json().encode(), job.request_id)

    async def enqueue_speech(self, job: SpeechJob, pool: str) -> JobRef:
        """Posts a speech job; a repeat of the same request id is stored once."""
        subject = subjects.tts_job(pool, "live", job.tenant)
        return await self._post(TTS, subject, job.model_dump_json().encode(), job.request_id)

    async def _post(self, stream: str, subject: str, payload: bytes, request_id: str) -> JobRef:
        try:
            stored = await self._bus.publish_stored(subject, payload, request_id, self._enqueue_timeout_s, flush=True)
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
            log.warning("job_refused", extra={"request_id": request_id, "err_code": refused.err_code})
            raise _unavailable() from refused
        except BusUnavailable as error:
            raise _unavailable() from error
        return JobRef(stream, stored.seq)

    async def cancel(self, request_id: str) -> None:
        """Tells the worker of a request that nobody waits any more."""
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


def _unavailable() -> CallboardError:
    return CallboardError(
        ErrorCode.BUS_UNAVAILABLE, "The message bus did not accept the work; try again shortly.", retry_after_s=2.0
    )
