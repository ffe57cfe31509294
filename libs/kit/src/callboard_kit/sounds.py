"""Sounds on their way to a worker that writes them down: stored in parts, read back whole, deleted after."""

import asyncio
import logging

from callboard_contracts import subjects
from callboard_contracts.errors import CallboardError, ErrorCode
from callboard_contracts.streams import SOUND
from callboard_contracts.transcription import SOUND_PART_BYTES, TranscriptionJob
from callboard_kit.bus import Bus, BusError, PublishRefused
from callboard_kit.jobs import bus_unavailable
from callboard_kit.stream_reads import read_subject

log = logging.getLogger(__name__)

STORE_TIMEOUT_S = 20.0
PARTS_AT_ONCE = 8
FULL_RETRY_S = 5.0


async def store_sound(bus: Bus, edge: str, request_id: str, sound: bytes | bytearray) -> int:
    """Stores a sound and returns in how many parts; call before its job is queued.

    Raises:
        CallboardError: `overloaded` or `bus_unavailable`; what was stored until then is left to `delete_sound`.
    """
    parts = -(-len(sound) // SOUND_PART_BYTES)
    free = asyncio.Semaphore(PARTS_AT_ONCE)

    async def store(n: int) -> None:
        part = bytes(sound[n * SOUND_PART_BYTES : (n + 1) * SOUND_PART_BYTES])
        async with free:
            await bus.publish_stored(subjects.sound(edge, request_id, n), part, f"{request_id}.sound.{n}")

    try:
        async with asyncio.timeout(STORE_TIMEOUT_S), asyncio.TaskGroup() as group:
            for n in range(parts):
                group.create_task(store(n))
    except TimeoutError:
        raise bus_unavailable() from None
    except ExceptionGroup as failures:
        if failures.subgroup(PublishRefused):
            raise CallboardError(
                ErrorCode.OVERLOADED,
                "Too many sounds are waiting to be written down; try again shortly.",
                retry_after_s=FULL_RETRY_S,
            ) from failures
        raise bus_unavailable() from failures
    return parts


async def read_sound(bus: Bus, job: TranscriptionJob) -> bytes | None:
    """The sound of a job, or None where a part of it is gone; raises BusUnavailable."""
    wanted = subjects.sound(job.edge, job.request_id, "*")
    stored = await read_subject(bus, SOUND, wanted, limit=job.parts, timeout_s=STORE_TIMEOUT_S)
    parts = {message.subject.rpartition(".")[2]: message.data for message in stored}
    sound = b"".join(parts.get(str(n), b"") for n in range(job.parts))
    return sound if len(sound) == job.sound_bytes else None


async def delete_sound(bus: Bus, edge: str, request_id: str) -> None:
    """Deletes what is stored of a sound; one that cannot be deleted expires."""
    try:
        await bus.api(f"STREAM.PURGE.{SOUND}", {"filter": subjects.sound(edge, request_id, "*")})
    except BusError:
        log.warning("sound_not_deleted", extra={"request_id": request_id})
