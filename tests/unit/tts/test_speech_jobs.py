"""One speech job from its delivery to its usage event, and every way it may end early."""

import asyncio
import itertools
from collections.abc import AsyncGenerator
from dataclasses import replace
from pathlib import Path
from typing import cast

import numpy as np
import pytest

from callboard_contracts.errors import ErrorCode
from callboard_contracts.interest import ResumeReply
from callboard_contracts.quota import Work
from callboard_contracts.speech import BYTES_PER_MS, MAX_SEGMENT_BYTES, SpeechJob
from callboard_kit.bus import BusUnavailable
from callboard_tts import metrics
from callboard_tts.backends import fake
from callboard_tts.backends.fake import FakeEngine, Script
from callboard_tts.domain.pieces import split_text
from callboard_tts.handlers import takeover as takeover_module
from callboard_tts.handlers.speech_jobs import SpeechJobs
from callboard_tts.settings import PoolSettings, ServedModel
from callboard_worker import takeover
from callboard_worker.attempts import Attempts
from callboard_worker.handler import JobHandler
from callboard_worker.hold_extensions import HoldExtensions
from callboard_worker.pull import Nak, Superseded
from callboard_worker.running import RunningJob, RunningJobs
from tests.unit.tts.fake_bus import TEXT, FakeBus, deliver, hold_for, make_job, nobody_listens

pytestmark = pytest.mark.unit

PIECES = len(split_text(TEXT, "en-us"))
POOL = PoolSettings(
    service="tts",
    name="main",
    backend="fake",
    slots=1,
    url=None,
    api_key=None,
    model_path=Path("model"),
    voices_path=Path("voices"),
    threads=None,
    device="auto",
    lanes=1,
    ahead_s=20.0,
    admission_timeout_s=0.0,
    metrics_port=0,
    memory_limit_mib=None,
    stall_timeout_s=5.0,
    drain_timeout_s=5.0,
    max_input_characters=4096,
    comma_pause_ms=300,
    sentence_pause_ms=600,
    hold_slice_ms=15_000,
    decision_timeout_s=1.0,
    admits_unheld=False,
    models={"kokoro": ServedModel("kokoro", "fake", (), {"alloy": "af_sky"})},
)


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(takeover, "ASK_PAUSE_S", 0.05)


@pytest.fixture
async def bus(monkeypatch: pytest.MonkeyPatch) -> AsyncGenerator[FakeBus]:
    bus = FakeBus()
    monkeypatch.setattr(takeover_module, "read_subject", bus.read_subject)
    monkeypatch.setattr(takeover_module, "recorded_progress", bus.recorded_progress)
    monkeypatch.setattr(takeover_module, "open_extensions", bus.open_extensions)
    clock = asyncio.ensure_future(bus.time_passes())
    yield bus
    clock.cancel()
    await asyncio.gather(clock, return_exceptions=True)


class UncountedAttempts:
    """Takes every attempt for the first."""

    async def begin(self, _running: RunningJob[SpeechJob]) -> int:
        return 0

    async def end(self, _running: RunningJob[SpeechJob], *, returned: bool) -> None:
        """Keeps no record."""


async def handler(
    bus: FakeBus, script: Script | None = None, pool: PoolSettings = POOL
) -> tuple[JobHandler[SpeechJob], FakeEngine]:
    engine = FakeEngine(script)
    running = RunningJobs(bus.as_bus(), pool.stall_timeout_s)
    await running.listen()
    bus.checks.append(running.check)
    extensions = HoldExtensions(bus.as_bus(), pool.decision_timeout_s, admits_unheld=pool.admits_unheld)
    jobs = SpeechJobs(bus.as_bus(), engine, extensions, pool)
    attempts = cast("Attempts", UncountedAttempts())
    return JobHandler(jobs, running, attempts, bus.as_bus(), "TTS", metrics.WORKER), engine


async def spoken(monkeypatch: pytest.MonkeyPatch, speed: float = 1.0) -> FakeBus:
    """The same job without any trouble."""
    bus = FakeBus()
    monkeypatch.setattr(takeover_module, "read_subject", bus.read_subject)
    jobs, _ = await handler(bus)
    await jobs.handle(deliver(make_job(speed=speed)))
    return bus


async def test_job_becomes_segments_an_end_and_a_usage_event(bus: FakeBus) -> None:
    jobs, engine = await handler(bus)
    await jobs.handle(deliver(make_job()))
    assert bus.numbers == list(range(len(bus.segments)))
    assert bus.order == ["segment"] * (len(bus.segments) - 1) + ["end", "usage"]
    assert all(len(message.data) <= MAX_SEGMENT_BYTES for message in bus.segments)
    assert [info.piece for info in bus.infos if info.piece_done] == list(range(PIECES))
    assert bus.end is not None
    assert bus.end.reason == "stop"
    assert bus.end.audio_ms == len(bus.pcm) // BYTES_PER_MS
    (event,) = bus.usage
    assert bus.usage_ids == ["r1.speech"]
    assert (event.kind, event.outcome, event.work.audio_ms) == ("speech", "stop", bus.end.audio_ms)
    assert engine.active == 0


async def test_segments_say_where_they_start(bus: FakeBus) -> None:
    jobs, _ = await handler(bus)
    await jobs.handle(deliver(make_job()))
    for _, group in itertools.groupby(
        zip(bus.infos[:-1], bus.segments[:-1], strict=True), key=lambda pair: pair[0].piece
    ):
        at = 0
        for info, message in group:
            assert info.offset_bytes == at
            at += len(message.data)


async def test_first_segment_leaves_before_the_next_piece_is_made(bus: FakeBus) -> None:
    jobs, engine = await handler(bus, Script(hang_piece=1))
    task = asyncio.ensure_future(jobs.handle(deliver(make_job())))
    await bus.hears(1)
    assert not task.done()
    assert engine.active == 1
    await bus.cancel_request("r1")
    await task
    assert bus.end is not None
    assert bus.end.reason == "cancelled"


async def test_cancelled_job_stops_the_engine_and_charges_what_was_sent(bus: FakeBus) -> None:
    jobs, engine = await handler(bus, Script(chunk_latency_s=0.05))
    task = asyncio.ensure_future(jobs.handle(deliver(make_job())))
    await bus.hears(2)
    clock = asyncio.get_running_loop().time
    asked = clock()
    await bus.cancel_request("r1")
    await task
    assert clock() - asked < 0.25
    assert engine.active == 0
    assert bus.usage[0].outcome == "cancelled"
    assert bus.usage[0].work.audio_ms == len(bus.pcm) // BYTES_PER_MS > 0


async def test_job_cancelled_before_it_arrived_is_not_begun(bus: FakeBus) -> None:
    jobs, _ = await handler(bus)
    await bus.cancel_request("r1")
    await jobs.handle(deliver(make_job()))
    assert bus.order == ["end", "usage"]
    assert bus.usage[0].work.audio_ms == 0


async def test_job_that_its_edge_does_not_wait_for_is_cancelled(bus: FakeBus) -> None:
    jobs, engine = await handler(bus, Script(hang_piece=1))
    task = asyncio.ensure_future(jobs.handle(deliver(make_job())))
    await bus.hears(1)
    bus.still_open = ("another",)
    await task
    assert bus.usage[0].outcome == "cancelled"
    assert engine.active == 0


async def test_superseded_worker_falls_silent(bus: FakeBus) -> None:
    jobs, engine = await handler(bus, Script(hang_piece=1))
    task = asyncio.ensure_future(jobs.handle(deliver(make_job())))
    await bus.hears(1)
    bus.attempts = {"r1": 2}
    with pytest.raises(Superseded):
        await task
    assert not bus.usage
    assert "end" not in bus.order
    assert engine.active == 0


async def test_job_that_runs_here_already_is_not_run_twice(bus: FakeBus) -> None:
    jobs, _ = await handler(bus, Script(hang_piece=0))
    task = asyncio.ensure_future(jobs.handle(deliver(make_job())))
    await asyncio.sleep(0.01)
    with pytest.raises(Superseded):
        await jobs.handle(deliver(make_job(), attempt=2))
    await bus.cancel_request("r1")
    await task


async def test_bad_piece_fails_the_request_after_what_was_made_and_not_the_worker(bus: FakeBus) -> None:
    jobs, _ = await handler(bus, Script(fail_piece=1))
    await jobs.handle(deliver(make_job()))
    assert bus.end is not None
    assert bus.end.error is not None
    assert bus.end.error.code is ErrorCode.ENGINE_FAILED
    assert [info.piece for info in bus.infos if info.piece_done] == [0]
    assert bus.usage[0].outcome == "error"
    assert bus.usage[0].work.audio_ms == len(bus.pcm) // BYTES_PER_MS > 0
    jobs, _ = await handler(bus)
    await jobs.handle(deliver(make_job()))
    assert bus.end is not None
    assert bus.end.reason == "stop"


async def test_failure_before_any_sound_costs_nothing(bus: FakeBus) -> None:
    jobs, _ = await handler(bus, Script(fail_piece=0))
    await jobs.handle(deliver(make_job()))
    assert bus.order == ["end", "usage"]
    assert bus.usage[0].work.audio_ms == 0


async def test_engine_that_is_away_is_tried_again(bus: FakeBus) -> None:
    jobs, _ = await handler(bus, Script(unavailable_times=3))
    await jobs.handle(deliver(make_job()))
    assert bus.usage[0].outcome == "stop"


async def test_engine_that_stays_away_is_an_error_at_the_deadline(bus: FakeBus) -> None:
    jobs, _ = await handler(bus, Script(unavailable_times=10**9))
    await jobs.handle(deliver(make_job(deadline_s=0.2)))
    assert bus.end is not None
    assert bus.end.error is not None
    assert bus.end.error.code is ErrorCode.ENGINE_UNAVAILABLE
    assert bus.usage[0].work.audio_ms == 0


async def test_engine_that_hangs_is_an_error_after_the_pieces_time(bus: FakeBus) -> None:
    jobs, engine = await handler(bus, Script(hang_piece=1), replace(POOL, stall_timeout_s=0.1))
    await jobs.handle(deliver(make_job()))
    assert bus.end is not None
    assert bus.end.error is not None
    assert bus.end.error.code is ErrorCode.ENGINE_FAILED
    assert engine.active == 0


@pytest.mark.parametrize("deadline_s", [-1.0, 0.15])
async def test_job_past_its_deadline_is_answered(bus: FakeBus, deadline_s: float) -> None:
    jobs, engine = await handler(bus, Script(hang_piece=0))
    await jobs.handle(deliver(make_job(deadline_s=deadline_s)))
    assert bus.end is not None
    assert bus.end.error is not None
    assert bus.end.error.code is ErrorCode.DEADLINE_EXCEEDED
    assert bus.usage[0].work.audio_ms == 0
    assert engine.active == 0


@pytest.mark.parametrize(
    ("text", "voice", "code"),
    [
        (TEXT, "nobody", ErrorCode.UNKNOWN_VOICE),
        ("🙂", "af_sky", ErrorCode.INVALID_REQUEST),
        ("x" * 5000, "af_sky", ErrorCode.TEXT_TOO_LONG),
    ],
)
async def test_request_that_cannot_be_spoken_is_refused(bus: FakeBus, text: str, voice: str, code: ErrorCode) -> None:
    jobs, _ = await handler(bus)
    await jobs.handle(deliver(make_job(text, voice=voice)))
    assert bus.order == ["end", "usage"]
    assert bus.end is not None
    assert bus.end.error is not None
    assert bus.end.error.code is code


async def test_voice_that_the_model_does_not_offer_is_refused(bus: FakeBus) -> None:
    pool = replace(POOL, models={"kokoro": ServedModel("kokoro", "fake", ("bf_emma",), {})})
    jobs, _ = await handler(bus, pool=pool)
    await jobs.handle(deliver(make_job()))
    assert bus.end is not None
    assert bus.end.error is not None
    assert bus.end.error.offered == ("bf_emma",)


async def test_alias_of_a_voice_is_spoken(bus: FakeBus) -> None:
    jobs, _ = await handler(bus)
    await jobs.handle(deliver(make_job(voice="alloy")))
    assert bus.usage[0].outcome == "stop"


@pytest.mark.parametrize("kept", [1, 2, 3])
async def test_worker_that_takes_over_goes_on_exactly_after_the_last_segment(
    bus: FakeBus, monkeypatch: pytest.MonkeyPatch, kept: int
) -> None:
    whole = await spoken(monkeypatch)
    monkeypatch.setattr(takeover_module, "read_subject", bus.read_subject)
    bus.segments = whole.segments[:kept]
    bus.order = ["segment"] * kept
    jobs, _ = await handler(bus)
    await jobs.handle(deliver(make_job(), attempt=2))
    assert bus.pcm == whole.pcm
    assert bus.numbers == list(range(len(bus.segments)))
    assert {info.attempt for info in bus.infos[kept:]} == {2}
    assert bus.usage[0].work == whole.usage[0].work


@pytest.mark.parametrize("speed", [0.25, 4.0])
async def test_worker_that_takes_over_makes_the_same_stretched_sound(
    bus: FakeBus, monkeypatch: pytest.MonkeyPatch, speed: float
) -> None:
    whole = await spoken(monkeypatch, speed)
    monkeypatch.setattr(takeover_module, "read_subject", bus.read_subject)
    bus.segments, bus.order = whole.segments[:2], ["segment"] * 2
    jobs, _ = await handler(bus)
    await jobs.handle(deliver(make_job(speed=speed), attempt=2))
    assert bus.pcm == whole.pcm
    assert bus.usage[0].work == whole.usage[0].work


@pytest.mark.parametrize("speed", [0.25, 0.5, 2.0, 4.0])
async def test_charged_length_is_that_of_the_stretched_sound(
    bus: FakeBus, monkeypatch: pytest.MonkeyPatch, speed: float
) -> None:
    usual = await spoken(monkeypatch)
    jobs, _ = await handler(bus)
    await jobs.handle(deliver(make_job(speed=speed)))
    assert bus.usage[0].work.audio_ms == len(bus.pcm) // BYTES_PER_MS
    assert bus.usage[0].work.audio_ms == pytest.approx(usual.usage[0].work.audio_ms / speed, rel=0.05)


async def test_text_without_any_word_that_is_read_is_refused(bus: FakeBus, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fake, "tones", lambda _piece: np.zeros(2400, np.float32))
    jobs, _ = await handler(bus)
    await jobs.handle(deliver(make_job()))
    assert bus.end is not None
    assert bus.end.error is not None
    assert (bus.end.error.code, bus.end.error.param) == (ErrorCode.INVALID_REQUEST, "text")


async def test_worker_that_finds_the_end_only_settles(bus: FakeBus, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = await spoken(monkeypatch)
    monkeypatch.setattr(takeover_module, "read_subject", bus.read_subject)
    bus.segments = list(whole.segments)
    jobs, _ = await handler(bus)
    await jobs.handle(deliver(make_job(), attempt=2))
    assert len(bus.segments) == len(whole.segments)
    assert bus.usage[0].work == whole.usage[0].work


async def test_worker_without_a_history_asks_the_edge_for_the_next_number(bus: FakeBus) -> None:
    bus.reply = ResumeReply(open=True, attempt=2, next_seq=4)
    jobs, _ = await handler(bus)
    await jobs.handle(deliver(make_job(), attempt=2))
    assert bus.questions[0].attempt == 2
    assert bus.numbers[0] == 4
    assert bus.infos[0].piece == 0
    assert bus.usage[0].outcome == "stop"


async def test_worker_that_takes_over_asks_again_for_an_edge_that_is_coming_back(bus: FakeBus) -> None:
    bus.reply = nobody_listens()
    jobs, _ = await handler(bus)
    handling = asyncio.ensure_future(jobs.handle(deliver(make_job(), attempt=2)))
    async with asyncio.timeout(20):
        while not bus.questions:
            await asyncio.sleep(0.005)
    bus.reply = ResumeReply(open=True, attempt=2, next_seq=0)
    await handling
    assert bus.usage[0].outcome == "stop"


async def test_worker_that_takes_over_for_nobody_ends_the_job(bus: FakeBus) -> None:
    bus.reply = nobody_listens()
    jobs, _ = await handler(bus)
    await jobs.handle(deliver(make_job(), attempt=2))
    assert bus.order == ["end", "usage"]
    assert bus.usage[0].outcome == "cancelled"
    assert bus.usage[0].work.audio_ms == 0


async def test_what_a_killed_worker_had_sent_is_charged_though_the_bus_lost_it(bus: FakeBus) -> None:
    bus.reply = nobody_listens()
    bus.recorded = Work(audio_ms=4200)
    bus.open_holds = (hold_for(3000, "h2"),)
    jobs, _ = await handler(bus)
    await jobs.handle(deliver(make_job(hold=hold_for(2000)), attempt=2))
    bus.segments.clear()
    await jobs.on_dead(deliver(make_job(hold=hold_for(2000))).data)
    for event in bus.usage:
        assert (event.work.audio_ms, event.extensions) == (4200, bus.open_holds)
    assert [event.outcome for event in bus.usage] == ["cancelled", "error"]


async def test_worker_that_cannot_learn_the_past_gives_the_job_back(bus: FakeBus) -> None:
    bus.reply = BusUnavailable("no answer")
    jobs, _ = await handler(bus)
    with pytest.raises(Nak):
        await jobs.handle(deliver(make_job(), attempt=2))
    assert not bus.order


async def test_lost_bus_leaves_the_job_to_be_delivered_again(bus: FakeBus) -> None:
    bus.refuse_publish = True
    jobs, engine = await handler(bus)
    with pytest.raises(BusUnavailable):
        await jobs.handle(deliver(make_job()))
    assert not bus.usage
    assert engine.active == 0


async def test_drained_worker_stops_the_engine_and_says_nothing(bus: FakeBus) -> None:
    jobs, engine = await handler(bus, Script(hang_piece=1))
    task = asyncio.ensure_future(jobs.handle(deliver(make_job())))
    await bus.hears(1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert engine.active == 0
    assert "end" not in bus.order
    assert not bus.usage


async def test_dead_job_is_answered_and_settled_with_what_was_sent(
    bus: FakeBus, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = await spoken(monkeypatch)
    monkeypatch.setattr(takeover_module, "read_subject", bus.read_subject)
    bus.segments = whole.segments[:2]
    jobs, _ = await handler(bus)
    await jobs.on_dead(deliver(make_job()).data)
    assert bus.end is not None
    assert bus.end.error is not None
    assert bus.end.error.code is ErrorCode.INTERRUPTED
    assert bus.usage[0].work.audio_ms == len(bus.pcm) // BYTES_PER_MS
    await jobs.on_dead(b"no job")
    assert len(bus.usage) == 1


async def test_message_that_is_no_job_is_refused_without_its_text(bus: FakeBus) -> None:
    jobs, _ = await handler(bus)
    delivery = replace(deliver(make_job()), data=b'{"request_id": "r1", "request": {"text": "secret words"}}')
    with pytest.raises(ValueError, match="not a SpeechJob") as error:
        await jobs.handle(delivery)
    assert "secret" not in str(error.value)


def words_at(bus: FakeBus) -> list[tuple[str, float, float]]:
    """The words of all segments, in seconds from the beginning of the sound."""
    found: list[tuple[str, float, float]] = []
    piece_bytes: dict[int, int] = {}
    sent = 0
    for info, message in zip(bus.infos, bus.segments, strict=True):
        begin = piece_bytes.setdefault(info.piece, sent - info.offset_bytes) // BYTES_PER_MS
        found += [(one.word, (begin + one.start_ms) / 1000, (begin + one.end_ms) / 1000) for one in info.words]
        sent += len(message.data)
    return found


def is_loud(pcm: bytes, begin_s: float, end_s: float) -> bool:
    sound = np.frombuffer(pcm, "<i2").astype(np.float64)[int(begin_s * 24_000) : int(end_s * 24_000)]
    return bool(sound.size) and float(np.sqrt(np.mean(np.square(sound)))) > 300


@pytest.mark.parametrize("speed", [0.5, 1.0, 1.1, 2.5])
async def test_words_are_told_with_the_sound_at_every_speed(bus: FakeBus, speed: float) -> None:
    text = "Dr. Ray has 20 owls, who sing $5 songs. " + TEXT
    jobs, _ = await handler(bus)
    await jobs.handle(deliver(make_job(text, speed=speed, word_times=True)))
    words = words_at(bus)
    assert [name for name, _begin, _end in words] == text.split()
    total_s = len(bus.pcm) / BYTES_PER_MS / 1000
    at = 0.0
    for _name, begin, end in words:
        assert at - 0.02 <= begin < end <= total_s + 0.02
        assert is_loud(bus.pcm, begin + 0.02, end - 0.02)
        at = end
    # Between two pieces there is a pause, and the mark before it, a character's tone; both belong to no word.
    gaps = [after[1] - before[2] for before, after in itertools.pairwise(words)]
    assert max(gaps) == pytest.approx(0.66 / speed, abs=0.05)
    assert words[0][1] == pytest.approx(0, abs=0.01)
    assert words[-1][2] == pytest.approx(total_s - 0.06 / speed, abs=0.05)


async def test_words_are_told_only_where_they_are_asked_for(bus: FakeBus) -> None:
    jobs, _ = await handler(bus)
    await jobs.handle(deliver(make_job()))
    assert not any(info.words for info in bus.infos)


async def test_worker_that_takes_over_tells_each_word_once(bus: FakeBus) -> None:
    whole = FakeBus()
    jobs, _ = await handler(whole)
    await jobs.handle(deliver(make_job(word_times=True)))
    # The first worker died after some segments.
    bus.segments = whole.segments[:3]
    jobs, _ = await handler(bus)
    await jobs.handle(deliver(make_job(word_times=True), attempt=2))
    assert bus.pcm == whole.pcm
    assert words_at(bus) == words_at(whole)


async def test_engine_that_knows_no_times_is_an_error(bus: FakeBus) -> None:
    jobs, engine = await handler(bus)
    engine.tells_word_times = False
    await jobs.handle(deliver(make_job(word_times=True)))
    assert bus.end is not None
    assert bus.end.error is not None
    assert (bus.end.error.code, bus.end.error.param) == (ErrorCode.UNSUPPORTED, "word_times")
    assert bus.pcm == b""
