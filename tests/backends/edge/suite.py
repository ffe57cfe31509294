"""What job queues, reply routers and result stores must do, over the bus and in memory alike."""

import asyncio
import time
from abc import abstractmethod
from typing import TypeVar
from uuid import uuid4

import pytest

from callboard_contracts.chat import ChatEnd, ChatFrame, ChatJob, ChatRequest, ChatResult
from callboard_contracts.embedding import EmbeddingFrame, EmbeddingResult
from callboard_contracts.errors import CallboardError, ErrorCode, ErrorInfo
from callboard_contracts.interest import EdgeHeartbeat, ResumeReply
from callboard_contracts.jobs import JOB_VERSION
from callboard_contracts.kept import JobTicket
from callboard_contracts.speech import SegmentInfo, SpeechEnd, SpeechJob, SpeechRequest
from callboard_edge.domain.ports import Inbox, JobQueue, ReplyRouter, RequestState, ResultStore

T = TypeVar("T")

POOL = "main"
QUEUE_BOUND = 4


class Rig:
    """What is under test, and the worker's side of it."""

    jobs: JobQueue
    replies: ReplyRouter
    results: ResultStore

    @abstractmethod
    async def send(self, request_id: str, frame: ChatFrame) -> None:
        """Publishes a frame as a worker does."""

    @abstractmethod
    async def send_vectors(self, request_id: str, frame: EmbeddingFrame) -> None:
        """Publishes a frame of vectors as a worker does."""

    @abstractmethod
    async def keep_vectors(self, result: EmbeddingResult) -> None:
        """Stores the result of an embedding request."""

    @abstractmethod
    async def say(self, request_id: str, n: int, info: SegmentInfo, pcm: bytes) -> None:
        """Publishes a segment as a worker does."""

    @abstractmethod
    async def resume(self, request_id: str, attempt: int) -> ResumeReply:
        """Asks how far a reply has come, as a worker that takes it over does."""

    @abstractmethod
    async def heartbeat(self) -> EdgeHeartbeat:
        """The edge's next heartbeat."""

    @abstractmethod
    async def keep(self, result: ChatResult) -> None:
        """Stores a finished reply."""

    @abstractmethod
    async def cancelled(self, request_id: str) -> bool:
        """Whether a worker hears, within a moment, that nobody waits for a request."""


def chat_job(tenant: str = "anonymous") -> ChatJob:
    """A job that has nothing but what it must have."""
    now = time.time()
    return ChatJob(
        version=JOB_VERSION,
        request_id=uuid4().hex,
        edge="edge0",
        tenant=tenant,
        request=ChatRequest(model="owl", prompt="x", mode="completion", max_output_tokens=1),
        hold=None,
        created_at=now,
        deadline_at=now + 10,
    )


def speech_job() -> SpeechJob:
    """The same for speech."""
    now, request_id = time.time(), uuid4().hex
    return SpeechJob(
        version=JOB_VERSION,
        request_id=request_id,
        edge="edge0",
        tenant="anonymous",
        room="edge0",
        utterance=request_id,
        request=SpeechRequest(model="parrot", text="x", voice="ann"),
        hold=None,
        created_at=now,
        deadline_at=now + 10,
    )


def resumed(attempt: int) -> ResumeReply:
    """The answer to a worker whose request is still open."""
    return ResumeReply(open=True, attempt=attempt, next_seq=5)


OPEN = RequestState(lambda: 1, resumed)
"""A request that somebody waits for."""


async def received(inbox: Inbox[T], count: int) -> list[T]:
    """Waits until so much has arrived."""
    found: list[T] = []
    async with asyncio.timeout(20):
        while len(found) < count:
            await inbox.wait(5)
            found += inbox.drain()
    return found


class EdgeBackendSuite:
    """The promises of `JobQueue`, `ReplyRouter` and `ResultStore`."""

    async def test_vectors_arrive_are_read_back_and_are_kept(self, rig: Rig) -> None:
        request_id = uuid4().hex
        inbox = rig.replies.open_embedding(request_id, OPEN)
        sent = [EmbeddingFrame(seq=n, attempt=1, vectors=("AAAAPwAAAL8=",), tokens=2) for n in range(3)]
        for frame in sent:
            await rig.send_vectors(request_id, frame)
        assert await received(inbox, 3) == sent
        assert await rig.replies.replay_embedding(request_id) == sent
        assert await rig.replies.replay_embedding(uuid4().hex) == []
        assert await rig.replies.embedding_result(request_id) is None
        result = EmbeddingResult(request_id=request_id, model="magpie", vectors=((0.5, -0.5),))
        await rig.keep_vectors(result)
        assert await rig.replies.embedding_result(request_id) == result
        rig.replies.close_request(request_id)

    async def test_frames_arrive_in_the_order_in_which_they_were_sent(self, rig: Rig) -> None:
        mine, other = uuid4().hex, uuid4().hex
        inbox = rig.replies.open_text(mine, OPEN)
        rig.replies.open_text(other, OPEN)
        sent = [ChatFrame(seq=n, attempt=1, text=f"w{n}", tokens=1) for n in range(20)]
        for frame in sent:
            await rig.send(other, frame.model_copy(update={"text": "other"}))
            await rig.send(mine, frame)
        assert await received(inbox, 20) == sent
        assert not inbox.lost

    async def test_frames_of_a_closed_request_are_kept_but_not_delivered(self, rig: Rig) -> None:
        request_id = uuid4().hex
        inbox = rig.replies.open_text(request_id, OPEN)
        rig.replies.close_request(request_id)
        frame = ChatFrame(seq=0, attempt=1, end=ChatEnd(reason="stop"))
        await rig.send(request_id, frame)
        await inbox.wait(0.1)
        assert inbox.drain() == []
        assert await rig.replies.replay_text(request_id) == [frame]

    async def test_replay_brings_all_frames_of_one_request(self, rig: Rig) -> None:
        request_id = uuid4().hex
        assert await rig.replies.replay_text(request_id) == []
        sent = [ChatFrame(seq=n, attempt=1, text="x", tokens=1) for n in range(300)]
        for frame in sent:
            await rig.send(uuid4().hex, frame)
            await rig.send(request_id, frame)
        assert await rig.replies.replay_text(request_id) == sent

    async def test_segments_arrive_with_what_is_known_of_them(self, rig: Rig) -> None:
        request_id = uuid4().hex
        inbox = rig.replies.open_audio(request_id, OPEN)
        infos = [SegmentInfo(attempt=1, piece=n, offset_bytes=0, piece_done=True) for n in range(3)]
        infos.append(SegmentInfo(attempt=1, piece=3, offset_bytes=0, end=SpeechEnd(reason="stop", audio_ms=5)))
        for n, info in enumerate(infos):
            await rig.say(request_id, n, info, b"" if info.end else bytes([n, 255]) * 50)
        found = await received(inbox, 4)
        assert [segment.n for segment in found] == [0, 1, 2, 3]
        assert [segment.info for segment in found] == infos
        assert found[1].pcm == bytes([1, 255]) * 50
        assert await rig.replies.replay_audio(request_id, 2) == found[2:]
        assert await rig.replies.replay_audio(request_id, 4) == []

    async def test_replay_of_audio_is_bounded(self, rig: Rig) -> None:
        request_id = uuid4().hex
        for n in range(40):
            await rig.say(request_id, n, SegmentInfo(attempt=1, piece=n, offset_bytes=0), b"xx")
        first = await rig.replies.replay_audio(request_id, 0)
        assert 1 <= len(first) < 40
        rest = await rig.replies.replay_audio(request_id, first[-1].n + 1)
        assert [segment.n for segment in first + rest] == list(range(40))

    async def test_worker_that_takes_over_is_answered_for_its_request(self, rig: Rig) -> None:
        request_id = uuid4().hex
        attempts: list[int] = []

        def answer(attempt: int) -> ResumeReply:
            attempts.append(attempt)
            return resumed(attempt)

        rig.replies.open_text(request_id, RequestState(lambda: 1, answer))
        assert (await rig.resume(request_id, 2), attempts) == (resumed(2), [2])
        rig.replies.close_request(request_id)
        assert not (await rig.resume(request_id, 2)).open
        assert not (await rig.resume(uuid4().hex, 2)).open

    async def test_heartbeat_names_the_open_requests_and_the_attempts_of_those_taken_over(self, rig: Rig) -> None:
        first, second, closed = uuid4().hex, uuid4().hex, uuid4().hex
        rig.replies.open_text(first, OPEN)
        rig.replies.open_audio(second, RequestState(lambda: 3, resumed))
        rig.replies.open_text(closed, OPEN)
        rig.replies.close_request(closed)
        beat = await rig.heartbeat()
        assert (beat.edge, set(beat.open), beat.attempts) == (rig.replies.edge, {first, second}, {second: 3})

    async def test_ticket_and_result_of_a_polled_job_are_kept(self, rig: Rig) -> None:
        job = chat_job()
        assert await rig.results.ticket(job.request_id) is None
        assert await rig.results.ticket("no subject.could hold*this") is None
        ref = await rig.jobs.enqueue(job, "chat", POOL, "batch")
        ticket = JobTicket(
            request_id=job.request_id,
            service="chat",
            pool=POOL,
            tenant=job.tenant,
            model="owl",
            stream=ref.stream,
            seq=ref.seq,
            created_at=job.created_at,
            deadline_at=job.deadline_at,
        )
        await rig.results.put_ticket(ticket)
        assert await rig.results.ticket(job.request_id) == ticket
        frame = ChatFrame(seq=0, attempt=1, text="so far", tokens=2)
        await rig.send(job.request_id, frame)
        assert await rig.results.frames(job.request_id) == [frame]
        assert await rig.results.result(job.request_id) is None
        result = ChatResult(request_id=job.request_id, model="owl", text="", end=ChatEnd(reason="cancelled"))
        await rig.results.put_result(result)
        assert await rig.results.result(job.request_id) == result

    async def test_job_posted_twice_lies_there_once(self, rig: Rig) -> None:
        job = chat_job()
        first = await rig.jobs.enqueue(job, "chat", POOL, "live")
        assert await rig.jobs.enqueue(job, "chat", POOL, "live") == first
        assert await rig.jobs.remove(first)
        assert not await rig.jobs.remove(first)

    async def test_queue_of_one_tenant_that_is_full_refuses_only_that_one(self, rig: Rig) -> None:
        job_ref = [await rig.jobs.enqueue(chat_job("one"), "chat", POOL, "live") for _ in range(QUEUE_BOUND)]
        with pytest.raises(CallboardError) as caught:
            await rig.jobs.enqueue(chat_job("one"), "chat", POOL, "live")
        assert caught.value.info.code is ErrorCode.QUEUE_FULL
        assert (caught.value.info.retry_after_s or 0) > 0
        await rig.jobs.enqueue(chat_job("two"), "chat", POOL, "live")
        await rig.jobs.remove(job_ref[0])
        await rig.jobs.enqueue(chat_job("one"), "chat", POOL, "live")

    async def test_speech_is_posted_and_withdrawn(self, rig: Rig) -> None:
        job_ref = await rig.jobs.enqueue(speech_job(), "tts", "booth", "live")
        assert job_ref.stream == "TTS"
        assert await rig.jobs.remove(job_ref)

    async def test_cancellation_reaches_the_worker(self, rig: Rig) -> None:
        request_id = uuid4().hex
        assert await rig.cancelled(request_id)

    async def test_result_is_found_once_it_is_there(self, rig: Rig) -> None:
        request_id = uuid4().hex
        assert await rig.replies.result(request_id) is None
        result = ChatResult(request_id=request_id, model="owl", text="Hoo.", end=ChatEnd(reason="stop"))
        await rig.keep(result)
        assert await rig.replies.result(request_id) == result

    async def test_failed_inbox_wakes_its_reader(self, rig: Rig) -> None:
        inbox = rig.replies.open_text(uuid4().hex, OPEN)
        error = ErrorInfo(code=ErrorCode.INTERRUPTED, message="Stopping.")
        asyncio.get_running_loop().call_later(0.01, inbox.fail, error)
        async with asyncio.timeout(20):
            await inbox.wait(5)
        assert inbox.failure == error
