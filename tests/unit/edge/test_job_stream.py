"""What happens to a request when messages are lost, workers change, clients leave or time runs out."""

import asyncio
import json
import time

import pytest

from callboard_contracts.chat import ChatEnd, ChatFrame, ChatRequest, ChatResult, InterestRequest
from callboard_contracts.config import Config
from callboard_contracts.errors import CallboardError, ErrorCode, ErrorInfo
from callboard_contracts.speech import SegmentInfo, SpeechEnd, SpeechRequest
from callboard_edge.backends.fake import FakeJobQueue, FakeQuotaClient, FakeReplyRouter
from callboard_edge.domain import job_stream
from callboard_edge.domain.admission import Admission
from callboard_edge.domain.background_tasks import BackgroundTasks
from callboard_edge.domain.caller import Caller
from callboard_edge.domain.catalogue import chat_catalogue, speech_catalogue
from callboard_edge.domain.job_stream import Dependencies, Refused
from callboard_edge.domain.text_stream import Reply
from tests.unit.edge.harness import CONFIG, USAGE, frames

pytestmark = pytest.mark.unit

CONFIGURATION = Config.model_validate(CONFIG)
OWL = chat_catalogue(CONFIGURATION.chat).resolve("owl")
PARROT = speech_catalogue(CONFIGURATION.tts).resolve("parrot")
REQUEST = ChatRequest(model="owl", prompt="Once", mode="completion", max_output_tokens=10)
CALLER = Caller(None, "127.0.0.1")


class Room:
    """An admission over the fakes."""

    def __init__(self, life_s: float = 10.0, max_messages: int = 1024) -> None:
        self.quota = FakeQuotaClient()
        self.jobs = FakeJobQueue()
        self.replies = FakeReplyRouter(max_messages=max_messages)
        self.background = BackgroundTasks()
        deps = Dependencies(quota=self.quota, jobs=self.jobs, replies=self.replies, background=self.background)
        self.admission = Admission(deps, life_s)

    async def chat(self) -> Reply:
        """Enters a request."""
        return await self.admission.chat(CALLER, REQUEST, OWL)

    def send(self, reply: Reply, sent: list[ChatFrame]) -> None:
        """Plays the worker."""
        for frame in sent:
            self.replies.send(reply.request_id, frame)

    async def settled(self) -> None:
        """Waits until everything left behind is cleaned up."""
        await self.background.close(5)


async def heard(reply: Reply, wait_s: float = 5.0) -> str:
    """Takes the reply to its end and returns its text."""
    text = ""
    async with asyncio.timeout(wait_s):
        while True:
            for frame in await reply.take(1.0):
                text += frame.text
                if frame.end is not None:
                    return text


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes the edge ask the board sooner, so that a test does not wait for seconds."""
    monkeypatch.setattr(job_stream, "FIRST_CHECK_S", 0.1)
    monkeypatch.setattr(job_stream, "LAST_CHECK_S", 0.2)
    monkeypatch.setattr(job_stream, "REFILL_PAUSE_S", 0.05)
    monkeypatch.setattr(job_stream, "CANCEL_GRACE_S", 0.2)
    monkeypatch.setattr(job_stream, "DEADLINE_GRACE_S", 0.1)


async def test_reply_goes_from_the_hold_to_the_end() -> None:
    room = Room()
    with await room.chat() as reply:
        job = await room.jobs.next_chat()
        assert (job.edge, job.tenant, job.hold) == ("edge0", "anonymous", reply.hold)
        assert 9 < job.deadline_at - time.time() <= 10
        room.send(reply, frames("a", "b"))
        room.jobs.finish(job.request_id)
        assert await heard(reply) == "ab"
    await room.settled()
    assert room.replies.open_requests == 0
    assert (room.jobs.cancelled, room.jobs.removed, room.quota.released) == ([], [], [])
    assert room.replies.replays == 0


async def test_take_returns_nothing_when_its_wait_is_over() -> None:
    room = Room()
    with await room.chat() as reply:
        assert await reply.take(0.01) == ()
    await room.settled()


async def test_gap_is_filled_from_the_board_at_once() -> None:
    room = Room()
    with await room.chat() as reply:
        sent = frames("a", "b", "c")
        room.send(reply, sent[:1])
        room.replies.lose_next = 1
        room.send(reply, sent[1:])
        started = time.monotonic()
        assert await heard(reply) == "abc"
        assert time.monotonic() - started < 1
    assert room.replies.replays == 1


@pytest.mark.usefixtures("quick")
async def test_lost_end_is_found_after_a_silence() -> None:
    room = Room()
    with await room.chat() as reply:
        sent = frames("a", "b")
        room.send(reply, sent[:1])
        room.replies.lose_next = 2
        room.send(reply, sent[1:])
        assert await heard(reply) == "ab"


async def test_reconnection_asks_the_board_at_once() -> None:
    room = Room()
    with await room.chat() as reply:
        room.replies.lose_next = 3
        room.send(reply, frames("a", "b"))
        room.replies.reconnect()
        started = time.monotonic()
        assert await heard(reply) == "ab"
        assert time.monotonic() - started < 1


@pytest.mark.usefixtures("quick")
async def test_result_ends_a_reply_whose_frames_are_gone() -> None:
    room = Room()
    with await room.chat() as reply:
        room.send(reply, frames("a ", end=None))
        room.replies.lose_next = 9
        room.send(reply, frames("b ", "c", first=1))
        room.replies.forget()
        room.replies.results[reply.request_id] = ChatResult(
            request_id=reply.request_id, model="owl", text="a b c", end=ChatEnd(reason="stop", usage=USAGE)
        )
        assert await heard(reply) == "a b c"


@pytest.mark.usefixtures("quick")
async def test_gap_that_the_board_cannot_fill_waits_for_the_result() -> None:
    room = Room()
    with await room.chat() as reply:
        sent = frames("a ", "b ", "c")
        room.replies.lose_next = 1
        room.send(reply, sent[:1])
        room.replies.forget()
        room.send(reply, sent[1:2])
        taking = asyncio.ensure_future(heard(reply))
        await asyncio.sleep(0.3)
        assert not taking.done()
        assert room.replies.replays < 20
        room.replies.results[reply.request_id] = ChatResult(
            request_id=reply.request_id, model="owl", text="a b c", end=ChatEnd(reason="stop", usage=USAGE)
        )
        assert await taking == "a b c"


async def test_slow_reader_overflows_and_still_gets_everything() -> None:
    room = Room(max_messages=4)
    words = [f"w{n} " for n in range(50)]
    with await room.chat() as reply:
        room.send(reply, frames(*words))
        assert await heard(reply) == "".join(words)
    assert room.replies.replays >= 1


async def test_resuming_worker_is_told_what_arrived() -> None:
    room = Room()
    with await room.chat() as reply:
        room.send(reply, frames("a", "b", end=None))
        credit = room.replies.ask(reply.request_id, InterestRequest(attempt=2, resume=True))
        assert (credit.open, credit.next_seq, credit.text, credit.tokens) == (True, 2, "ab", 2)
        old = room.replies.ask(reply.request_id, InterestRequest(attempt=1))
        assert (old.open, old.attempt) == (True, 2)
        room.send(reply, frames("late", first=2, end=None))
        room.send(reply, frames("c", first=2, attempt=2))
        assert await heard(reply) == "abc"
    assert not room.replies.ask(reply.request_id, InterestRequest(attempt=2)).open


@pytest.mark.usefixtures("quick")
async def test_client_that_leaves_the_queue_takes_its_job_and_hold_along() -> None:
    room = Room()
    with await room.chat() as reply:
        assert room.jobs.queued == 1
    assert not room.replies.ask("other", InterestRequest(attempt=1)).open
    await room.settled()
    assert room.jobs.queued == 0
    assert room.jobs.cancelled == room.jobs.removed == room.quota.released == [reply.request_id]
    assert room.replies.open_requests == 0


@pytest.mark.usefixtures("quick")
async def test_client_that_leaves_a_running_worker_leaves_the_hold_to_it() -> None:
    room = Room()
    with await room.chat() as reply:
        room.send(reply, frames("a", end=None))
        await reply.take(1)
    assert not room.replies.ask(reply.request_id, InterestRequest(attempt=1)).open
    await room.settled()
    assert room.jobs.cancelled == [reply.request_id]
    assert (room.jobs.removed, room.quota.released) == ([], [])


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("sign", ["frame", "question"])
async def test_worker_that_shows_itself_after_the_cancellation_settles_the_hold(sign: str) -> None:
    room = Room()
    with await room.chat() as reply:
        pass
    await asyncio.sleep(0.05)
    if sign == "frame":
        room.send(reply, [ChatFrame(seq=0, attempt=1, end=ChatEnd(reason="cancelled"))])
    else:
        assert not room.replies.ask(reply.request_id, InterestRequest(attempt=1)).open
    await room.settled()
    assert room.jobs.removed == [reply.request_id]
    assert room.quota.released == []


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("harness", ["reserve", "post"])
async def test_client_that_leaves_on_the_way_in_leaves_nothing_behind(harness: str) -> None:
    room = Room()
    if harness == "reserve":
        room.quota.delay_s = 0.1
    else:
        room.jobs.delay_s = 0.1
    entering = asyncio.ensure_future(room.chat())
    await asyncio.sleep(0.03)
    entering.cancel()
    with pytest.raises(asyncio.CancelledError):
        await entering
    await room.settled()
    assert room.jobs.queued == 0
    assert len(room.quota.released) == 1
    assert room.quota.held == {}
    assert room.replies.open_requests == 0


async def test_board_that_refuses_gives_the_hold_back() -> None:
    room = Room()
    room.jobs.failure = CallboardError(ErrorCode.QUEUE_FULL, "Full.", retry_after_s=2)
    with pytest.raises(CallboardError) as caught:
        await room.chat()
    assert caught.value.info.code is ErrorCode.QUEUE_FULL
    await room.settled()
    assert len(room.quota.released) == 1
    assert room.replies.open_requests == 0


async def test_refusal_leaves_nothing_behind() -> None:
    room = Room()
    room.quota.refusal = ErrorInfo(code=ErrorCode.QUOTA_EXCEEDED, message="Too many.")
    with pytest.raises(Refused):
        await room.chat()
    await room.settled()
    assert (room.jobs.queued, room.replies.open_requests) == (0, 0)


@pytest.mark.usefixtures("quick")
async def test_deadline_ends_the_waiting_and_cleans_up() -> None:
    room = Room(life_s=0.2)
    with await room.chat() as reply, pytest.raises(CallboardError) as caught:
        await heard(reply)
    assert caught.value.info.code is ErrorCode.DEADLINE_EXCEEDED
    await room.settled()
    assert room.jobs.removed == room.quota.released == [reply.request_id]


async def test_edge_that_stops_ends_the_waiting() -> None:
    room = Room()
    with await room.chat() as reply:
        asyncio.get_running_loop().call_later(
            0.05, room.replies.fail_all, ErrorInfo(code=ErrorCode.INTERRUPTED, message="Stopping.")
        )
        with pytest.raises(CallboardError) as caught:
            await heard(reply)
    assert caught.value.info.code is ErrorCode.INTERRUPTED
    await room.settled()


async def test_job_says_nothing_that_a_frame_could_not_carry() -> None:
    room = Room()
    with await room.chat():
        job = await room.jobs.next_chat()
        assert json.loads(job.model_dump_json())["request"]["prompt"] == "Once"
    await room.settled()


async def test_speech_comes_in_order_and_is_filled_from_the_board() -> None:
    room = Room(max_messages=8)
    request = SpeechRequest(model="parrot", text="Hello.", voice="ann")
    pcm = [bytes([n]) * 10 for n in range(40)]
    with await room.admission.speech(CALLER, request, PARROT, 5000) as utterance:
        job = await room.jobs.next_speech()
        assert (job.room, job.utterance) == ("edge0", job.request_id)
        assert room.quota.asked[0].work.audio_ms == 5000
        for n, part in enumerate(pcm):
            room.replies.say(job.request_id, n, SegmentInfo(attempt=1, piece=n, offset_bytes=0), part)
        end = SpeechEnd(reason="stop", audio_ms=1)
        room.replies.say(job.request_id, 40, SegmentInfo(attempt=1, piece=40, offset_bytes=0, end=end), b"")
        heard_pcm = b""
        async with asyncio.timeout(5):
            while not utterance.ended:
                heard_pcm += b"".join(segment.pcm for segment in await utterance.take(1))
    assert heard_pcm == b"".join(pcm)
    await room.settled()
    assert room.replies.open_requests == 0
