"""Rooms as edges read and change them over the bus."""

import time
from collections.abc import AsyncGenerator, Generator

import pytest
from nats.aio.msg import Msg

from callboard_contracts import subjects
from callboard_contracts.config import Config, NatsSection
from callboard_contracts.errors import CallboardError, ErrorCode, ErrorInfo
from callboard_contracts.rooms import OpenRoom, Room, RoomReply, RoomRequest, room_id
from callboard_contracts.streams import BUCKET_ROOMS
from callboard_edge.backends.rooms import BusRoomReader, BusRoomsClient
from callboard_kit.bucket import Bucket
from callboard_kit.bus import Bus
from callboard_kit.provisioning import apply_streams
from tests.support.nats_server import NatsServer

pytestmark = pytest.mark.backend

OPEN = OpenRoom(kind="ait", key="the stage")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Generator[NatsServer]:
    server = NatsServer(tmp_path_factory.mktemp("nats"))
    server.start()
    yield server
    server.stop()


@pytest.fixture
async def bus(server: NatsServer) -> AsyncGenerator[Bus]:
    bus = await Bus.connect(NatsSection(url=server.url), "edge", lambda: None)
    await apply_streams(bus, Config())
    yield bus
    await bus.close()


async def test_reader_finds_room_by_its_key(bus: Bus) -> None:
    now = time.time()
    room = Room(id=room_id("ait", "the stage"), kind="ait", key="the stage", created_at=now, active_at=now)
    await Bucket(bus, BUCKET_ROOMS).put(room.id, room.compact(), None)
    reader = BusRoomReader(bus)
    assert await reader.room("ait", "the stage") == room
    assert await reader.room("conversation", "the stage") is None
    assert await reader.reply("no-turn") is None


async def test_client_returns_answer_and_raises_what_is_refused(bus: Bus) -> None:
    async def answer(message: Msg) -> None:
        refusal = ErrorInfo(code=ErrorCode.ROOM_SECRET_REQUIRED, message="Claimed.")
        secret = OpenRoom.model_validate_json(message.data).secret
        await bus.publish(message.reply, RoomReply(id="r", error=None if secret else refusal).compact())

    listening = [await bus.subscribe(subject, answer) for subject in (subjects.ROOMS_OPEN, subjects.ROOMS_RESET)]
    client = BusRoomsClient(bus)
    assert await client.open(OPEN.model_copy(update={"secret": "s"})) == RoomReply(id="r")
    with pytest.raises(CallboardError) as refused:
        await client.reset(RoomRequest(kind="ait", key="the stage"))
    assert refused.value.info.code is ErrorCode.ROOM_SECRET_REQUIRED
    for one in listening:
        await bus.unsubscribe(one)


async def test_client_says_that_no_rooms_process_answers(bus: Bus) -> None:
    with pytest.raises(CallboardError) as failed:
        await BusRoomsClient(bus, timeout_s=0.2).end(RoomRequest(kind="ait", key="the stage"))
    assert failed.value.info.code is ErrorCode.BUS_UNAVAILABLE
    assert failed.value.info.retry_after_s
