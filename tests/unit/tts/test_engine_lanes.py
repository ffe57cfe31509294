"""Utterances that share the lanes of one engine."""

import asyncio
from contextlib import suppress

import pytest

from callboard_contracts.errors import CallboardError, ErrorCode
from callboard_tts.domain.scheduling import Playback
from callboard_tts.handlers import engine_lanes
from callboard_tts.handlers.engine_lanes import EngineLanes

pytestmark = pytest.mark.unit


@pytest.fixture
async def lanes() -> EngineLanes:
    """One lane of an engine that takes 0.4 s for a second of sound."""
    lanes = EngineLanes(1, 20.0, 0.0)
    lanes.measured(0.4, 1.0)
    return lanes


def long(tenant: str = "t1") -> Playback:
    return Playback(tenant, rest_s=60.0, is_whole=True)


async def has_lane(lanes: EngineLanes, playback: Playback, release: asyncio.Event, order: list[str], name: str) -> None:
    async with lanes.lane(playback, 5.0):
        order.append(name)
        await release.wait()


async def test_lane_goes_to_one_piece_at_a_time_and_on_to_the_next(lanes: EngineLanes) -> None:
    order: list[str] = []
    first, second = asyncio.Event(), asyncio.Event()
    async with asyncio.TaskGroup() as group:
        group.create_task(has_lane(lanes, long(), first, order, "first"))
        await asyncio.sleep(0)
        group.create_task(has_lane(lanes, long(), second, order, "second"))
        await asyncio.sleep(0.01)
        assert order == ["first"]
        first.set()
        await asyncio.sleep(0.01)
        assert order == ["first", "second"]
        second.set()


async def test_piece_that_is_given_up_while_it_waits_or_speaks_leaves_the_lane(lanes: EngineLanes) -> None:
    order: list[str] = []
    never = asyncio.Event()
    speaking = asyncio.ensure_future(has_lane(lanes, long(), never, order, "speaks"))
    await asyncio.sleep(0)
    waiting = asyncio.ensure_future(has_lane(lanes, long(), never, order, "waits"))
    await asyncio.sleep(0)
    for task in (waiting, speaking):
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
    go_on = asyncio.Event()
    go_on.set()
    async with asyncio.timeout(20):
        await has_lane(lanes, long(), go_on, order, "next")
    assert order == ["speaks", "next"]


async def test_utterance_that_could_not_be_fed_is_refused(lanes: EngineLanes) -> None:
    async with (
        lanes.admitted(long("a"), for_ever=False, is_new=True),
        lanes.admitted(long("b"), for_ever=False, is_new=True),
    ):
        with pytest.raises(CallboardError) as refused:
            async with lanes.admitted(long("c"), for_ever=False, is_new=True):
                pytest.fail("it was admitted")
        assert refused.value.info.code is ErrorCode.QUEUE_FULL
        assert refused.value.info.retry_after_s is not None
        async with lanes.admitted(long("d"), for_ever=False, is_new=False):
            """One that another worker began goes on."""


async def test_utterance_that_nobody_asks_for_again_waits_for_its_turn(
    lanes: EngineLanes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_lanes, "ADMISSION_PAUSE_S", 0.01)
    entered = asyncio.Event()

    async def enter() -> None:
        async with lanes.admitted(long("c"), for_ever=True, is_new=True):
            entered.set()

    async with lanes.admitted(long("a"), for_ever=False, is_new=True):
        async with lanes.admitted(long("b"), for_ever=False, is_new=True):
            waiting = asyncio.ensure_future(enter())
            await asyncio.sleep(0.05)
            assert not entered.is_set()
        async with asyncio.timeout(20):
            await waiting
    assert entered.is_set()


async def test_utterance_waits_for_its_turn_up_to_the_admission_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_lanes, "ADMISSION_PAUSE_S", 0.01)
    lanes = EngineLanes(1, 20.0, 0.2)
    lanes.measured(0.4, 1.0)
    entered = asyncio.Event()

    async def enter() -> None:
        async with lanes.admitted(long("c"), for_ever=False, is_new=True):
            entered.set()

    async with lanes.admitted(long("a"), for_ever=False, is_new=True):
        async with lanes.admitted(long("b"), for_ever=False, is_new=True):
            with pytest.raises(CallboardError):
                await enter()
            waiting = asyncio.ensure_future(enter())
            await asyncio.sleep(0.05)
            assert not entered.is_set()
        async with asyncio.timeout(20):
            await waiting
    assert entered.is_set()


async def test_short_ones_do_not_keep_a_long_one_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_lanes, "ADMISSION_PAUSE_S", 0.01)
    monkeypatch.setattr(engine_lanes, "OVERTAKING_S", 0.1)
    lanes = EngineLanes(1, 20.0, 20.0)
    lanes.measured(0.97, 1.0)
    order: list[str] = []

    async def speak(name: str, rest_s: float) -> None:
        async with lanes.admitted(Playback(name, rest_s=rest_s, is_whole=True), for_ever=False, is_new=True):
            order.append(name)
            await asyncio.sleep(0.05)

    async with asyncio.TaskGroup() as group:
        group.create_task(speak("first", 60.0))
        await asyncio.sleep(0)
        group.create_task(speak("long", 60.0))
        for number in range(20):
            group.create_task(speak(f"short {number}", 0.5))
            await asyncio.sleep(0.03)
    # Each pair of short ones leaves room for the next, so without its turn the long one would be the last.
    assert order.index("long") < 10


async def test_crowd_of_one_tenant_that_waits_keeps_no_other_tenant_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_lanes, "OVERTAKING_S", 0.0)
    lanes = EngineLanes(1, 20.0, 60.0)
    lanes.measured(0.4, 1.0)

    async def wait() -> None:
        async with lanes.admitted(long("many"), for_ever=False, is_new=True):
            pytest.fail("it was admitted")

    async with (
        lanes.admitted(long("many"), for_ever=False, is_new=True),
        lanes.admitted(long("many"), for_ever=False, is_new=True),
    ):
        waiting = asyncio.ensure_future(wait())
        await asyncio.sleep(0.01)
        async with (
            asyncio.timeout(20),
            lanes.admitted(Playback("other", rest_s=2.0, is_whole=True), for_ever=False, is_new=True),
        ):
            assert not waiting.done()
        waiting.cancel()
        with suppress(asyncio.CancelledError):
            await waiting
