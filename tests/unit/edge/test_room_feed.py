"""How what is said in a room comes to its playout: as it happens, and from what the bus has kept."""

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager, suppress

import pytest

from callboard_contracts.errors import CallboardError, ErrorCode
from callboard_edge.backends.fake_room_audio import FakeRoomAudio
from callboard_edge.domain import room_feed
from callboard_edge.domain.room_feed import RoomFeed
from callboard_edge.domain.room_playout import BYTES_PER_S, Speaking
from tests.support.room_speech import Message, spoken, tone

pytestmark = pytest.mark.unit

ROOM = "r1"


class Clock:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.at = time.time()

    def now(self) -> float:
        """The time."""
        return self.at


def publish(audio: FakeRoomAudio, messages: Sequence[Message]) -> None:
    """Publishes messages of a room."""
    for message in messages:
        audio.publish(ROOM, message.utterance, message.content)


@asynccontextmanager
async def running(audio: FakeRoomAudio, clock: Clock) -> AsyncGenerator[RoomFeed]:
    """A feed that has read what was there."""
    feed = RoomFeed(audio, ROOM, 0.4, clock.now)
    task = asyncio.ensure_future(feed.run())
    try:
        await until(lambda: bool(audio.readers))
        await asyncio.sleep(0)
        yield feed
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def until(condition: Callable[[], bool]) -> None:
    """Waits until something is so."""
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.005)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def audio(clock: Clock) -> FakeRoomAudio:
    return FakeRoomAudio(clock.now)


async def test_what_is_said_is_heard(audio: FakeRoomAudio, clock: Clock) -> None:
    async with running(audio, clock) as feed:
        publish(audio, spoken(1, 1.0, 400, "Toad"))
        assert feed.playout.read(BYTES_PER_S, clock.now()) == tone(1.0, 400)
        assert feed.playout.speaking == Speaking(1, "Toad")
    assert not audio.readers


async def test_first_listener_hears_from_now_and_not_what_is_over(audio: FakeRoomAudio, clock: Clock) -> None:
    publish(audio, spoken(1, 1.0, 400))
    clock.at += 30
    publish(audio, spoken(2, 10.0, 800))
    clock.at += 4.5
    async with running(audio, clock) as feed:
        feed.playout.play_until(clock.now())
        assert feed.playout.read(BYTES_PER_S, clock.now()) == tone(1.0, 800, 4.5)


async def test_messages_that_were_lost_are_read_from_the_bus(audio: FakeRoomAudio, clock: Clock) -> None:
    async with running(audio, clock) as feed:
        first, *segments = spoken(1, 2.0, 400)
        publish(audio, [first, segments[0]])
        audio.lose_next = 2
        publish(audio, segments[1:])
        feed.check(clock.now())
        await until(lambda: feed.playout.buffered_bytes == 2 * BYTES_PER_S)
        assert feed.playout.read(2 * BYTES_PER_S, clock.now()) == tone(2.0, 400)


async def test_after_a_lost_connection_a_whole_utterance_is_found(audio: FakeRoomAudio, clock: Clock) -> None:
    async with running(audio, clock) as feed:
        said = spoken(1, 1.0, 400)
        audio.lose_next = len(said)
        publish(audio, said)
        audio.reconnect()
        await until(lambda: feed.playout.buffered_bytes == BYTES_PER_S)
        assert feed.playout.read(BYTES_PER_S, clock.now()) == tone(1.0, 400)


async def test_messages_that_come_while_the_history_is_read_are_heard(audio: FakeRoomAudio, clock: Clock) -> None:
    publish(audio, spoken(1, 2.0, 400))
    feed = RoomFeed(audio, ROOM, 0.4, clock.now)
    task = asyncio.ensure_future(feed.run())
    try:
        empty = feed.playout
        publish(audio, spoken(2, 1.0, 800))
        await until(lambda: feed.playout is not empty)
        heard = feed.playout.read(4 * BYTES_PER_S, clock.now())
        assert heard.startswith(tone(2.0, 400))
        assert tone(1.0, 800) in heard
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def test_bus_that_is_away_is_tried_again(
    audio: FakeRoomAudio, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room_feed, "OUTAGE_PAUSE_S", 0.01)
    audio.failure = CallboardError(ErrorCode.BUS_UNAVAILABLE, "away")
    feed = RoomFeed(audio, ROOM, 0.4, clock.now)
    task = asyncio.ensure_future(feed.run())
    try:
        await asyncio.sleep(0.05)
        publish(audio, spoken(1, 1.0, 400))
        audio.failure = None
        await until(lambda: feed.playout.buffered_bytes > 0)
        assert feed.playout.read(BYTES_PER_S, clock.now()) == tone(1.0, 400)
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
