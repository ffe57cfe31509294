"""A speech worker that holds what it speaks with real quota processes on a real bus."""

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from callboard_contracts import subjects
from callboard_contracts.config import Config
from callboard_contracts.errors import ErrorCode
from callboard_contracts.headers import SEGMENT
from callboard_contracts.jobs import JOB_VERSION
from callboard_contracts.quota import Hold, UsageEvent, Work
from callboard_contracts.speech import BYTES_PER_MS, SegmentInfo, SpeechEnd, SpeechJob, SpeechRequest
from callboard_contracts.streams import AUDIO, USAGE
from callboard_kit.bus import Bus
from callboard_kit.lifecycle import Shutdown
from callboard_kit.stream_reads import read_subject
from callboard_tts.app import run_worker
from callboard_tts.backends.fake import FakeEngine, Script
from callboard_tts.settings import pool_settings
from tests.integration.quota.deployment import (
    QuotaDeployment,
    audit,
    counters,
    eventually,
    hold_of,
    no_leases,
    request,
    settled,
)

pytestmark = [pytest.mark.integration, pytest.mark.timeout(400)]

POOL = "booth"
MODEL = "parrot"
SLICE_MS = 5_000
UNITS_PER_MS = 100
LIMIT_UNITS = 2_000_000
CONFIG = {
    "tts": {
        "pools": {POOL: {"backend": "fake", "slots": 4}},
        "models": {MODEL: {"pool": POOL}},
        "hold_slice_ms": SLICE_MS,
        "drain_timeout_s": 5,
    },
    "quota": {"tiers": {"anonymous": {"tokens_per_day": LIMIT_UNITS // 1000}}, "decision_timeout_s": 1.0},
}
TEXT = " ".join(f"This is sentence number {n} of a text, and it has some more words in it." for n in range(30))
SHORT = " ".join(TEXT.split()[:60])
SLOW = Script(chunk_latency_s=0.03)
RETURN_BOUND_S = 5.0
"""A second is promised, and some 30 ms are usual; a busy machine may stand still in between."""


@pytest.fixture
async def deployment(tmp_path: Path) -> AsyncGenerator[QuotaDeployment]:
    """A bus and one quota process of the test's own."""
    own = QuotaDeployment(tmp_path / "deployment", CONFIG)
    try:
        await asyncio.to_thread(own.start)
        yield own
        await asyncio.to_thread(own.stop)
    finally:
        await asyncio.to_thread(own.abandon)


@pytest.fixture
async def bus(deployment: QuotaDeployment) -> AsyncGenerator[Bus]:
    """A connection to it."""
    async with deployment.bus() as connected:
        yield connected


@asynccontextmanager
async def worker(deployment: QuotaDeployment, script: Script | None = None, **over: Any) -> AsyncGenerator[None]:
    """A speech worker in this process."""
    config = Config.model_validate({**deployment.table, "quota": {**deployment.table["quota"], **over}})
    shutdown = Shutdown()
    running = asyncio.ensure_future(run_worker(config, pool_settings(config, POOL, {}), FakeEngine(script), shutdown))
    try:
        yield
    finally:
        shutdown.request_stop("test")
        async with asyncio.timeout(20):
            await running


async def held(bus: Bus, name: str, text: str, held_ms: int = SLICE_MS) -> SpeechJob:
    """A job whose first slice is held, as an edge makes it."""
    wish = request(name, 0, kind="speech", model=MODEL).model_copy(update={"work": Work(audio_ms=held_ms)})
    hold = await hold_of(bus, wish)
    now = time.time()
    return SpeechJob(
        version=JOB_VERSION,
        request_id=name,
        edge="e1",
        tenant=hold.tenant,
        room="e1",
        utterance=name,
        request=SpeechRequest(model=MODEL, text=text, voice="af_sky"),
        hold=hold,
        created_at=now,
        deadline_at=now + 60,
    )


async def post(bus: Bus, job: SpeechJob) -> SpeechJob:
    """Posts a job; no edge waits for it, so it is one that is polled."""
    subject = subjects.job("tts", POOL, "batch", job.tenant)
    await bus.publish_stored(subject, job.model_dump_json().encode(), job.request_id)
    return job


async def ask(bus: Bus, name: str, text: str, held_ms: int = SLICE_MS) -> SpeechJob:
    """Holds the first slice and posts the job."""
    return await post(bus, await held(bus, name, text, held_ms))


async def heard(bus: Bus, job: SpeechJob) -> tuple[int, SpeechEnd | None, list[Hold], bool]:
    """The sound so far in milliseconds, the end, the extensions on the way, and whether the last piece is whole."""
    messages = await read_subject(bus, AUDIO, subjects.audio("e1", job.request_id, "*"))
    infos = [SegmentInfo.model_validate_json(message.headers[SEGMENT]) for message in messages]
    sound = [info for info in infos if info.end is None]
    return (
        sum(len(message.data) for message in messages) // BYTES_PER_MS,
        infos[-1].end if infos else None,
        [hold for info in infos for hold in info.extensions],
        not sound or sound[-1].piece_done,
    )


async def ended(bus: Bus, job: SpeechJob) -> tuple[int, SpeechEnd, list[Hold], bool]:
    async def over() -> bool:
        return (await heard(bus, job))[1] is not None

    await eventually(over, "the speech ends", 40)
    audio_ms, end, extensions, is_whole = await heard(bus, job)
    assert end is not None
    return audio_ms, end, extensions, is_whole


async def usage_of(bus: Bus, job: SpeechJob) -> UsageEvent:
    async def there() -> bool:
        return bool(await read_subject(bus, USAGE, subjects.usage(job.tenant)))

    await eventually(there, "the usage is kept")
    events = [UsageEvent.model_validate_json(kept.data) for kept in await read_subject(bus, USAGE, "usage.*")]
    (event,) = [event for event in events if event.request_id == job.request_id]
    return event


async def is_settled(bus: Bus, charged_ms: int, tenant: str) -> None:
    """Waits until all is settled, and checks that exactly the sound is charged."""
    await settled(bus)
    await no_leases(bus)
    assert (await counters(bus))[tenant, "units"] == charged_ms * UNITS_PER_MS


async def test_long_speech_is_topped_up_and_charged_exactly(deployment: QuotaDeployment, bus: Bus) -> None:
    async with worker(deployment):
        job = await ask(bus, "long-1", SHORT)
        audio_ms, end, extensions, _ = await ended(bus, job)
        event = await usage_of(bus, job)
    assert (end.reason, end.audio_ms) == ("stop", audio_ms)
    assert len(extensions) > 1
    assert list(event.extensions) == extensions
    await is_settled(bus, audio_ms, job.tenant)
    assert audio_ms > SLICE_MS

    async def noted() -> bool:
        return len([note for note in await audit(bus, "long-1") if note.kind == "settled"]) == 1 + len(extensions)

    await eventually(noted, "every hold is noted as settled")
    charged = [note.units for note in await audit(bus, "long-1") if note.kind == "settled"]
    assert sum(charged) == audio_ms * UNITS_PER_MS


async def test_limit_ends_speech_after_a_piece_and_the_rest_of_the_holds_comes_back(
    deployment: QuotaDeployment, bus: Bus
) -> None:
    async with worker(deployment):
        job = await ask(bus, "limited-1", TEXT)
        audio_ms, end, extensions, is_whole = await ended(bus, job)
        over_at = time.monotonic()
        assert is_whole
        assert end.reason == "limit"
        assert end.error is not None
        assert (end.error.code, end.error.limit) == (ErrorCode.QUOTA_EXCEEDED, "address.tokens_per_day")
        assert end.error.retry_after_s is not None
        assert job.hold is not None
        held_units = sum(hold.units or 0 for hold in (job.hold, *extensions))
        assert audio_ms * UNITS_PER_MS <= held_units <= LIMIT_UNITS
        await is_settled(bus, audio_ms, job.tenant)
        assert time.monotonic() - over_at < RETURN_BOUND_S
        event = await usage_of(bus, job)
        assert (event.outcome, list(event.extensions)) == ("length", extensions)
        # What the limit still leaves is there for the next one, which takes it to the last piece that fits.
        left_ms = LIMIT_UNITS // UNITS_PER_MS - audio_ms
        again = await ask(bus, "limited-2", TEXT, held_ms=min(left_ms, SLICE_MS))
        more_ms, end, _, is_whole = await ended(bus, again)
        assert is_whole
        assert end.reason == "limit"
        assert audio_ms + more_ms <= LIMIT_UNITS // UNITS_PER_MS
        await is_settled(bus, audio_ms + more_ms, job.tenant)


async def test_cancelled_speech_pays_for_what_was_sent_and_gives_back_the_rest(
    deployment: QuotaDeployment, bus: Bus
) -> None:
    async with worker(deployment, SLOW):
        job = await ask(bus, "left-1", SHORT)

        async def speaks() -> bool:
            return len((await heard(bus, job))[2]) >= 1

        await eventually(speaks, "the speech is topped up")
        await bus.publish(subjects.cancel(job.request_id))
        audio_ms, end, _, _ = await ended(bus, job)
        over_at = time.monotonic()
        assert (end.reason, end.audio_ms) == ("cancelled", audio_ms)
        await is_settled(bus, audio_ms, job.tenant)
        assert time.monotonic() - over_at < RETURN_BOUND_S


async def test_quota_that_is_killed_on_the_way_and_comes_back_is_not_heard(
    deployment: QuotaDeployment, bus: Bus
) -> None:
    async with worker(deployment, SLOW):
        job = await ask(bus, "killed-1", SHORT)
        await asyncio.to_thread(deployment.quotas[0].running.kill)
        service = await asyncio.to_thread(deployment.add)
        await asyncio.to_thread(service.wait_ready)
        audio_ms, end, extensions, _ = await ended(bus, job)
        assert end.reason == "stop"
        assert extensions
        await is_settled(bus, audio_ms, job.tenant)


async def test_quota_that_is_gone_ends_speech_after_a_piece_where_the_site_refuses(
    deployment: QuotaDeployment, bus: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("callboard_worker.hold_extensions.QUOTA_WAIT_S", 1.0)
    async with worker(deployment):
        job = await ask_without_quota(deployment, bus, "gone-1")
        audio_ms, end, extensions, is_whole = await ended(bus, job)
        assert end.error is not None
        assert (end.reason, end.error.code) == ("error", ErrorCode.QUOTA_UNAVAILABLE)
        assert is_whole
        assert not extensions
        assert audio_ms <= SLICE_MS
    service = await asyncio.to_thread(deployment.add)
    await asyncio.to_thread(service.wait_ready)
    await is_settled(bus, audio_ms, job.tenant)


async def test_quota_that_is_gone_lets_speech_go_on_where_the_site_admits(
    deployment: QuotaDeployment, bus: Bus
) -> None:
    async with worker(deployment, on_unreachable="admit_and_settle"):
        job = await ask_without_quota(deployment, bus, "gone-2")
        audio_ms, end, extensions, _ = await ended(bus, job)
        assert end.reason == "stop"
        assert not extensions
        assert audio_ms > SLICE_MS
    service = await asyncio.to_thread(deployment.add)
    await asyncio.to_thread(service.wait_ready)
    await is_settled(bus, audio_ms, job.tenant)


async def ask_without_quota(deployment: QuotaDeployment, bus: Bus, name: str) -> SpeechJob:
    """Takes the first hold, ends quota, and then posts the job."""
    job = await held(bus, name, SHORT)
    await asyncio.to_thread(deployment.quotas[0].running.stop)
    return await post(bus, job)
