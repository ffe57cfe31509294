"""What happens to a request when messages are lost, workers change, clients leave or time runs out."""

import asyncio
import json
import time
from collections.abc import Sequence
from functools import partial

import pytest

from callboard_contracts.chat import ChatEnd, ChatFrame, ChatRequest, ChatResult
from callboard_contracts.config import Config
from callboard_contracts.errors import CallboardError, ErrorCode, ErrorInfo
from callboard_contracts.quota import LimitState
from callboard_contracts.speech import SegmentInfo, SpeechEnd, SpeechRequest
from callboard_edge.backends.fake_job_queue import FakeJobQueue
from callboard_edge.backends.fake_model_inquiry import FakeModelInquiry
from callboard_edge.backends.fake_quota_client import FakeQuotaClient
from callboard_edge.backends.fake_reply_router import FakeReplyRouter
from callboard_edge.backends.fake_result_store import FakeResultStore
from callboard_edge.backends.fake_rooms import FakeRooms
from callboard_edge.domain import job_stream
from callboard_edge.domain.admission import Admission
from callboard_edge.domain.caller import Caller
from callboard_edge.domain.catalogue import chat_catalogue, speech_catalogue
from callboard_edge.domain.kept_jobs import KeptJobs
from callboard_edge.domain.submission import Dependencies, QuotaRefused
from callboard_edge.domain.text_stream import TextStream
from callboard_edge.domain.workers import Workers
from callboard_kit.background_tasks import BackgroundTasks
from tests.unit.edge.harness import CONFIG, USAGE, frames

pytestmark = pytest.mark.unit

CONFIGURATION = Config.model_validate(CONFIG)
OWL = chat_catalogue(CONFIGURATION.chat).resolve("owl")
PARROT = speech_catalogue(CONFIGURATION.tts).resolve("parrot")
REQUEST = ChatRequest(model="owl", prompt="Once", mode="completion", max_output_tokens=10)
CALLER = Caller(None, "127.0.0.1")


class Requests:
    """An admission over the fakes."""

    def __init__(self, life_s: float = 10.0, max_messages: int = 1024) -> None:
        self.quota = FakeQuotaClient()
        self.jobs = FakeJobQueue()
        self.replies = FakeReplyRouter(max_messages=max_messages)
        self.background = BackgroundTasks()
        rooms = FakeRooms()
        deps = self.deps = Dependencies(
            self.quota, self.jobs, self.replies, self.background, rooms, rooms, FakeModelInquiry()
        )
        self.kept = KeptJobs(deps, FakeResultStore(self.replies))
        self.admission = Admission(deps, Workers(), self.kept, life_s)

    async def chat(self) -> TextStream:
        """Enters a request."""
        return await self.admission.chat(CALLER, REQUEST, OWL)

    def send(self, reply: TextStream, sent: list[ChatFrame]) -> None:
        """Plays the worker."""
        for frame in sent:
            self.replies.send(reply.request_id, frame)

    async def settled(self) -> None:
        """Waits until everything left behind is cleaned up."""
        await self.background.close(5)


async def heard(reply: TextStream, wait_s: float = 5.0) -> str:
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
    requests = Requests()
    async with await requests.chat() as reply:
        job = await requests.jobs.next_chat()
        assert (job.edge, job.tenant, job.hold) == ("edge0", "anonymous", reply.hold)
        assert 9 < job.deadline_at - time.time() <= 10
        requests.send(reply, frames("a", "b"))
        requests.jobs.finish(job.request_id)
        assert await heard(reply) == "ab"
    await requests.settled()
    assert requests.replies.open_requests == 0
    assert (requests.jobs.cancelled, requests.jobs.removed, requests.quota.released) == ([], [], [])
    assert requests.replies.replays == 0


async def test_request_waits_from_its_submission_to_its_first_output() -> None:
    requests = Requests()
    oldest_s = partial(requests.deps.waiting.oldest_s, "chat", OWL.pool)
    async with await requests.chat() as first:
        async with await requests.chat() as second:
            waited_s = oldest_s()
            assert waited_s > 0
            requests.send(first, frames("a"))
            await first.take(1.0)
            assert 0 < oldest_s() < waited_s + 5
            requests.send(second, frames("b"))
            await second.take(1.0)
        assert oldest_s() == 0
    async with await requests.chat():
        assert oldest_s() > 0
    assert oldest_s() == 0
    await requests.settled()


async def test_take_returns_nothing_when_its_wait_is_over() -> None:
    requests = Requests()
    async with await requests.chat() as reply:
        assert await reply.take(0.01) == ()
    await requests.settled()


async def test_gap_is_filled_from_the_board_at_once() -> None:
    requests = Requests()
    async with await requests.chat() as reply:
        sent = frames("a", "b", "c")
        requests.send(reply, sent[:1])
        requests.replies.lose_next = 1
        requests.send(reply, sent[1:])
        started = time.monotonic()
        assert await heard(reply) == "abc"
        assert time.monotonic() - started < 1
    assert requests.replies.replays == 1


@pytest.mark.usefixtures("quick")
async def test_lost_end_is_found_after_a_silence() -> None:
    requests = Requests()
    async with await requests.chat() as reply:
        sent = frames("a", "b")
        requests.send(reply, sent[:1])
        requests.replies.lose_next = 2
        requests.send(reply, sent[1:])
        assert await heard(reply) == "ab"


async def test_reconnection_asks_the_board_at_once() -> None:
    requests = Requests()
    async with await requests.chat() as reply:
        requests.replies.lose_next = 3
        requests.send(reply, frames("a", "b"))
        requests.replies.reconnect()
        started = time.monotonic()
        assert await heard(reply) == "ab"
        assert time.monotonic() - started < 1


@pytest.mark.usefixtures("quick")
async def test_result_ends_a_reply_whose_frames_are_gone() -> None:
    requests = Requests()
    async with await requests.chat() as reply:
        requests.send(reply, frames("a ", end=None))
        requests.replies.lose_next = 9
        requests.send(reply, frames("b ", "c", first=1))
        requests.replies.forget()
        requests.replies.results[reply.request_id] = ChatResult(
            request_id=reply.request_id, model="owl", text="a b c", end=ChatEnd(reason="stop", usage=USAGE)
        )
        assert await heard(reply) == "a b c"


@pytest.mark.usefixtures("quick")
async def test_gap_that_the_board_cannot_fill_waits_for_the_result() -> None:
    requests = Requests()
    async with await requests.chat() as reply:
        sent = frames("a ", "b ", "c")
        requests.replies.lose_next = 1
        requests.send(reply, sent[:1])
        requests.replies.forget()
        requests.send(reply, sent[1:2])
        taking = asyncio.ensure_future(heard(reply))
        await asyncio.sleep(0.3)
        assert not taking.done()
        assert requests.replies.replays < 20
        requests.replies.results[reply.request_id] = ChatResult(
            request_id=reply.request_id, model="owl", text="a b c", end=ChatEnd(reason="stop", usage=USAGE)
        )
        assert await taking == "a b c"


async def test_slow_reader_overflows_and_still_gets_everything() -> None:
    requests = Requests(max_messages=4)
    words = [f"w{n} " for n in range(50)]
    async with await requests.chat() as reply:
        requests.send(reply, frames(*words))
        assert await heard(reply) == "".join(words)
    assert requests.replies.replays >= 1


async def test_resuming_worker_is_told_what_arrived() -> None:
    requests = Requests()
    async with await requests.chat() as reply:
        requests.send(reply, frames("a", "b", end=None))
        resumed = requests.replies.resume(reply.request_id, 2)
        assert (resumed.open, resumed.next_seq, resumed.text, resumed.tokens) == (True, 2, "ab", 2)
        assert requests.replies.heartbeat().attempts == {reply.request_id: 2}
        requests.send(reply, frames("late", first=2, end=None))
        requests.send(reply, frames("c", first=2, attempt=2))
        assert await heard(reply) == "abc"
    assert not requests.replies.resume(reply.request_id, 2).open


@pytest.mark.usefixtures("quick")
async def test_client_that_leaves_the_queue_takes_its_job_and_hold_along() -> None:
    requests = Requests()
    async with await requests.chat() as reply:
        assert requests.jobs.queued == 1
    assert not requests.replies.resume("other", 1).open
    await requests.settled()
    assert requests.jobs.queued == 0
    assert requests.jobs.cancelled == requests.jobs.removed == requests.quota.released == [reply.request_id]
    assert requests.replies.open_requests == 0


@pytest.mark.usefixtures("quick")
async def test_client_that_leaves_a_running_worker_leaves_the_hold_to_it() -> None:
    requests = Requests()
    async with await requests.chat() as reply:
        requests.send(reply, frames("a", end=None))
        await reply.take(1)
    assert not requests.replies.resume(reply.request_id, 1).open
    await requests.settled()
    assert requests.jobs.cancelled == [reply.request_id]
    assert (requests.jobs.removed, requests.quota.released) == ([], [])


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("sign", ["frame", "question"])
async def test_worker_that_shows_itself_after_the_cancellation_settles_the_hold(sign: str) -> None:
    requests = Requests()
    async with await requests.chat() as reply:
        pass
    await asyncio.sleep(0.05)
    if sign == "frame":
        requests.send(reply, [ChatFrame(seq=0, attempt=1, end=ChatEnd(reason="cancelled"))])
    else:
        assert not requests.replies.resume(reply.request_id, 1).open
    await requests.settled()
    assert requests.jobs.removed == [reply.request_id]
    assert requests.quota.released == []


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("harness", ["reserve", "post"])
async def test_client_that_leaves_on_the_way_in_leaves_nothing_behind(harness: str) -> None:
    requests = Requests()
    if harness == "reserve":
        requests.quota.delay_s = 0.1
    else:
        requests.jobs.delay_s = 0.1
    entering = asyncio.ensure_future(requests.chat())
    await asyncio.sleep(0.03)
    entering.cancel()
    with pytest.raises(asyncio.CancelledError):
        await entering
    await requests.settled()
    assert requests.jobs.queued == 0
    assert len(requests.quota.released) == 1
    assert requests.quota.held == {}
    assert requests.replies.open_requests == 0


async def test_board_that_refuses_gives_the_hold_back() -> None:
    requests = Requests()
    requests.jobs.failure = CallboardError(ErrorCode.QUEUE_FULL, "Full.", retry_after_s=2)
    with pytest.raises(CallboardError) as caught:
        await requests.chat()
    assert caught.value.info.code is ErrorCode.QUEUE_FULL
    await requests.settled()
    assert len(requests.quota.released) == 1
    assert requests.replies.open_requests == 0


async def test_refusal_leaves_nothing_behind() -> None:
    requests = Requests()
    requests.quota.refusal = ErrorInfo(code=ErrorCode.QUOTA_EXCEEDED, message="Too many.")
    with pytest.raises(QuotaRefused):
        await requests.chat()
    await requests.settled()
    assert (requests.jobs.queued, requests.replies.open_requests) == (0, 0)


@pytest.mark.usefixtures("quick")
async def test_reader_of_a_stream_that_has_only_begun_is_told_at_once_what_quota_refuses(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(job_stream, "ACCEPTED_WITHIN_S", 60)
    requests = Requests()
    requests.quota.refusal = ErrorInfo(code=ErrorCode.QUOTA_EXCEEDED, message="Enough.")
    requests.quota.delay_s = 0.02
    async with await requests.admission.begin_chat(CALLER, REQUEST, OWL) as reply:
        with pytest.raises(QuotaRefused):
            await asyncio.wait_for(reply.take(60), 5)
    await requests.settled()
    assert (requests.jobs.queued, requests.replies.open_requests) == (0, 0)


async def test_first_frame_of_a_stream_that_has_only_begun_comes_after_its_limits() -> None:
    requests = Requests()
    requests.quota.states = (LimitState(limit="key.tokens_per_day", allowed=9, remaining=5, resets_in_s=60),)
    told: list[Sequence[LimitState]] = []
    async with await requests.admission.begin_chat(CALLER, REQUEST, OWL) as reply:
        reply.tell_limits(told.append)
        requests.send(reply, frames("Hoo."))
        taken = await reply.take(5)
        assert (taken[0].text, told) == ("Hoo.", [requests.quota.states])


async def test_first_frame_of_a_stream_that_has_only_begun_waits_until_its_job_is_kept() -> None:
    requests = Requests()
    requests.jobs.delay_s = 0.05
    async with await requests.admission.begin_chat(CALLER, REQUEST, OWL) as reply:
        requests.send(reply, frames("Hoo."))
        taken = await reply.take(5)
        assert (taken[0].text, requests.jobs.queued) == ("Hoo.", 1)


async def test_deadline_ends_the_waiting_and_cleans_up() -> None:
    requests = Requests(life_s=0.2)
    async with await requests.chat() as reply:
        with pytest.raises(CallboardError) as caught:
            await heard(reply)
    assert caught.value.info.code is ErrorCode.DEADLINE_EXCEEDED
    await requests.settled()
    assert requests.jobs.removed == requests.quota.released == [reply.request_id]


async def test_edge_that_stops_ends_the_waiting() -> None:
    requests = Requests()
    async with await requests.chat() as reply:
        asyncio.get_running_loop().call_later(
            0.05, requests.replies.fail_all, ErrorInfo(code=ErrorCode.INTERRUPTED, message="Stopping.")
        )
        with pytest.raises(CallboardError) as caught:
            await heard(reply)
    assert caught.value.info.code is ErrorCode.INTERRUPTED
    await requests.settled()


async def test_job_says_nothing_that_a_frame_could_not_carry() -> None:
    requests = Requests()
    async with await requests.chat():
        job = await requests.jobs.next_chat()
        assert json.loads(job.model_dump_json())["request"]["prompt"] == "Once"
    await requests.settled()


async def test_speech_comes_in_order_and_is_filled_from_the_board() -> None:
    requests = Requests(max_messages=8)
    request = SpeechRequest(model="parrot", text="Hello.", voice="ann")
    pcm = [bytes([n]) * 10 for n in range(40)]
    async with await requests.admission.speech(CALLER, request, PARROT, 5000) as utterance:
        job = await requests.jobs.next_speech()
        assert (job.room, job.utterance) == ("edge0", job.request_id)
        assert requests.quota.asked[0].work.audio_ms == 5000
        for n, part in enumerate(pcm):
            requests.replies.say(job.request_id, n, SegmentInfo(attempt=1, piece=n, offset_bytes=0), part)
        end = SpeechEnd(reason="stop", audio_ms=1)
        requests.replies.say(job.request_id, 40, SegmentInfo(attempt=1, piece=40, offset_bytes=0, end=end), b"")
        heard_pcm = b""
        async with asyncio.timeout(20):
            while not utterance.ended:
                heard_pcm += b"".join(segment.pcm for segment in await utterance.take(1))
    assert heard_pcm == b"".join(pcm)
    await requests.settled()
    assert requests.replies.open_requests == 0
