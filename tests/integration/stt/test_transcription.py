"""A worker that writes down speech as a process of its own, on a real bus and with a real quota process."""

import asyncio
import time
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from callboard_contracts import subjects
from callboard_contracts.errors import ErrorCode
from callboard_contracts.jobs import JOB_VERSION
from callboard_contracts.quota import UsageEvent, Work
from callboard_contracts.streams import OUT, SOUND, USAGE
from callboard_contracts.transcription import (
    SOUND_PART_BYTES,
    TranscriptionFrame,
    TranscriptionJob,
    TranscriptionRequest,
    text_of,
)
from callboard_kit.bus import Bus
from callboard_kit.sounds import delete_sound, store_sound
from callboard_kit.stream_reads import read_subject
from tests.integration.quota.deployment import QuotaDeployment, hold_of, no_leases, request
from tests.support.ports import free_port
from tests.support.processes import Service, merged
from tests.support.sounds import melody, silence, wav

pytestmark = [pytest.mark.integration, pytest.mark.timeout(400)]

POOL = "ear"
MODEL = "whisper"
LIMIT_TOKENS = 3_000
HELD_MS = 1_000
CONFIG = {
    "stt": {
        "pools": {POOL: {"backend": "fake", "slots": 2}},
        "models": {MODEL: {"pool": POOL, "engine_model": "fake?latency_s=0.2"}},
        "drain_timeout_s": 5,
    },
    "quota": {"tiers": {"anonymous": {"tokens_per_day": LIMIT_TOKENS}}},
}
PITCHES = [200, 300, 400, 500, 600, 700, 800, 900]
TEXT = " ".join(f"tone {pitch}" for pitch in PITCHES)


class Worker(Service):
    """One worker's process."""

    def __init__(self, deployment: QuotaDeployment, name: str) -> None:
        port = free_port()
        table = merged(deployment.table, {"stt": {"pools": {POOL: {"metrics_port": port}}}})
        arguments = ("--pool", POOL)
        super().__init__(name, "callboard_stt", table, deployment.folder, health_port=port, arguments=arguments)

    def begin(self) -> None:
        """Starts it and waits until it is ready."""
        self.start()
        self.wait_ready()


@pytest.fixture
async def deployment(tmp_path: Path) -> AsyncGenerator[QuotaDeployment]:
    """A bus and one quota process."""
    own = QuotaDeployment(tmp_path / "deployment", CONFIG)
    try:
        await asyncio.to_thread(own.start)
        yield own
        await asyncio.to_thread(own.stop)
    finally:
        await asyncio.to_thread(own.abandon)


async def asked(bus: Bus, name: str, sound: bytes) -> TranscriptionJob:
    """Queues a job as an edge does: the hold, the sound, then the job."""
    wish = request(name, 0, kind="transcription", model=MODEL).model_copy(update={"work": Work(audio_ms=HELD_MS)})
    hold = await hold_of(bus, wish)
    parts = await store_sound(bus, "e1", name, sound)
    now = time.time()
    job = TranscriptionJob(
        version=JOB_VERSION,
        request_id=name,
        edge="e1",
        tenant=hold.tenant,
        hold=hold,
        created_at=now,
        deadline_at=now + 60,
        request=TranscriptionRequest(model=MODEL),
        parts=parts,
        sound_bytes=len(sound),
    )
    await bus.publish_stored(subjects.job("stt", POOL, "batch", job.tenant), job.encoded(), name)
    return job


async def frames(bus: Bus, name: str) -> list[TranscriptionFrame]:
    """The frames that were sent so far."""
    stored = await read_subject(bus, OUT, subjects.out("e1", name))
    return [TranscriptionFrame.model_validate_json(message.data) for message in stored]


async def ended(bus: Bus, name: str) -> list[TranscriptionFrame]:
    """All frames, once the last is there."""
    async with asyncio.timeout(60):
        while not (found := await frames(bus, name)) or found[-1].end is None:
            await asyncio.sleep(0.05)
    return found


async def charged_ms(bus: Bus, job: TranscriptionJob) -> list[int]:
    """What the usage events of a request say."""
    stored = await read_subject(bus, USAGE, subjects.usage(job.tenant))
    events = [UsageEvent.model_validate_json(message.data) for message in stored]
    return [event.work.audio_ms for event in events if event.request_id == job.request_id]


async def test_sounds_become_text_and_are_charged_once_as_heard(deployment: QuotaDeployment) -> None:
    first, second = Worker(deployment, "stt-0"), Worker(deployment, "stt-1")
    async with deployment.bus() as bus:
        try:
            await asyncio.to_thread(first.begin)
            # Longer than one part, so that parts are put together again.
            large = wav(melody([*PITCHES, *PITCHES, *PITCHES]))
            assert len(large) > 2 * SOUND_PART_BYTES
            job = await asked(bus, "lost", large)
            async with asyncio.timeout(60):
                while len(await frames(bus, "lost")) < 2:
                    await asyncio.sleep(0.05)
            await asyncio.to_thread(first.running.kill)
            await asyncio.to_thread(second.begin)
            found = await ended(bus, "lost")
            assert text_of(segment for frame in found for segment in frame.segments) == f"{TEXT} {TEXT} {TEXT}"
            assert {frame.attempt for frame in found} == {1, 2}
            await no_leases(bus)
            assert await charged_ms(bus, job) == [24_000]

            await delete_sound(bus, "e1", "lost")
            assert await read_subject(bus, SOUND, subjects.sound("e1", "lost", "*")) == []

            for name, sound, code in (
                ("junk", b"no sound at all" * 100, ErrorCode.INVALID_REQUEST),
                # 24 s of 30 have been heard, of a limit of 3,000 tokens at 100 for each second.
                ("limit", wav(melody(PITCHES)), ErrorCode.QUOTA_EXCEEDED),
                ("silence", wav(silence(2)), None),
            ):
                job = await asked(bus, name, sound)
                (last,) = [frame.end for frame in await ended(bus, name) if frame.end is not None]
                assert (last.error.code if last.error else None) == code
                await no_leases(bus)
                assert await charged_ms(bus, job) == [0]
        finally:
            for worker in (first, second):
                if worker.alive:
                    await asyncio.to_thread(worker.running.kill)
