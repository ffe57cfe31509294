"""What sources of rooms' sound must do, over the bus and in memory alike."""

import asyncio
import time
from abc import abstractmethod
from collections.abc import AsyncGenerator, Generator, Sequence
from contextlib import aclosing, asynccontextmanager
from uuid import uuid4

import pytest

from callboard_contracts.config import Config
from callboard_contracts.errors import CallboardError, ErrorCode
from callboard_contracts.speech import AudioSegment, UtteranceStart
from callboard_edge.backends.fake_room_audio import FakeRoomAudio
from callboard_edge.backends.room_audio import BusRoomAudio
from callboard_edge.domain.ports import RoomAudioSource
from callboard_edge.domain.room_playout import RoomEvent, WantedSegments
from callboard_kit.bus import Bus
from callboard_kit.provisioning import apply_streams
from tests.support.nats_server import NatsServer
from tests.support.room_speech import Message, publish, spoken, utterance_name

pytestmark = pytest.mark.backend


class Rig:
    """What is under test, and the workers' side of it."""

    source: RoomAudioSource

    @abstractmethod
    async def publish(self, room: str, messages: Sequence[Message]) -> None:
        """Publishes as rooms processes and speech workers do."""

    @abstractmethod
    async def fail(self) -> None:
        """Takes the bus away."""


class RoomAudioSuite:
    """The promises of `RoomAudioSource`."""

    async def test_what_is_said_is_handed_over_in_order(self, rig: Rig) -> None:
        room, taken = uuid4().hex, list[RoomEvent]()
        said = spoken(1, 1.0, 400)
        async with rig.source.listen(room, taken.append, lambda: None):
            await rig.publish(uuid4().hex, spoken(9, 0.5, 400))
            await rig.publish(room, said)
            await _until(taken, len(said))
        await rig.publish(room, spoken(2, 0.5, 400))
        assert _contents(taken) == _said(said)
        assert {event.utterance for event in taken} == {utterance_name(1)}
        assert all(abs(event.at - time.time()) < 10 for event in taken)

    async def test_history_has_everything_since_a_time_in_order(self, rig: Rig) -> None:
        room = uuid4().hex
        await rig.publish(room, spoken(1, 0.5, 400))
        await asyncio.sleep(0.05)
        since = time.time()
        await asyncio.sleep(0.05)
        later = [*spoken(2, 30.0, 400), *spoken(3, 5.0, 800)]
        await rig.publish(room, later)
        found: list[RoomEvent] = []
        async with aclosing(rig.source.history(room, since)) as batches:
            async for events in batches:
                assert len(events) <= 64
                found += events
        assert _contents(found) == _said(later)
        assert [event.at for event in found] == sorted(event.at for event in found)
        async with aclosing(rig.source.history(uuid4().hex, since)) as batches:
            assert [events async for events in batches] == []

    async def test_announcements_are_read_by_themselves(self, rig: Rig) -> None:
        room = uuid4().hex
        said = [spoken(n, 0.5, 400, f"speaker {n}") for n in (1, 2, 3)]
        for messages in said:
            await rig.publish(room, messages)
        found = await rig.source.starts(room, 0.0)
        assert [event.content for event in found] == [messages[0].content for messages in said]
        assert await rig.source.starts(room, time.time() + 60) == []

    async def test_segments_are_read_from_a_number_on_a_few_at_a_time(self, rig: Rig) -> None:
        room = uuid4().hex
        said = spoken(1, 10.0, 400)
        await rig.publish(room, said)
        found: list[AudioSegment] = []
        while not found or found[-1].info.end is None:
            more = await rig.source.segments(room, WantedSegments(utterance_name(1), 3 + len(found)))
            assert 1 <= len(more) <= 4
            found += more
        assert [segment.n for segment in found] == list(range(3, 21))
        assert found == _said(said)[4:]
        assert await rig.source.segments(room, WantedSegments(utterance_name(2), 0)) == []

    async def test_recorded_utterance_is_read_whole(self, rig: Rig) -> None:
        room = uuid4().hex
        said = spoken(1, 10.0, 400)
        await rig.publish(room, [*said[:4], *spoken(2, 0.5, 800), *said[4:]])
        found: list[AudioSegment] = []
        async with aclosing(rig.source.recorded(room, utterance_name(1))) as batches:
            async for segments in batches:
                found += segments
        assert found == _said(said)[1:]

    async def test_bus_that_is_away_is_an_error(self, rig: Rig) -> None:
        await rig.fail()
        for reading in (
            rig.source.starts("r", 0.0),
            rig.source.segments("r", WantedSegments("u", 0)),
            anext(rig.source.history("r", 0.0)),
            anext(rig.source.recorded("r", "u")),
        ):
            with pytest.raises(CallboardError) as raised:
                await reading
            assert raised.value.info.code is ErrorCode.BUS_UNAVAILABLE


async def _until(taken: list[RoomEvent], count: int) -> None:
    async with asyncio.timeout(10):
        while len(taken) < count:
            await asyncio.sleep(0.01)


def _contents(events: Sequence[RoomEvent]) -> list[UtteranceStart | AudioSegment]:
    return [event.content for event in events]


def _said(messages: Sequence[Message]) -> list[UtteranceStart | AudioSegment]:
    return [message.content for message in messages]


class FakeRig(Rig):
    """The fake."""

    def __init__(self) -> None:
        self.fake = FakeRoomAudio()
        self.source = self.fake

    async def publish(self, room: str, messages: Sequence[Message]) -> None:
        """Publishes."""
        for message in messages:
            self.fake.publish(room, message.utterance, message.content)

    async def fail(self) -> None:
        """Fails from now on."""
        self.fake.failure = CallboardError(ErrorCode.BUS_UNAVAILABLE, "away")


class BusRig(Rig):
    """The edge on one connection, workers on another."""

    def __init__(self, edge: Bus, worker: Bus) -> None:
        self.edge = edge
        self.worker = worker
        self.source = BusRoomAudio(edge)

    async def publish(self, room: str, messages: Sequence[Message]) -> None:
        """Publishes."""
        await publish(self.worker, room, messages)

    async def fail(self) -> None:
        """Ends the connection."""
        await self.edge.close()


def configuration(server: NatsServer) -> Config:
    """Nothing but the bus."""
    return Config.model_validate({"nats": {"url": server.url}})


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Generator[NatsServer]:
    server = NatsServer(tmp_path_factory.mktemp("nats"))
    server.start()
    yield server
    server.stop()


@asynccontextmanager
async def connected(server: NatsServer) -> AsyncGenerator[BusRig]:
    """Both connections, on a bus with all its streams."""
    config = configuration(server)
    edge, worker = [await Bus.connect(config.nats, name, lambda: None) for name in ("edge", "worker")]
    await apply_streams(worker, config)
    await edge.clock.measure()
    yield BusRig(edge, worker)
    await worker.close()
    await edge.close()


class TestFake(RoomAudioSuite):
    @pytest.fixture
    def rig(self) -> Rig:
        return FakeRig()


class TestBus(RoomAudioSuite):
    @pytest.fixture
    async def rig(self, server: NatsServer) -> AsyncGenerator[Rig]:
        async with connected(server) as rig:
            yield rig


async def test_lost_connection_is_told_and_the_subscription_lives_on(server: NatsServer) -> None:
    lost = asyncio.Event()
    room, taken = uuid4().hex, list[RoomEvent]()
    async with connected(server) as rig, rig.source.listen(room, taken.append, lost.set):
        await asyncio.to_thread(server.kill)
        await asyncio.to_thread(server.start)
        await asyncio.wait_for(lost.wait(), 15)
        async with asyncio.timeout(15):
            while not rig.worker.connected:
                await asyncio.sleep(0.01)
        # What was kept in memory is gone, and its stream with it.
        await apply_streams(rig.worker, configuration(server))
        said = spoken(1, 0.5, 400)
        await rig.publish(room, said)
        await _until(taken, len(said))
        assert _contents(taken) == _said(said)
