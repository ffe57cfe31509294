"""The work queues on JetStream, as turns use them."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from callboard_contracts import subjects
from callboard_contracts.chat import ChatJob
from callboard_contracts.errors import CallboardError, ErrorCode
from callboard_contracts.headers import MSG_ID
from callboard_contracts.jobs import Job, Service
from callboard_contracts.rooms import Turn
from callboard_contracts.speech import SpeechJob
from callboard_contracts.streams import ATTEMPTS, CHAT, TTS
from callboard_kit.bus import Bus, BusError
from callboard_kit.jobs import enqueue, max_request_bytes
from callboard_kit.stream_reads import read_batches, read_last
from callboard_rooms.domain.ports import StoreUnavailable

FIND_BATCH = 16
"""Jobs can be large, and few of one caller wait."""


class BusTurnJobs:
    """Queues, finds and removes jobs; see `TurnJobs`."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus

    @property
    def max_request_bytes(self) -> int:
        """How large the request in a job may be."""
        return max_request_bytes(self._bus)

    async def queue_chat(self, job: ChatJob, pool: str) -> int:
        """Stores a job that visitors wait for."""
        return await self._queue(job, "chat", pool)

    async def queue_speech(self, job: SpeechJob, pool: str) -> int:
        """Stores a job that is listened to."""
        return await self._queue(job, "tts", pool)

    async def find_chat(self, turn: Turn) -> int | None:
        """The place of a turn's job, or None."""
        subject = subjects.job("chat", turn.pool, "live", turn.tenant)
        async with _available():
            async for batch in read_batches(self._bus, CHAT, subject, batch_size=FIND_BATCH):
                for message in batch:
                    if message.headers.get(MSG_ID) == turn.id:
                        return message.seq
        return None

    async def cancel(self, request_id: str) -> None:
        """Tells the worker of a request to stop."""
        async with _available():
            await self._bus.publish(subjects.cancel(request_id))

    async def remove_chat(self, seq: int) -> None:
        """Deletes a job that may still be queued."""
        async with _available():
            await self._bus.delete_message(CHAT, seq)

    async def remove_speech(self, seq: int) -> None:
        """Deletes a job that may still be queued."""
        async with _available():
            await self._bus.delete_message(TTS, seq)

    async def was_begun(self, request_id: str) -> bool:
        """Whether a worker has, or had, the job of a request."""
        async with _available():
            return await read_last(self._bus, ATTEMPTS, subjects.attempt(request_id)) is not None

    async def _queue(self, job: Job, service: Service, pool: str) -> int:
        try:
            return await enqueue(self._bus, job, service, pool, "live")
        except CallboardError as error:
            if error.info.code is ErrorCode.BUS_UNAVAILABLE:
                raise StoreUnavailable("the job was not stored in time") from error
            raise


@asynccontextmanager
async def _available() -> AsyncGenerator[None]:
    try:
        yield
    except BusError as error:
        raise StoreUnavailable("no answer in time") from error
