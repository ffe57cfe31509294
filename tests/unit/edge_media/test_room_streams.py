"""The clock of all room streams: what many rooms that begin at once, and a pause of the process, do to listeners."""

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager

import pytest
from prometheus_client import CollectorRegistry

from callboard_contracts.config import RoomStreamSection
from callboard_edge.backends.fake_room_audio import FakeRoomAudio
from callboard_edge.media import room_streams
from callboard_edge.media.listener import Listener
from callboard_edge.media.mp3 import frame_bytes
from callboard_edge.media.room_streams import RoomStreams
from callboard_edge.metrics import EdgeMetrics
from callboard_kit.background_tasks import BackgroundTasks
from tests.unit.edge.test_room_feed import until

pytestmark = pytest.mark.unit

BURST_S = 0.24


class Ear:
    """A listener whose connection takes everything."""

    def __init__(self) -> None:
        self.parts: list[bytes] = []
        self.listener = Listener(self.parts.append, lambda: 0, lambda: None, 1000, 1.0)

    @property
    def frames(self) -> int:
        """How many frames came."""
        return sum(map(len, self.parts)) // frame_bytes(320)


@asynccontextmanager
async def running() -> AsyncGenerator[tuple[RoomStreams, CollectorRegistry]]:
    """The streams of an edge."""
    registry, background = CollectorRegistry(), BackgroundTasks()
    settings = RoomStreamSection(burst_s=BURST_S)
    streams = RoomStreams(FakeRoomAudio(), background, settings, EdgeMetrics(registry), time.time)
    mixing = asyncio.ensure_future(streams.run())
    try:
        yield streams, registry
    finally:
        mixing.cancel()
        await asyncio.gather(mixing, return_exceptions=True)
        await background.close(5)


async def test_rooms_that_begin_together_each_get_their_burst_and_no_more() -> None:
    ears = [Ear() for _ in range(20)]
    async with running() as (streams, _registry), AsyncExitStack() as stack:
        for n, ear in enumerate(ears):
            stack.enter_context(streams.place(f"room-{n}", 320)).join(ear.listener)
        await until(lambda: all(ear.frames for ear in ears))
        assert max(len(ear.parts[0]) for ear in ears) <= (BURST_S / 0.024 + 1) * frame_bytes(320)
        # Not all of them could begin in the same tick.
        assert len({ear.frames for ear in ears}) > 1


async def test_short_stop_of_the_process_is_made_good_and_a_long_one_is_left_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    loop = asyncio.get_running_loop()
    clock, ahead_s = loop.time, 0.0
    async with running() as (streams, registry), AsyncExitStack() as stack:
        ear = Ear()
        stack.enter_context(streams.place("room", 320)).join(ear.listener)
        await until(lambda: ear.frames > 12)
        monkeypatch.setattr(loop, "time", lambda: clock() + ahead_s)
        before = ear.frames
        ahead_s = 1.2
        await until(lambda: ear.frames >= before + 50)
        assert registry.get_sample_value("callboard_edge_room_frames_skipped_total") == 0
        before, ahead_s = ear.frames, 100.0
        await until(lambda: (registry.get_sample_value("callboard_edge_room_frames_skipped_total") or 0) > 3000)
        assert ear.frames < before + room_streams.MAX_CATCH_UP_FRAMES
        monkeypatch.undo()


async def test_last_listener_ends_the_room_and_places_are_free_again() -> None:
    async with running() as (streams, registry):
        for _ in range(3):
            with ExitStack() as stack:
                for n in range(100):
                    stack.enter_context(streams.place(f"room-{n}", 320))
                assert registry.get_sample_value("callboard_edge_rooms_mixed") == 100
        assert registry.get_sample_value("callboard_edge_rooms_mixed") == 0
        assert registry.get_sample_value("callboard_edge_room_listeners") == 0
