"""The jobs, the frames and the quota desk over a real nats-server."""

import asyncio
from collections.abc import AsyncGenerator, Generator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from uuid import uuid4

import pytest
from nats.aio.msg import Msg

from callboard_contracts import headers, subjects
from callboard_contracts.chat import ChatEnd, ChatFrame, ChatResult
from callboard_contracts.config import Config, NatsSection
from callboard_contracts.embedding import EmbeddingFrame, EmbeddingResult
from callboard_contracts.errors import CallboardError, ErrorCode, ErrorInfo
from callboard_contracts.interest import EdgeHeartbeat, ResumeReply, ResumeRequest
from callboard_contracts.quota import (
    Hold,
    IdentifyReply,
    IdentifyRequest,
    ReleaseReply,
    ReleaseRequest,
    ReserveReply,
    ReserveRequest,
    Work,
)
from callboard_contracts.speech import SegmentInfo
from callboard_edge.backends.job_queue import BusJobQueue
from callboard_edge.backends.quota_client import BusQuotaClient
from callboard_edge.backends.reply_router import BusReplyRouter
from callboard_edge.backends.result_store import BusResultStore
from callboard_kit.background_tasks import BackgroundTasks
from callboard_kit.bus import Bus
from callboard_kit.kept import keep
from callboard_kit.provisioning import apply_streams
from tests.backends.edge.suite import OPEN, POOL, QUEUE_BOUND, EdgeBackendSuite, Rig, chat_job, received
from tests.support.nats_server import NatsServer

pytestmark = pytest.mark.backend

RESERVE = ReserveRequest(
    request_id="r1", kind="chat", model="owl", work=Work(prompt_tokens=5), key_digest="d", address="a", life_s=10
)
HOLD = Hold(request_id="r1", tenant="t1", kind="chat", model="owl", entries=(), expires_at=1.0)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Generator[NatsServer]:
    """One server for the tests that leave it alone."""
    server = NatsServer(tmp_path_factory.mktemp("nats"))
    server.start()
    yield server
    server.stop()


def configuration(server: NatsServer) -> Config:
    """One pool of each kind."""
    pool = {"backend": "fake", "max_queued_per_tenant": QUEUE_BOUND}
    return Config.model_validate(
        {"nats": {"url": server.url}, "chat": {"pools": {"main": pool}}, "tts": {"pools": {"booth": pool}}}
    )


async def connected(server: NatsServer, name: str) -> Bus:
    return await Bus.connect(NatsSection(url=server.url), name, lambda: None)


class BusRig(Rig):
    """The edge on one connection, the worker on another."""

    def __init__(self, edge: Bus, worker: Bus) -> None:
        self.worker = worker
        self.dropped = 0
        self.bus_replies = BusReplyRouter(edge, uuid4().hex[:12], self._drop, lambda: None)
        self.replies = self.bus_replies
        self.jobs = BusJobQueue(edge, enqueue_timeout_s=5)
        self.results = BusResultStore(edge)

    def _drop(self) -> None:
        self.dropped += 1

    async def send(self, request_id: str, frame: ChatFrame) -> None:
        """Publishes a frame."""
        await self.worker.publish(subjects.out(self.replies.edge, request_id), frame.model_dump_json().encode())
        await self.worker.connection.flush()

    async def send_vectors(self, request_id: str, frame: EmbeddingFrame) -> None:
        """Publishes a frame of vectors."""
        await self.worker.publish(subjects.out(self.replies.edge, request_id), frame.compact())
        await self.worker.connection.flush()

    async def keep_vectors(self, result: EmbeddingResult) -> None:
        """Stores a result."""
        await keep(self.worker, subjects.result(result.request_id), result, f"{result.request_id}.result")

    async def say(self, request_id: str, n: int, info: SegmentInfo, pcm: bytes) -> None:
        """Publishes a segment."""
        subject = subjects.audio(self.replies.edge, request_id, n)
        await self.worker.publish(subject, pcm, {headers.SEGMENT: info.model_dump_json()})
        await self.worker.connection.flush()

    async def resume(self, request_id: str, attempt: int) -> ResumeReply:
        """Asks how far a reply has come."""
        subject = subjects.resume(self.replies.edge, request_id)
        return ResumeReply.model_validate_json(
            await self.worker.request(subject, ResumeRequest(attempt=attempt).encoded(), 2)
        )

    async def heartbeat(self) -> EdgeHeartbeat:
        """Waits for the edge's next heartbeat."""
        heard: asyncio.Queue[bytes] = asyncio.Queue()

        async def hear(message: Msg) -> None:
            heard.put_nowait(message.data)

        subscription = await self.worker.subscribe(subjects.interest("*"), hear)
        await self.worker.connection.flush()
        beating = asyncio.ensure_future(self.bus_replies.send_heartbeats())
        try:
            return EdgeHeartbeat.model_validate_json(await asyncio.wait_for(heard.get(), 20))
        finally:
            beating.cancel()
            await asyncio.gather(beating, return_exceptions=True)
            await self.worker.unsubscribe(subscription)

    async def keep(self, result: ChatResult) -> None:
        """Stores a finished reply."""
        await self.worker.publish_stored(
            subjects.result(result.request_id), result.model_dump_json().encode(), result.request_id
        )

    async def cancelled(self, request_id: str) -> bool:
        """Whether the cancellation arrives."""
        heard = asyncio.Event()

        async def hear(_message: Msg) -> None:
            heard.set()

        subscription = await self.worker.subscribe(subjects.cancel("*"), hear)
        await self.worker.connection.flush()
        await self.jobs.cancel(request_id)
        async with asyncio.timeout(20):
            await heard.wait()
        await self.worker.unsubscribe(subscription)
        return True


@pytest.fixture
async def bus_rig(server: NatsServer) -> AsyncGenerator[BusRig]:
    """Both connections; the streams are emptied first."""
    edge, worker = await connected(server, "edge"), await connected(server, "worker")
    await apply_streams(worker, configuration(server))
    for stream in ("CHAT", "TTS"):
        await worker.api(f"STREAM.PURGE.{stream}", {})
    rig = BusRig(edge, worker)
    await rig.bus_replies.start()
    # The first request of a connection starts the task that takes all its answers.
    await edge.api("INFO", {})
    yield rig
    await rig.bus_replies.close()
    await edge.close()
    await worker.close()


class TestBus(EdgeBackendSuite):
    """The suite over the bus."""

    @pytest.fixture
    def rig(self, bus_rig: BusRig) -> Rig:
        """The rig over the bus."""
        return bus_rig


async def test_inbox_that_is_full_is_counted_and_says_so(bus_rig: BusRig) -> None:
    request_id = uuid4().hex
    inbox = bus_rig.replies.open_text(request_id, OPEN)
    for n in range(1100):
        frame = ChatFrame(seq=n, attempt=1, text="x")
        await bus_rig.worker.publish(subjects.out(bus_rig.replies.edge, request_id), frame.model_dump_json().encode())
    await bus_rig.worker.connection.flush()
    async with asyncio.timeout(20):
        while not inbox.lost:
            await asyncio.sleep(0.01)
    assert bus_rig.dropped > 0
    assert len(inbox.drain()) == 1024
    assert len(await bus_rig.replies.replay_text(request_id)) == 1100


async def test_message_that_is_no_frame_is_left_out(bus_rig: BusRig) -> None:
    request_id = uuid4().hex
    inbox = bus_rig.replies.open_text(request_id, OPEN)
    await bus_rig.worker.publish(subjects.out(bus_rig.replies.edge, request_id), b"not a frame")
    await bus_rig.worker.publish(subjects.audio(bus_rig.replies.edge, request_id, "x"), b"not a segment")
    frame = ChatFrame(seq=0, attempt=1, end=ChatEnd(reason="stop"))
    await bus_rig.send(request_id, frame)
    assert await received(inbox, 1) == [frame]


async def test_job_larger_than_the_bus_takes_is_refused_at_once(bus_rig: BusRig) -> None:
    job = chat_job()
    most = bus_rig.worker.connection.max_payload
    empty = job.model_copy(update={"request": job.request.model_copy(update={"prompt": ""})})
    bare = len(await bus_rig.worker.cipher.encrypt(empty.compact())) + len(b'"prompt":"",')
    # The id of the message counts too, which the server is told in its headers.
    for prompt_bytes in (most - bare - 58, most - bare - 1, most - bare, 9_000_000):
        request = job.request.model_copy(update={"prompt": "x" * prompt_bytes})
        async with asyncio.timeout(20):
            with pytest.raises(CallboardError) as caught:
                await bus_rig.jobs.enqueue(job.model_copy(update={"request": request}), "chat", POOL, "live")
        assert caught.value.info.code is ErrorCode.BODY_TOO_LARGE
    await bus_rig.jobs.enqueue(job, "chat", POOL, "live")


async def test_board_that_is_gone_is_told_in_time(tmp_path: Path) -> None:
    server = NatsServer(tmp_path / "nats")
    await asyncio.to_thread(server.start)
    edge = await connected(server, "edge")
    try:
        await apply_streams(edge, configuration(server))
        frames = BusReplyRouter(edge, "edge0", lambda: None, lambda: None)
        await frames.start()
        inbox = frames.open_text("r1", OPEN)
        await asyncio.to_thread(server.kill)
        with pytest.raises(CallboardError) as caught:
            await BusJobQueue(edge, enqueue_timeout_s=0.5).enqueue(chat_job(), "chat", POOL, "live")
        assert caught.value.info.code is ErrorCode.BUS_UNAVAILABLE
        assert await frames.replay_audio("r1", 0) == []
        await asyncio.to_thread(server.start)
        async with asyncio.timeout(10):
            while not inbox.lost:
                await inbox.wait(1)
                await asyncio.sleep(0.01)
        assert await frames.replay_text("r1") == []
        await frames.close()
    finally:
        await edge.close()
        await asyncio.to_thread(server.stop)


@pytest.fixture
async def background() -> AsyncGenerator[BackgroundTasks]:
    """The owner of what the desk leaves behind."""
    background = BackgroundTasks()
    yield background
    await background.close(0)


@asynccontextmanager
async def answering(bus_rig: BusRig, *answers: bytes | None) -> AsyncGenerator[None]:
    """Plays quota: gives one answer after another, the last one for ever, and none at all for None."""
    left = list(answers)

    async def reply(message: Msg) -> None:
        answer = left.pop(0) if len(left) > 1 else left[0]
        if answer is not None:
            await message.respond(answer)

    subscription = await bus_rig.worker.subscribe("quota.*", reply)
    await bus_rig.worker.connection.flush()
    yield
    await bus_rig.worker.unsubscribe(subscription)


async def test_desk_passes_on_what_quota_decides(bus_rig: BusRig, background: BackgroundTasks) -> None:
    desk = BusQuotaClient(bus_rig.worker, background, 2.0, "refuse")
    granted = ReserveReply(tenant="t1", hold=HOLD)
    released, known = ReleaseReply(settled=True), IdentifyReply(tenant="t1", tier="x")
    async with answering(bus_rig, *(reply.model_dump_json().encode() for reply in (granted, released, known))):
        assert await desk.reserve(RESERVE) == granted
        await desk.release(HOLD)
        assert await desk.identify(IdentifyRequest(key_digest="d")) == known


async def test_desk_tells_what_becomes_of_a_hold_that_no_request_waits_for(
    bus_rig: BusRig, background: BackgroundTasks
) -> None:
    desk = BusQuotaClient(bus_rig.worker, background, 0.3, "admit_and_settle")
    granted = ReserveReply(tenant="t1", hold=HOLD)
    heard: asyncio.Queue[ReserveReply | None] = asyncio.Queue()
    async with answering(bus_rig, granted.model_dump_json().encode(), b"broken"):
        # A connection is told answers from its first question on.
        assert (await desk.reserve(RESERVE)).hold == HOLD
        desk.reserve_later(RESERVE, heard.put_nowait)
        assert await asyncio.wait_for(heard.get(), 5) is None
    async with answering(bus_rig, granted.model_copy(update={"tenant": "t2"}).model_dump_json().encode(), b"broken"):
        desk.reserve_later(RESERVE, heard.put_nowait)
        told = await asyncio.wait_for(heard.get(), 5)
        assert told is not None
        assert told.hold == HOLD
        # The tenant is the newest that quota named.
        assert (await desk.reserve(RESERVE)).tenant == "t2"


async def test_desk_passes_a_refusal_on(bus_rig: BusRig, background: BackgroundTasks) -> None:
    refused = ReserveReply(error=ErrorInfo(code=ErrorCode.QUOTA_EXCEEDED, message="Too many.", retry_after_s=5))
    async with answering(bus_rig, refused.model_dump_json().encode()):
        assert await BusQuotaClient(bus_rig.worker, background, 2.0, "admit_and_settle").reserve(RESERVE) == refused


@pytest.mark.parametrize("fault", ["nobody", "silence", "nonsense"])
async def test_desk_without_quota_decides_as_the_site_wants(
    fault: str, bus_rig: BusRig, background: BackgroundTasks
) -> None:
    async with AsyncExitStack() as stack:
        if fault != "nobody":
            await stack.enter_async_context(answering(bus_rig, None if fault == "silence" else b"{}x"))
        refusing = BusQuotaClient(bus_rig.worker, background, 0.3, "refuse")
        refused = await refusing.reserve(RESERVE)
        assert refused.hold is None
        assert refused.error is not None
        assert refused.error.code is ErrorCode.QUOTA_UNAVAILABLE
        assert (await refusing.identify(IdentifyRequest())).error is not None
        admitting = BusQuotaClient(bus_rig.worker, background, 0.3, "admit_and_settle")
        admitted = await admitting.reserve(RESERVE)
        assert (admitted.tenant, admitted.hold, admitted.error) == ("anonymous", None, None)
        assert (await admitting.identify(IdentifyRequest())).error is None
        await refusing.release(HOLD)
    await background.close(0)


async def test_desk_asks_again_while_nobody_listens(bus_rig: BusRig, background: BackgroundTasks) -> None:
    desk = BusQuotaClient(bus_rig.worker, background, 5.0, "refuse")
    asking = asyncio.ensure_future(desk.reserve(RESERVE))
    await asyncio.sleep(0.3)
    assert not asking.done()
    granted = ReserveReply(tenant="t1", hold=HOLD)
    async with answering(bus_rig, granted.model_dump_json().encode()):
        assert await asking == granted


async def test_desk_remembers_the_tenant_for_the_time_without_quota(
    bus_rig: BusRig, background: BackgroundTasks
) -> None:
    desk = BusQuotaClient(bus_rig.worker, background, 0.3, "admit_and_settle")
    granted = ReserveReply(tenant="t1", hold=HOLD)
    async with answering(bus_rig, granted.model_dump_json().encode(), b"broken"):
        assert (await desk.reserve(RESERVE)).hold == HOLD
        assert (await desk.reserve(RESERVE)).tenant == "t1"


async def test_desk_without_quota_lets_in_only_keys_that_it_knows_where_keys_are_required(
    bus_rig: BusRig, background: BackgroundTasks
) -> None:
    desk = BusQuotaClient(bus_rig.worker, background, 0.3, "admit_and_settle", require_key=True)
    known, other = ("a" * 64, "b" * 64)
    keyed = RESERVE.model_copy(update={"key_digest": known})
    revoked = ReserveReply(error=ErrorInfo(code=ErrorCode.INVALID_API_KEY, message="The API key was revoked."))
    granted = ReserveReply(tenant="k_1", hold=HOLD)
    answers = [one.model_dump_json().encode() for one in (granted, revoked)]
    async with answering(bus_rig, answers[0], b"broken", b"broken", b"broken", b"broken", answers[1], b"broken"):
        assert (await desk.reserve(keyed)).hold == HOLD
        assert (await desk.reserve(keyed.model_copy(update={"address": "192.0.2.9"}))).tenant == "k_1"
        for digest, code in ((None, ErrorCode.INVALID_API_KEY), (other, ErrorCode.QUOTA_UNAVAILABLE)):
            refused = (await desk.reserve(RESERVE.model_copy(update={"key_digest": digest}))).error
            assert refused is not None
            assert refused.code is code
        assert (await desk.identify(IdentifyRequest(key_digest=known))).tenant == "k_1"
        assert (await desk.reserve(keyed)).error == revoked.error
        refused = (await desk.reserve(keyed)).error
        assert refused is not None
        assert refused.code is ErrorCode.QUOTA_UNAVAILABLE


async def test_desk_gives_a_hold_back_that_is_granted_too_late(bus_rig: BusRig, background: BackgroundTasks) -> None:
    desk = BusQuotaClient(bus_rig.worker, background, 0.1, "refuse")
    released: list[bytes] = []

    async def reserve(message: Msg) -> None:
        await asyncio.sleep(0.4)
        await message.respond(ReserveReply(tenant="t1", hold=HOLD).model_dump_json().encode())

    async def release(message: Msg) -> None:
        released.append(message.data)
        await message.respond(ReleaseReply(settled=True).model_dump_json().encode())

    subscriptions = [
        await bus_rig.worker.subscribe(subjects.QUOTA_RESERVE, reserve),
        await bus_rig.worker.subscribe(subjects.QUOTA_RELEASE, release),
    ]
    await bus_rig.worker.connection.flush()
    late = await desk.reserve(RESERVE)
    assert late.error is not None
    async with asyncio.timeout(20):
        while not released:
            await asyncio.sleep(0.01)
    assert ReleaseRequest.model_validate_json(released[0]).hold == HOLD
    await background.close(5)
    for subscription in subscriptions:
        await bus_rig.worker.unsubscribe(subscription)
