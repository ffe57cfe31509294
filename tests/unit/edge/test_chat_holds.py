"""What the edge holds for a chat: a usual prompt and a first slice, or all it can cost; and whose time counts."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from callboard_contracts.chat import ChatJob, ChatMessage, ChatRequest, Tool
from callboard_contracts.config import Config
from callboard_contracts.prompt_size import prompt_tokens_bound, usual_prompt_tokens
from callboard_contracts.quota import Work
from callboard_contracts.workers import OfferedModel, WorkerInfo
from callboard_edge.backends.fake_job_queue import FakeJobQueue
from callboard_edge.backends.fake_model_inquiry import FakeModelInquiry
from callboard_edge.backends.fake_quota_client import FakeQuotaClient
from callboard_edge.backends.fake_reply_router import FakeReplyRouter
from callboard_edge.backends.fake_result_store import FakeResultStore
from callboard_edge.backends.fake_rooms import FakeRooms
from callboard_edge.domain.admission import Admission
from callboard_edge.domain.caller import Caller
from callboard_edge.domain.catalogue import chat_catalogue
from callboard_edge.domain.kept_jobs import KeptJobs
from callboard_edge.domain.submission import Dependencies
from callboard_edge.domain.workers import Workers
from callboard_kit.background_tasks import BackgroundTasks
from tests.unit.edge.harness import CONFIG

pytestmark = pytest.mark.unit

OWL = chat_catalogue(Config.model_validate(CONFIG).chat).resolve("owl")
CALLER = Caller(None, "127.0.0.1")
SLICE_TOKENS = 64
BUS_TIME = 1_000_000.0


def request_of(text: str, most: int = 500, **fields: object) -> ChatRequest:
    messages = (ChatMessage(role="user", content=text),)
    return ChatRequest.model_validate({"model": "owl", "messages": messages, "max_output_tokens": most, **fields})


def announcement(worker_id: str, tokens_per_byte: float | None) -> WorkerInfo:
    model = OfferedModel(name="owl", tokens_per_byte=tokens_per_byte)
    return WorkerInfo(id=worker_id, service="chat", pool="main", backend="fake", models=(model,), slots=2, at=0)


async def admitted(request: ChatRequest, *offers: float | None) -> tuple[Work, ChatJob]:
    """What is held for a request with workers that announce so many tokens for each byte, and the job."""
    quota, jobs, replies, background = FakeQuotaClient(), FakeJobQueue(), FakeReplyRouter(), BackgroundTasks()
    workers = Workers()
    for n, offer in enumerate(offers):
        workers.announce(announcement(f"w{n}", offer))
    rooms = FakeRooms()
    deps = Dependencies(quota, jobs, replies, background, rooms, rooms, FakeModelInquiry(), lambda: BUS_TIME)
    admission = Admission(deps, workers, KeptJobs(deps, FakeResultStore(replies)), 10.0, SLICE_TOKENS)
    stream = await admission.chat(CALLER, request, OWL)
    job = await jobs.next_chat()
    stream.close()
    await background.close(5)
    return quota.asked[0].work, job


async def test_usual_prompt_and_first_slice_are_held_where_all_workers_extend_holds() -> None:
    request = request_of("word " * 100)
    held, job = await admitted(request, 0.2, 0.25)
    assert held == Work(prompt_tokens=usual_prompt_tokens(request, 0.25, 10_000), completion_tokens=SLICE_TOKENS)
    assert job.held == held
    assert held.prompt_tokens < prompt_tokens_bound(request, 10_000) / 2


async def test_no_more_is_held_than_the_request_allows() -> None:
    held, _ = await admitted(request_of("Hi", most=7), 0.2)
    assert held.completion_tokens == 7


@pytest.mark.parametrize("offers", [(), (None,), (0.2, None)])
async def test_all_that_a_reply_can_cost_is_held_where_a_worker_cannot_extend(offers: tuple[float | None, ...]) -> None:
    request = request_of("word " * 100)
    held, job = await admitted(request, *offers)
    assert held == Work(prompt_tokens=prompt_tokens_bound(request, OWL.context_tokens), completion_tokens=500)
    assert job.held is None


async def test_jobs_are_stamped_with_the_time_of_the_bus() -> None:
    _, job = await admitted(request_of("Hi"))
    assert (job.created_at, job.deadline_at) == (BUS_TIME, BUS_TIME + 10)


@given(st.text(max_size=400), st.floats(0.01, 1), st.booleans())
def test_usual_prompt_is_never_longer_than_the_bound(text: str, tokens_per_byte: float, tools: bool) -> None:
    offered = (Tool(name="find", description=text[:50], parameters={"type": "object"}),) if tools else ()
    request = request_of(text, tools=offered)
    assert 0 < usual_prompt_tokens(request, tokens_per_byte, 10**6) <= prompt_tokens_bound(request, 10**6)
