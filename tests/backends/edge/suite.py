"""What the board and the frames must do, over the bus and in memory alike."""

import asyncio
import time
from abc import abstractmethod
from typing import TypeVar
from uuid import uuid4

import pytest

from callboard_contracts.chat import (
    ChatEnd,
    ChatFrame,
    ChatJob,
    ChatRequest,
    ChatResult,
    InterestReply,
    InterestRequest,
)
from callboard_contracts.errors import CallboardError, ErrorCode, ErrorInfo
from callboard_contracts.speech import SegmentInfo, SpeechEnd, SpeechJob, SpeechRequest
from callboard_edge.domain.ports import Inbox, JobQueue, ReplyRouter

T = TypeVar("T")

POOL = "main"
QUEUE_BOUND = 4


class Rig:
    """A board and its frames under test, and the worker's side of both."""

    jobs: JobQueue
    frames: ReplyRouter

    @abstractmethod
    async def send(self, request_id: str, frame: ChatFrame) -> None:
        """Publishes a frame as a worker does."""

    @abstractmethod
    async def say(self, request_id: str, n: int, info: SegmentInfo, pcm: bytes) -> None:
        """Publishes a segment as a worker does."""

    @abstractmethod
    async def ask(self, request_id: str, question: InterestRequest) -> InterestReply:
        """Asks whether a request is still wanted."""

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


def wanted(_question: InterestRequest) -> InterestReply:
    """The answer for a request that somebody waits for."""
    return InterestReply(open=True, attempt=1, next_seq=5)


async def received(inbox: Inbox[T], count: int) -> list[T]:
    """Waits until so much has arrived."""
    found: list[T] = []
    async with asyncio.timeout(5):
        while len(found) < count:
            await inbox.wait(5)
            found += inbox.drain()
    return found


class BoardSuite:
    """The promises of `Board` and `Frames`."""

    async def test_frames_arrive_in_the_order_in_which_they_were_sent(self, rig: Rig) -> None:
        mine, other = uuid4().hex, uuid4().hex
        inbox = rig.frames.open_chat(mine, wanted)
        rig.frames.open_chat(other, wanted)
        sent = [ChatFrame(seq=n, attempt=1, text=f"w{n}", tokens=1) for n in range(20)]
        for frame in sent:
            await rig.send(other, frame.model_copy(update={"text": "other"}))
            await rig.send(mine, frame)
        assert await received(inbox, 20) == sent
        assert not inbox.lost

    async def test_frames_of_a_closed_request_are_kept_but_not_delivered(self, rig: Rig) -> None:
        request_id = uuid4().hex
        inbox = rig.frames.open_chat(request_id, wanted)
        rig.frames.close_request(request_id)
        frame = ChatFrame(seq=0, attempt=1, end=ChatEnd(reason="stop"))
        await rig.send(request_id, frame)
        await inbox.wait(0.1)
        assert inbox.drain() == []
        assert await rig.frames.replay_chat(request_id) == [frame]

    async def test_replay_brings_all_frames_of_one_request(self, rig: Rig) -> None:
        request_id = uuid4().hex
        assert await rig.frames.replay_chat(request_id) == []
        sent = [ChatFrame(seq=n, attempt=1, text="x", tokens=1) for n in range(300)]
        for frame in sent:
            await rig.send(uuid4().hex, frame)
            await rig.send(request_id, frame)
        assert await rig.frames.replay_chat(request_id) == sent

    async def test_segments_arrive_with_what_is_known_of_them(self, rig: Rig) -> None:
        request_id = uuid4().hex
        inbox = rig.frames.open_audio(request_id, wanted)
        infos = [SegmentInfo(attempt=1, piece=n, offset_bytes=0, piece_done=True) for n in range(3)]
        infos.append(SegmentInfo(attempt=1, piece=3, offset_bytes=0, end=SpeechEnd(reason="stop", audio_ms=5)))
        for n, info in enumerate(infos):
            await rig.say(request_id, n, info, b"" if info.end else bytes([n, 255]) * 50)
        found = await received(inbox, 4)
        assert [segment.n for segment in found] == [0, 1, 2, 3]
        assert [segment.info for segment in found] == infos
        assert found[1].pcm == bytes([1, 255]) * 50
        assert await rig.frames.replay_audio(request_id, 2) == found[2:]
        assert await rig.frames.replay_audio(request_id, 4) == []

    async def test_replay_of_audio_is_bounded(self, rig: Rig) -> None:
        request_id = uuid4().hex
        for n in range(40):
            await rig.say(request_id, n, SegmentInfo(attempt=1, piece=n, offset_bytes=0), b"xx")
        first = await rig.frames.replay_audio(request_id, 0)
        assert 1 <= len(first) < 40
        rest = await rig.frames.replay_audio(request_id, first[-1].n + 1)
        assert [segment.n for segment in first + rest] == list(range(40))

    async def test_worker_that_asks_is_answered_for_its_request(self, rig: Rig) -> None:
        request_id = uuid4().hex
        questions: list[InterestRequest] = []

        def answer(question: InterestRequest) -> InterestReply:
            questions.append(question)
            return wanted(question)

        rig.frames.open_chat(request_id, answer)
        question = InterestRequest(attempt=2, resume=True)
        reply = await rig.ask(request_id, question)
        assert (reply, questions) == (wanted(question), [question])
        rig.frames.close_request(request_id)
        assert not (await rig.ask(request_id, question)).open
        assert not (await rig.ask(uuid4().hex, question)).open

    async def test_job_posted_twice_lies_there_once(self, rig: Rig) -> None:
        job = chat_job()
        first = await rig.jobs.enqueue_chat(job, POOL)
        assert await rig.jobs.enqueue_chat(job, POOL) == first
        assert await rig.jobs.remove(first)
        assert not await rig.jobs.remove(first)

    async def test_queue_of_one_tenant_that_is_full_refuses_only_that_one(self, rig: Rig) -> None:
        job_ref = [await rig.jobs.enqueue_chat(chat_job("one"), POOL) for _ in range(QUEUE_BOUND)]
        with pytest.raises(CallboardError) as caught:
            await rig.jobs.enqueue_chat(chat_job("one"), POOL)
        assert caught.value.info.code is ErrorCode.QUEUE_FULL
        assert (caught.value.info.retry_after_s or 0) > 0
        await rig.jobs.enqueue_chat(chat_job("two"), POOL)
        await rig.jobs.remove(job_ref[0])
        await rig.jobs.enqueue_chat(chat_job("one"), POOL)

    async def test_speech_is_posted_and_withdrawn(self, rig: Rig) -> None:
        job_ref = await rig.jobs.enqueue_speech(speech_job(), "booth")
        assert job_ref.stream == "TTS"
        assert await rig.jobs.remove(job_ref)

    async def test_cancellation_reaches_the_worker(self, rig: Rig) -> None:
        request_id = uuid4().hex
        assert await rig.cancelled(request_id)

    async def test_result_is_found_once_it_is_there(self, rig: Rig) -> None:
        request_id = uuid4().hex
        assert await rig.frames.result(request_id) is None
        result = ChatResult(request_id=request_id, model="owl", text="Hoo.", end=ChatEnd(reason="stop"))
        await rig.keep(result)
        assert await rig.frames.result(request_id) == result

    async def test_failed_inbox_wakes_its_reader(self, rig: Rig) -> None:
        inbox = rig.frames.open_chat(uuid4().hex, wanted)
        error = ErrorInfo(code=ErrorCode.INTERRUPTED, message="Stopping.")
        asyncio.get_running_loop().call_later(0.01, inbox.fail, error)
        async with asyncio.timeout(5):
            await inbox.wait(5)
        assert inbox.failure == error
