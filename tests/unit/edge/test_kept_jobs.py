"""Jobs that nobody listens to: found by their id, read while they run, ended wherever they are."""

import time

import pytest

from callboard_contracts.chat import ChatEnd, ChatFrame, ChatRequest, ChatResult
from callboard_contracts.config import Config
from callboard_contracts.errors import CallboardError, ErrorCode, ErrorInfo
from callboard_edge.backends.fake_job_queue import FakeJobQueue
from callboard_edge.backends.fake_model_inquiry import FakeModelInquiry
from callboard_edge.backends.fake_quota_client import FakeQuotaClient
from callboard_edge.backends.fake_reply_router import FakeReplyRouter
from callboard_edge.backends.fake_result_store import FakeResultStore
from callboard_edge.backends.fake_rooms import FakeRooms
from callboard_edge.domain import kept_jobs
from callboard_edge.domain.admission import Admission
from callboard_edge.domain.caller import Caller
from callboard_edge.domain.catalogue import chat_catalogue
from callboard_edge.domain.kept_jobs import KeptJobs
from callboard_edge.domain.submission import Dependencies, QuotaRefused
from callboard_edge.domain.workers import Workers
from callboard_kit.background_tasks import BackgroundTasks
from tests.unit.edge.harness import CONFIG, USAGE, frames

pytestmark = pytest.mark.unit

OWL = chat_catalogue(Config.model_validate(CONFIG).chat).resolve("owl")
REQUEST = ChatRequest(model="owl", prompt="Once", mode="completion", max_output_tokens=10)
CALLER = Caller(None, "127.0.0.1")


class Edge:
    """One edge over the fakes; a second one shares the queues and the store with it."""

    def __init__(self, beside: "Edge | None" = None, ahead_s: float = 0.0) -> None:
        self.quota = beside.quota if beside else FakeQuotaClient()
        self.jobs = beside.jobs if beside else FakeJobQueue()
        self.replies = beside.replies if beside else FakeReplyRouter()
        self.results = beside.results if beside else FakeResultStore(self.replies)
        self.background = BackgroundTasks()
        rooms = FakeRooms()
        deps = Dependencies(
            self.quota,
            self.jobs,
            self.replies,
            self.background,
            rooms,
            rooms,
            FakeModelInquiry(),
            lambda: time.time() + ahead_s,
        )
        self.kept = KeptJobs(deps, self.results)
        self.admission = Admission(deps, Workers(), self.kept, 10.0)

    async def submit(self) -> str:
        """Enqueues a job and returns its id."""
        return await self.admission.chat_kept(CALLER, REQUEST, OWL)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waits a short time for a worker to show itself."""
    monkeypatch.setattr(kept_jobs, "CANCEL_WAIT_S", 0.05)
    monkeypatch.setattr(kept_jobs, "CANCEL_POLL_S", 0.01)


async def test_job_is_queued_in_its_class_and_followed_from_another_edge() -> None:
    edge = Edge()
    other = Edge(beside=edge)
    request_id = await edge.submit()
    assert edge.jobs.classes == ["batch"]
    assert edge.replies.open_requests == 0
    assert (await other.kept.find(request_id)).state == "queued"
    for frame in frames("a ", "b ", end=None):
        edge.replies.send(request_id, frame)
    running = await other.kept.find(request_id)
    assert (running.state, running.text, running.tokens, running.result) == ("running", "a b ", 2, None)
    result = ChatResult(request_id=request_id, model="owl", text="a b c", end=ChatEnd(reason="stop", usage=USAGE))
    edge.replies.results[request_id] = result
    done = await other.kept.find(request_id)
    assert (done.state, done.text, done.tokens, done.result) == ("done", "a b c", 2, result)
    assert edge.quota.released == []


async def test_unknown_job_is_not_found() -> None:
    edge = Edge()
    for asked in (edge.kept.find("nobody"), edge.kept.cancel("nobody")):
        with pytest.raises(CallboardError) as caught:
            await asked
        assert caught.value.info.code is ErrorCode.NOT_FOUND


@pytest.mark.usefixtures("quick")
async def test_cancelled_job_that_nobody_began_leaves_no_hold_and_a_result_that_says_so() -> None:
    edge = Edge()
    request_id = await edge.submit()
    await Edge(beside=edge).kept.cancel(request_id)
    assert (edge.jobs.cancelled, edge.jobs.removed, edge.quota.released) == ([request_id],) * 3
    done = await edge.kept.find(request_id)
    assert done.state == "done"
    assert done.result is not None
    assert done.result.end.reason == "cancelled"
    await edge.kept.cancel(request_id)
    assert edge.quota.released == [request_id]


@pytest.mark.usefixtures("quick")
async def test_job_that_nobody_has_begun_by_its_deadline_ends_in_an_error_and_costs_nothing() -> None:
    edge = Edge()
    request_id = await edge.submit()
    late = Edge(beside=edge, ahead_s=30.0)
    job = await late.kept.find(request_id)
    assert job.state == "done"
    assert job.result is not None
    assert job.result.end.error is not None
    assert job.result.end.error.code is ErrorCode.NO_WORKER
    assert edge.jobs.removed == edge.quota.released == [request_id]
    assert (await edge.kept.find(request_id)).state == "done"


@pytest.mark.usefixtures("quick")
async def test_cancelled_job_that_a_worker_has_is_settled_by_the_worker() -> None:
    edge = Edge()
    request_id = await edge.submit()
    edge.replies.send(request_id, ChatFrame(seq=0, attempt=1, text="a", tokens=1))
    await edge.kept.cancel(request_id)
    assert (edge.jobs.cancelled, edge.quota.released) == ([request_id], [])
    assert (await edge.kept.find(request_id)).text == "a"


async def test_refused_job_leaves_no_ticket() -> None:
    edge = Edge()
    edge.quota.refusal = ErrorInfo(code=ErrorCode.QUOTA_EXCEEDED, message="Too many.")
    with pytest.raises(QuotaRefused):
        await edge.submit()
    assert (edge.jobs.queued, edge.results.tickets) == (0, {})


@pytest.mark.usefixtures("quick")
async def test_job_whose_ticket_cannot_be_kept_is_taken_back() -> None:
    edge = Edge()
    edge.results.failure = CallboardError(ErrorCode.BUS_UNAVAILABLE, "Away.")
    with pytest.raises(CallboardError) as caught:
        await edge.submit()
    assert caught.value.info.code is ErrorCode.BUS_UNAVAILABLE
    assert edge.jobs.queued == 0
    assert len(edge.jobs.cancelled) == 1
