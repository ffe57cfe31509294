"""The store and what turns need, over a real nats-server."""

import asyncio
import time
from collections.abc import AsyncGenerator, Generator

import pytest

from callboard_contracts import subjects
from callboard_contracts.chat import ChatJob
from callboard_contracts.config import Config, NatsSection
from callboard_contracts.errors import CallboardError, ErrorCode, ErrorInfo
from callboard_contracts.headers import SEGMENT
from callboard_contracts.rooms import Turn
from callboard_contracts.speech import SegmentInfo, UtteranceStart
from callboard_contracts.streams import BUCKET_ROOMS, ROOM_AUDIO
from callboard_kit.bucket import Bucket
from callboard_kit.bus import Bus
from callboard_kit.provisioning import apply_streams
from callboard_kit.stream_reads import read_subject
from callboard_rooms.backends.room_audio import BusRoomAudio
from callboard_rooms.backends.room_store import BucketRoomStore
from callboard_rooms.backends.turn_jobs import BusTurnJobs
from callboard_rooms.backends.turn_results import BusTurnResults
from callboard_rooms.domain.ports import RoomStore, StoredRoom, StoreUnavailable
from callboard_rooms.domain.turns import utterance_of
from tests.backends.rooms.suite import RoomStoreSuite, fresh
from tests.support.nats_server import NatsServer
from tests.unit.rooms.turns import turn

pytestmark = pytest.mark.backend

QUEUE_BOUND = 3


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Generator[NatsServer]:
    server = NatsServer(tmp_path_factory.mktemp("nats"))
    server.start()
    yield server
    server.stop()


@pytest.fixture
async def bus(server: NatsServer) -> AsyncGenerator[Bus]:
    pool = {"backend": "fake", "max_queued_per_tenant": QUEUE_BOUND}
    config = Config.model_validate({"chat": {"pools": {"main": pool}}, "tts": {"pools": {"booth": pool}}})
    bus = await Bus.connect(NatsSection(url=server.url), "rooms", lambda: None)
    await apply_streams(bus, config)
    yield bus
    await bus.close()


class TestBus(RoomStoreSuite):
    @pytest.fixture
    def store(self, bus: Bus) -> RoomStore:
        return BucketRoomStore(bus)

    async def test_room_of_another_version_is_written_over(self, bus: Bus, store: RoomStore) -> None:
        room = fresh()
        revision = await Bucket(bus, BUCKET_ROOMS).put(room.id, b'{"version": 2}', 0)
        assert await store.load(room.id) == StoredRoom(None, revision)
        await store.save(room, revision)
        assert (await store.load(room.id)).room == room

    async def test_store_that_is_away_says_so(self, tmp_path_factory: pytest.TempPathFactory) -> None:
        server = NatsServer(tmp_path_factory.mktemp("nats"))
        await asyncio.to_thread(server.start)
        bus = await Bus.connect(NatsSection(url=server.url), "rooms", lambda: None)
        try:
            with pytest.raises(StoreUnavailable):
                await BucketRoomStore(bus).load(fresh().id)
        finally:
            await bus.close()
            await asyncio.to_thread(server.stop)


def job_of(one: Turn) -> ChatJob:
    assert one.request is not None
    return ChatJob(
        request_id=one.id,
        edge=one.edge,
        tenant=one.tenant,
        created_at=one.created_at,
        deadline_at=one.deadline_at,
        request=one.request,
    )


async def test_job_is_queued_once_found_and_removed(bus: Bus) -> None:
    jobs = BusTurnJobs(bus)
    one, other = turn(now=time.time(), tenant="found"), turn(now=time.time(), tenant="found")
    assert await jobs.find_chat(one) is None
    seq = await jobs.queue_chat(job_of(one), "main")
    assert await jobs.queue_chat(job_of(one), "main") == seq
    await jobs.queue_chat(job_of(other), "main")
    assert await jobs.find_chat(one) == seq
    await jobs.remove_chat(seq)
    assert await jobs.find_chat(one) is None
    await jobs.remove_chat(seq)


async def test_full_queue_is_a_refusal(bus: Bus) -> None:
    jobs = BusTurnJobs(bus)
    for _ in range(QUEUE_BOUND):
        await jobs.queue_chat(job_of(turn(tenant="full")), "main")
    with pytest.raises(CallboardError) as refused:
        await jobs.queue_chat(job_of(turn(tenant="full")), "main")
    assert refused.value.info.code is ErrorCode.QUEUE_FULL


async def test_begun_job_is_known_by_its_attempt(bus: Bus) -> None:
    jobs = BusTurnJobs(bus)
    one = turn()
    assert not await jobs.was_begun(one.id)
    await bus.publish_stored(subjects.attempt(one.id), b"{}", one.id)
    assert await jobs.was_begun(one.id)


async def test_first_word_on_a_turn_is_kept(bus: Bus) -> None:
    results = BusTurnResults(bus)
    one = turn()
    assert await results.read(one.id) is None
    error = ErrorInfo(code=ErrorCode.DEADLINE_EXCEEDED, message="Late.")
    await results.keep_error(one, error)
    await results.keep_error(one, None)
    kept = await results.read(one.id)
    assert kept is not None
    assert (kept.end.reason, kept.end.error, kept.model) == ("error", error, "owl")


async def test_utterance_is_announced_and_left_out(bus: Bus) -> None:
    audio = BusRoomAudio(bus)
    one = turn(voice=True, number=7)
    room = fresh().model_copy(update={"secret_digest": "d"})
    await audio.announce(room, one)
    await audio.announce(room, one)
    await audio.leave_out(room.id, one)
    start, end = await read_subject(bus, ROOM_AUDIO, subjects.room_audio(room.id, utterance_of(one), "*"))
    assert UtteranceStart.model_validate_json(start.data) == UtteranceStart(
        number=7, speaker="Owl", expires_at=one.deadline_at, secret_digest="d"
    )
    assert (end.data, end.subject.rsplit(".", 1)[1]) == (b"", "0")
    assert SegmentInfo.model_validate_json(end.headers[SEGMENT]).end is not None
