"""One transcription from its job to its usage event, and every way it may end early."""

import asyncio
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from callboard_contracts.errors import CallboardError, ErrorCode, ErrorInfo
from callboard_contracts.interest import ResumeReply
from callboard_contracts.quota import HoldEntry, Rates
from callboard_contracts.transcription import TranscriptionJob
from callboard_stt.backends.fake import FakeEngine, Script
from callboard_stt.domain.models import ServedModel
from callboard_stt.domain.ports import Sound
from callboard_stt.handlers import transcription_jobs
from callboard_stt.handlers.transcription_jobs import TranscriptionJobs
from callboard_stt.settings import PoolSettings
from callboard_worker import engine as engine_module
from callboard_worker import prior_frames
from callboard_worker.hold_extensions import HoldExtensions
from callboard_worker.outcomes import WORKER_DIED
from callboard_worker.running import RunningJob
from tests.support.sounds import melody, silence
from tests.unit.stt.fake_bus import FakeBus, hold_for, make_job

pytestmark = pytest.mark.unit

POOL = PoolSettings(
    service="stt",
    name="main",
    backend="fake",
    slots=1,
    url=None,
    api_key=None,
    model_path=Path("model"),
    threads=None,
    device="auto",
    beam_size=1,
    max_audio_s=60.0,
    metrics_port=0,
    memory_limit_mib=None,
    stall_timeout_s=5.0,
    drain_timeout_s=5.0,
    decision_timeout_s=1.0,
    admits_unheld=False,
    models={"whisper": ServedModel("whisper", "fake")},
)
PCM = melody([300, 400, 500])
TEXT = "tone 300 tone 400 tone 500"


class PlainDecoder:
    """Takes a file for the samples themselves."""

    async def start(self) -> None: ...

    async def decode(self, file: bytes) -> Sound:
        if file == b"junk":
            raise CallboardError(ErrorCode.INVALID_REQUEST, "Not a sound.", param="file")
        return Sound(np.frombuffer(file, np.int16), file, "wav")

    async def close(self) -> None: ...


@pytest.fixture
def bus(monkeypatch: pytest.MonkeyPatch) -> FakeBus:
    bus = FakeBus(PCM.tobytes())
    monkeypatch.setattr(transcription_jobs, "read_sound", bus.read_sound)
    monkeypatch.setattr(prior_frames, "open_extensions", bus.open_extensions)
    monkeypatch.setattr(prior_frames, "read_subject", bus.read_subject)
    monkeypatch.setattr(engine_module, "FIRST_DELAY_S", 0.001)
    return bus


def jobs_on(bus: FakeBus, script: Script | None = None, pool: PoolSettings = POOL) -> TranscriptionJobs:
    extensions = HoldExtensions(bus.as_bus(), 1.0)
    return TranscriptionJobs(bus.as_bus(), FakeEngine(script), PlainDecoder(), extensions, pool)


def running(job: TranscriptionJob | None = None, attempt: int = 1) -> RunningJob[TranscriptionJob]:
    job = job or make_job()
    return RunningJob(job, attempt, is_batch=False, entered_at=job.created_at)


async def test_sound_becomes_frames_an_end_a_result_and_usage(bus: FakeBus) -> None:
    await jobs_on(bus).run(running(make_job(hold_for(5000), word_timestamps=True)))
    assert bus.text == TEXT
    assert [frame.seq for frame in bus.frames] == [0, 1, 2, 3]
    assert (bus.end.reason, bus.end.language, bus.end.duration_ms, bus.end.heard_ms) == ("stop", "en", 3000, 3000)
    assert [word.word for word in bus.frames[0].segments[0].words] == [" tone", " 300"]
    assert bus.results[0].text == TEXT
    (event,) = bus.usage
    assert (event.kind, event.work.audio_ms, event.outcome) == ("transcription", 3000, "stop")
    assert bus.asked_ms == []


async def test_silence_is_empty_text_and_costs_nothing(bus: FakeBus) -> None:
    bus.sound = silence(4).tobytes()
    await jobs_on(bus).run(running())
    assert (bus.text, bus.end.reason, bus.end.duration_ms, bus.end.heard_ms) == ("", "stop", 4000, 0)
    assert bus.usage[0].work.audio_ms == 0


@pytest.mark.parametrize(
    ("sound", "request_", "code"),
    [
        (b"junk", {}, ErrorCode.INVALID_REQUEST),
        (None, {}, ErrorCode.INTERRUPTED),
        (PCM.tobytes(), {"language": "xx"}, ErrorCode.INVALID_REQUEST),
        (PCM.tobytes(), {"model": "ear"}, ErrorCode.UNKNOWN_MODEL),
        (PCM.tobytes(), {"task": "translate"}, ErrorCode.UNSUPPORTED),
    ],
)
async def test_what_cannot_be_written_down_is_an_error_and_costs_nothing(
    bus: FakeBus, sound: bytes | None, request_: dict[str, str], code: ErrorCode
) -> None:
    bus.sound = sound
    pool = replace(POOL, models={"whisper": ServedModel("whisper", "fake", translation=False)})
    await jobs_on(bus, pool=pool).run(running(make_job(None, 60, **request_)))
    assert bus.end.error is not None
    assert (bus.end.reason, bus.end.error.code) == ("error", code)
    assert (bus.text, bus.usage[0].work.audio_ms) == ("", 0)


async def test_hold_grows_to_the_length_before_anything_is_heard(bus: FakeBus) -> None:
    await jobs_on(bus).run(running(make_job(hold_for(1000))))
    assert bus.asked_ms == [2000]
    assert bus.usage[0].work.audio_ms == 3000
    assert [hold.id for hold in bus.usage[0].extensions] == ["h1"]


async def test_free_sound_that_is_counted_is_held_all_the_same(bus: FakeBus) -> None:
    hold = hold_for(1000)
    counted = HoldEntry(tenant="t1", metric="heard", bucket="h1", amount=1000)
    free = hold.model_copy(update={"rates": Rates(), "entries": (*hold.entries, counted)})
    await jobs_on(bus).run(running(make_job(free)))
    assert bus.asked_ms == [2000]


async def test_limit_refuses_the_sound_whole(bus: FakeBus) -> None:
    bus.room_ms = 1999
    await jobs_on(bus).run(running(make_job(hold_for(1000))))
    assert bus.end.error is not None
    assert (bus.end.error.code, bus.text) == (ErrorCode.QUOTA_EXCEEDED, "")
    assert bus.usage[0].work.audio_ms == 0


async def test_cancelled_sound_is_charged_as_far_as_it_was_heard(bus: FakeBus) -> None:
    one = running(make_job(hold_for(5000)))
    working = asyncio.ensure_future(jobs_on(bus, Script(hang_segment=2)).run(one))
    await bus.hears(2)
    one.cancel_scope.cancel("cancelled")
    async with asyncio.timeout(20):
        await working
    assert (bus.end.reason, bus.end.heard_ms, bus.usage[0].work.audio_ms) == ("cancelled", 2000, 2000)


async def test_engine_that_is_away_is_asked_again(bus: FakeBus) -> None:
    await jobs_on(bus, Script(unavailable_times=2)).run(running())
    assert (bus.text, bus.end.reason) == (TEXT, "stop")


async def test_engine_that_fails_in_the_middle_is_an_error(bus: FakeBus) -> None:
    await jobs_on(bus, Script(fail_segment=1)).run(running())
    assert bus.end.error is not None
    assert (bus.end.error.code, bus.end.heard_ms, bus.text) == (ErrorCode.ENGINE_FAILED, 1000, "tone 300")


@pytest.mark.parametrize("language", ["en", "english"])
async def test_takeover_goes_on_after_the_last_segment(bus: FakeBus, language: str) -> None:
    first = asyncio.ensure_future(jobs_on(bus, Script(hang_segment=2)).run(running()))
    await bus.hears(2)
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    # Some servers tell a language by its name, which none takes.
    bus.frames[:] = [frame.model_copy(update={"language": language}) for frame in bus.frames]
    await jobs_on(bus).run(running(attempt=2))
    assert bus.text == TEXT
    assert [(frame.seq, frame.attempt) for frame in bus.frames] == [(0, 1), (1, 1), (2, 2), (3, 2)]
    assert (bus.end.heard_ms, len(bus.usage)) == (3000, 1)


async def test_takeover_of_what_nobody_wants_ends_at_once(bus: FakeBus) -> None:
    first = asyncio.ensure_future(jobs_on(bus, Script(hang_segment=1)).run(running()))
    await bus.hears(1)
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    bus.resume = ResumeReply(open=False, attempt=2)
    await jobs_on(bus).run(running(attempt=2))
    assert (bus.end.reason, bus.usage[0].work.audio_ms) == ("cancelled", 1000)


async def test_takeover_of_what_had_ended_repeats_its_last_steps(bus: FakeBus) -> None:
    await jobs_on(bus).run(running())
    bus.usage.clear()
    await jobs_on(bus).run(running(attempt=2))
    assert (len(bus.frames), bus.usage[0].work.audio_ms) == (4, 3000)


async def test_job_that_ends_workers_is_answered(bus: FakeBus) -> None:
    await jobs_on(bus).answer_dead(make_job(), WORKER_DIED)
    assert bus.end.error == ErrorInfo.model_validate(WORKER_DIED.model_dump())
    assert bus.usage[0].work.audio_ms == 0


async def test_job_past_its_deadline_is_answered_not_run(bus: FakeBus) -> None:
    await jobs_on(bus).run(running(make_job(deadline_s=-1)))
    assert bus.end.error is not None
    assert (bus.end.error.code, bus.text) == (ErrorCode.DEADLINE_EXCEEDED, "")
