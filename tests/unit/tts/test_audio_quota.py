"""One speech job on its holds: slices, refusals, quota that is away, and what comes back."""

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import replace
from typing import Any

import pytest
from prometheus_client import REGISTRY

from callboard_contracts.errors import ErrorCode, ErrorInfo
from callboard_contracts.headers import SEGMENT
from callboard_contracts.interest import ResumeReply
from callboard_contracts.quota import Hold
from callboard_contracts.speech import BYTES_PER_MS
from callboard_kit.bus import Stored
from callboard_tts.backends.fake import Script
from callboard_tts.domain.pieces import split_text
from callboard_tts.handlers import takeover as takeover_module
from callboard_tts.handlers.audio_quota import AudioQuota
from callboard_worker import hold_extensions
from callboard_worker.pull import Superseded
from tests.unit.tts.fake_bus import LIMIT, FakeBus, deliver, hold_for, make_job
from tests.unit.tts.test_speech_jobs import POOL, handler

pytestmark = pytest.mark.unit

LONG = " ".join(f"This is sentence number {n} of a long text, and it has some more words in it." for n in range(20))
PIECES = len(split_text(LONG, "en-us"))
SLICED = replace(POOL, hold_slice_ms=2_000)


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hold_extensions, "QUOTA_WAIT_S", 0.2)
    monkeypatch.setattr(hold_extensions, "RETRY_PAUSE_S", 0.01)


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


def counted(outcome: str) -> float:
    return REGISTRY.get_sample_value("callboard_tts_hold_extensions_total", {"outcome": outcome}) or 0.0


def held_ms(*holds: Hold) -> int:
    return sum(hold.units or 0 for hold in holds) // 100


def sent_ms(bus: FakeBus) -> int:
    return len(bus.pcm) // BYTES_PER_MS


def is_within_its_holds_at_every_segment(bus: FakeBus, first: Hold) -> bool:
    """Whether the holds that the segments tell of covered the sound at every moment."""
    held, sent = held_ms(first), 0
    for info, message in zip(bus.infos, bus.segments, strict=True):
        held += held_ms(*info.extensions)
        sent += len(message.data)
        if sent > held * BYTES_PER_MS:
            return False
    return True


async def whole(monkeypatch: pytest.MonkeyPatch) -> FakeBus:
    """The same text without any bound."""
    bus = FakeBus()
    monkeypatch.setattr(takeover_module, "read_subject", bus.read_subject)
    jobs, _ = await handler(bus)
    await jobs.handle(deliver(make_job(LONG)))
    assert not bus.quota.asked_ms
    return bus


async def test_speech_is_topped_up_while_it_goes_on(bus: FakeBus, monkeypatch: pytest.MonkeyPatch) -> None:
    free = await whole(monkeypatch)
    monkeypatch.setattr(takeover_module, "read_subject", bus.read_subject)
    jobs, _ = await handler(bus, pool=SLICED)
    first = hold_for(2_000)
    before = counted("granted")
    await jobs.handle(deliver(make_job(LONG, hold=first)))
    assert counted("granted") == before + len(bus.quota.granted)
    assert bus.end is not None
    assert bus.end.reason == "stop"
    assert bus.pcm == free.pcm
    assert len(bus.quota.granted) > 3
    assert is_within_its_holds_at_every_segment(bus, first)
    (event,) = bus.usage
    assert (event.outcome, event.hold, event.work.audio_ms) == ("stop", first, sent_ms(bus))
    assert list(event.extensions) == bus.quota.granted
    assert [hold for info in bus.infos for hold in info.extensions] == bus.quota.granted
    assert held_ms(first, *event.extensions) >= sent_ms(bus)
    assert not bus.quota.released


async def test_text_that_was_held_whole_asks_for_nothing(bus: FakeBus) -> None:
    jobs, _ = await handler(bus)
    await jobs.handle(deliver(make_job("A short text. It has two sentences.", hold=hold_for(14_000))))
    assert bus.usage[0].outcome == "stop"
    assert not bus.quota.asked_ms


async def test_more_is_held_before_it_is_needed(bus: FakeBus, monkeypatch: pytest.MonkeyPatch) -> None:
    was_held: list[bool] = []
    cover = AudioQuota.cover

    async def watched(holds: AudioQuota, total_ms: int, rest_ms: int) -> None:
        was_held.append(holds.covers(total_ms))
        await cover(holds, total_ms, rest_ms)

    monkeypatch.setattr(AudioQuota, "cover", watched)
    jobs, _ = await handler(bus, Script(chunk_latency_s=0.002), SLICED)
    await jobs.handle(deliver(make_job(LONG, hold=hold_for(6_000))))
    assert len(bus.quota.granted) > 3
    assert all(was_held)


async def test_first_sound_of_a_slow_engine_does_not_wait_for_its_piece(bus: FakeBus) -> None:
    jobs, _ = await handler(bus, Script(chunk_latency_s=0.1))
    speaking = asyncio.ensure_future(jobs.handle(deliver(make_job(LONG, hold=hold_for(15_000)))))
    await bus.hears(1)
    assert len(bus.segments) < 3
    assert not bus.infos[-1].piece_done
    await bus.cancel_request("r1")
    await speaking


@pytest.mark.parametrize("room_ms", [0, 1_000, 7_000, 20_000])
async def test_refused_top_up_ends_the_speech_after_a_whole_piece(
    bus: FakeBus, monkeypatch: pytest.MonkeyPatch, room_ms: int
) -> None:
    free = await whole(monkeypatch)
    lengths = [0] * PIECES
    for info, message in zip(free.infos[:-1], free.segments[:-1], strict=True):
        lengths[info.piece] += len(message.data)
    monkeypatch.setattr(takeover_module, "read_subject", bus.read_subject)
    bus.quota.room_ms = room_ms
    jobs, engine = await handler(bus, pool=SLICED)
    first = hold_for(6_000)
    await jobs.handle(deliver(make_job(LONG, hold=first)))
    assert bus.end is not None
    assert (bus.end.reason, bus.end.error) == ("limit", LIMIT)
    done = [info.piece for info in bus.infos if info.piece_done]
    assert done == list(range(len(done)))
    assert bus.pcm == free.pcm[: sum(lengths[: len(done)])]
    # As many pieces as fit into what may be held at all, and not one less.
    fitting = next(n for n in range(PIECES + 1) if sum(lengths[: n + 1]) > (6_000 + room_ms) * BYTES_PER_MS)
    assert len(done) == fitting > 0
    assert is_within_its_holds_at_every_segment(bus, first)
    (event,) = bus.usage
    assert (event.outcome, event.work.audio_ms) == ("length", sent_ms(bus))
    assert list(event.extensions) == bus.quota.granted
    assert engine.active == 0


async def test_speech_without_room_for_its_first_piece_says_nothing(bus: FakeBus) -> None:
    bus.quota.room_ms = 0
    jobs, _ = await handler(bus, pool=SLICED)
    before = counted("refused")
    await jobs.handle(deliver(make_job(LONG, hold=hold_for(500))))
    # A whole slice, and then just what the first piece needs.
    assert counted("refused") == before + len(bus.quota.asked_ms) == before + 2
    assert bus.order == ["end", "usage"]
    assert bus.end is not None
    assert (bus.end.reason, bus.end.audio_ms, bus.end.error) == ("limit", 0, LIMIT)
    assert bus.usage[0].work.audio_ms == 0


async def test_quota_that_comes_back_in_time_is_not_heard(bus: FakeBus) -> None:
    bus.quota.away = 5
    jobs, _ = await handler(bus, pool=SLICED)
    await jobs.handle(deliver(make_job(LONG, hold=hold_for(6_000))))
    assert bus.usage[0].outcome == "stop"


async def test_quota_that_stays_away_ends_the_speech_after_a_whole_piece(bus: FakeBus) -> None:
    bus.quota.away = 10**9
    jobs, _ = await handler(bus, pool=SLICED)
    first = hold_for(6_000)
    await jobs.handle(deliver(make_job(LONG, hold=first)))
    assert bus.end is not None
    assert bus.end.error is not None
    assert (bus.end.reason, bus.end.error.code) == ("error", ErrorCode.QUOTA_UNAVAILABLE)
    assert bus.infos[-2].piece_done
    assert 0 < sent_ms(bus) <= held_ms(first)
    assert (bus.usage[0].outcome, bus.usage[0].extensions) == ("error", ())


async def test_site_that_admits_lets_sound_go_on_while_quota_is_away(bus: FakeBus) -> None:
    bus.quota.away = 10**9
    jobs, _ = await handler(bus, pool=replace(SLICED, admits_unheld=True))
    await jobs.handle(deliver(make_job(LONG, hold=hold_for(6_000))))
    assert bus.usage[0].outcome == "stop"
    assert bus.usage[0].work.audio_ms == sent_ms(bus) > 6_000


async def test_site_that_admits_still_keeps_to_a_refusal(bus: FakeBus) -> None:
    bus.quota.away = 2
    bus.quota.room_ms = 0
    jobs, _ = await handler(bus, pool=replace(SLICED, admits_unheld=True))
    await jobs.handle(deliver(make_job(LONG, hold=hold_for(6_000))))
    assert bus.end is not None
    assert bus.end.reason == "limit"
    assert bus.infos[-2].piece_done


async def test_top_up_that_quota_takes_for_wrong_is_a_fault_of_ours(bus: FakeBus) -> None:
    bus.quota.error = ErrorInfo(code=ErrorCode.INVALID_REQUEST, message="extends: not a hold")
    jobs, _ = await handler(bus, pool=SLICED)
    await jobs.handle(deliver(make_job(LONG, hold=hold_for(6_000))))
    assert bus.end is not None
    assert bus.end.error is not None
    assert (bus.end.reason, bus.end.error.code) == ("error", ErrorCode.INTERNAL)


async def test_top_ups_are_settled_though_the_beginning_of_the_sound_was_lost(bus: FakeBus) -> None:
    jobs, _ = await handler(bus, pool=SLICED)
    first = hold_for(2_000)
    await jobs.handle(deliver(make_job(LONG, hold=first)))
    del bus.segments[len(bus.segments) // 2 :]
    del bus.segments[0]
    known = [hold for info in bus.infos for hold in info.extensions]
    assert known
    bus.usage.clear()
    bus.reply = ResumeReply(open=True, attempt=2, next_seq=0)
    await jobs.handle(deliver(make_job(LONG, hold=first), attempt=2))
    assert set(known) <= set(bus.usage[0].extensions)


async def test_worker_that_takes_over_settles_the_top_ups_of_the_first(
    bus: FakeBus, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = await whole(monkeypatch)
    monkeypatch.setattr(takeover_module, "read_subject", bus.read_subject)
    jobs, _ = await handler(bus, pool=SLICED)
    first = hold_for(2_000)
    await jobs.handle(deliver(make_job(LONG, hold=first)))
    kept = len(bus.segments) // 2
    del bus.segments[kept:]
    known = [hold for info in bus.infos for hold in info.extensions]
    assert known
    bus.usage.clear()
    await jobs.handle(deliver(make_job(LONG, hold=first), attempt=2))
    assert bus.pcm == free.pcm
    (event,) = bus.usage
    assert list(event.extensions[: len(known)]) == known
    assert len(set(event.extensions)) == len(event.extensions)
    assert held_ms(first, *event.extensions) >= event.work.audio_ms == sent_ms(bus)
    assert is_within_its_holds_at_every_segment(bus, first)
    bus.usage.clear()
    await jobs.handle(deliver(make_job(LONG, hold=first), attempt=3))
    assert bus.usage[0].extensions == event.extensions


async def test_dead_job_settles_its_top_ups(bus: FakeBus) -> None:
    jobs, _ = await handler(bus, pool=SLICED)
    first = hold_for(2_000)
    await jobs.handle(deliver(make_job(LONG, hold=first)))
    whole_event = bus.usage.pop()
    bus.segments.pop()
    await jobs.on_dead(deliver(make_job(LONG, hold=first)).data)
    assert bus.usage[0].extensions == whole_event.extensions
    assert bus.usage[0].work == whole_event.work


async def test_top_up_that_is_granted_after_a_cancellation_is_given_back(bus: FakeBus) -> None:
    bus.quota.silent = True
    jobs, _ = await handler(bus, pool=SLICED)
    speaking = asyncio.ensure_future(jobs.handle(deliver(make_job(LONG, hold=hold_for(6_000)))))
    async with asyncio.timeout(20):
        while not bus.quota.asked_ms:
            await asyncio.sleep(0.005)
    await bus.cancel_request("r1")
    await speaking
    assert bus.usage[0].outcome == "cancelled"
    assert bus.usage[0].extensions == ()
    await is_given_back(bus)


@pytest.mark.parametrize("step", ["end", "usage"])
async def test_top_up_that_is_granted_while_the_speech_is_being_ended_is_given_back(
    bus: FakeBus, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    bus.quota.silent = True
    store = bus.publish_stored

    async def answers_then(*arguments: Any, **options: Any) -> Stored:
        headers: dict[str, str] = options.get("headers") or {}
        if step == ("usage" if not headers else "end" if '"end"' in headers[SEGMENT] else "segment"):
            bus.quota.answer.set()
            await asyncio.sleep(0.05)
        return await store(*arguments, **options)

    monkeypatch.setattr(bus, "publish_stored", answers_then)
    jobs, _ = await handler(bus, Script(chunk_latency_s=0.01), SLICED)
    speaking = asyncio.ensure_future(jobs.handle(deliver(make_job(LONG, hold=hold_for(6_000)))))
    async with asyncio.timeout(20):
        while not bus.quota.asked_ms:
            await asyncio.sleep(0.001)
    await bus.cancel_request("r1")
    await speaking
    assert bus.usage[0].extensions == ()
    await is_given_back(bus)


async def test_top_up_that_is_granted_too_late_is_given_back(bus: FakeBus) -> None:
    bus.quota.silent = True
    jobs, _ = await handler(bus, pool=replace(SLICED, decision_timeout_s=0.05))
    await jobs.handle(deliver(make_job(LONG, hold=hold_for(6_000))))
    assert bus.end is not None
    assert bus.end.error is not None
    assert bus.end.error.code is ErrorCode.QUOTA_UNAVAILABLE
    await is_given_back(bus)


async def is_given_back(bus: FakeBus) -> None:
    """Has quota answer now, and waits until each hold that it grants has come back."""
    bus.quota.answer.set()
    async with asyncio.timeout(20):
        while not bus.quota.granted or len(bus.quota.released) < len(bus.quota.granted):
            await asyncio.sleep(0.005)
    assert sorted(bus.quota.released) == sorted(hold.id for hold in bus.quota.granted)


async def test_superseded_worker_gives_back_the_top_up_that_nobody_knows_of(bus: FakeBus) -> None:
    jobs, _ = await handler(bus, Script(hang_piece=0), SLICED)
    speaking = asyncio.ensure_future(jobs.handle(deliver(make_job(LONG, hold=hold_for(500)))))
    async with asyncio.timeout(20):
        while not bus.quota.granted:
            await asyncio.sleep(0.005)
    bus.attempts = {"r1": 2}
    with pytest.raises(Superseded):
        await speaking
    await is_given_back(bus)
    assert not bus.usage
