"""Embedding jobs over a real bus, beside chat jobs in the same queue."""

import asyncio
import base64
import time
import uuid
from collections.abc import Callable

import pytest

from callboard_chat.backends.fake import FakeEngine, FakeScript
from callboard_contracts import subjects
from callboard_contracts.chat import TokenUsage
from callboard_contracts.embedding import (
    EmbeddingEnd,
    EmbeddingFrame,
    EmbeddingJob,
    EmbeddingRequest,
    EmbeddingResult,
    floats,
    packed,
)
from callboard_contracts.errors import ErrorCode
from callboard_contracts.jobs import JOB_VERSION
from callboard_contracts.quota import UsageEvent
from callboard_kit.kept import keep
from callboard_kit.stream_reads import read_last, read_subject
from tests.integration.chat.conftest import Worker, worker
from tests.integration.chat.edge_stub import EDGE, EdgeStub
from tests.support.nats_server import NatsServer

pytestmark = pytest.mark.integration

MODEL = "magpie"
WAIT_S = 20.0
TEXTS = tuple(f"owl number {n}" for n in range(20))


async def post(edge_stub: EdgeStub, *texts: str, life_s: float = 30.0, truncate: bool = False) -> EmbeddingJob:
    now, request_id = time.time(), uuid.uuid4().hex
    job = EmbeddingJob(
        version=JOB_VERSION,
        request_id=request_id,
        edge=EDGE,
        tenant="t1",
        request=EmbeddingRequest(model=MODEL, inputs=texts, truncate=truncate),
        created_at=now,
        deadline_at=now + life_s,
    )
    edge_stub.waits(request_id)
    await edge_stub.post_raw(job.encoded(), request_id)
    return job


async def frames(edge_stub: EdgeStub, job: EmbeddingJob) -> list[EmbeddingFrame]:
    """All frames that were sent, in the order in which they were stored."""
    stored = await read_subject(edge_stub.bus, "OUT", subjects.out(EDGE, job.request_id))
    return [EmbeddingFrame.model_validate_json(message.data) for message in stored]


async def ended(edge_stub: EdgeStub, job: EmbeddingJob) -> tuple[list[EmbeddingFrame], EmbeddingEnd]:
    """The frames and the end of a job."""
    async with asyncio.timeout(WAIT_S):
        while not (found := await frames(edge_stub, job)) or found[-1].end is None:
            await asyncio.sleep(0.02)
    assert [frame.seq for frame in found] == list(range(len(found)))
    assert [frame.end for frame in found if frame.end] == [found[-1].end]
    return found, found[-1].end


async def usage_of(edge_stub: EdgeStub, job: EmbeddingJob) -> UsageEvent:
    """The one usage event of a job that has left the queue."""
    await edge_stub.queue_is_empty()
    stored = await read_subject(edge_stub.bus, "USAGE", subjects.usage("t1"))
    events = [UsageEvent.model_validate_json(message.data) for message in stored]
    (event,) = [event for event in events if event.request_id == job.request_id]
    assert event.kind == "embedding"
    return event


async def eventually(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(WAIT_S):
        while not condition():
            await asyncio.sleep(0.01)


def vectors_of(found: list[EmbeddingFrame]) -> list[list[float]]:
    return [list(floats(base64.b64decode(vector))) for frame in found for vector in frame.vectors]


async def expected(*texts: str) -> list[list[float]]:
    embedded = await FakeEngine().embed(MODEL, texts, 4096, truncate=False)
    return [list(floats(vector)) for vector in embedded.vectors]


async def test_texts_are_embedded_kept_and_charged_beside_chats(server: NatsServer, edge_stub: EdgeStub) -> None:
    async with worker(server, FakeEngine(FakeScript(unavailable_times=2))):
        job, chat = await post(edge_stub, *TEXTS), await edge_stub.post()
        found, end = await ended(edge_stub, job)
        assert (await edge_stub.end(chat)).end is not None
        event = await usage_of(edge_stub, job)
    assert vectors_of(found) == await expected(*TEXTS)
    assert (end.reason, end.usage.prompt_tokens, end.truncated) == ("stop", 60, 0)
    assert (event.outcome, event.work.prompt_tokens, event.model) == ("stop", 60, MODEL)
    kept = await read_last(edge_stub.bus, "RESULT", subjects.result(job.request_id))
    assert kept is not None
    assert b"magpie" not in kept.data
    result = EmbeddingResult.model_validate_json(await edge_stub.bus.cipher.decrypt(kept.data))
    assert [list(vector) for vector in result.vectors] == vectors_of(found)


async def test_worker_that_takes_over_goes_on_after_the_last_frame(server: NatsServer, edge_stub: EdgeStub) -> None:
    first, second = FakeEngine(FakeScript(hang_text=TEXTS[15])), FakeEngine()
    async with worker(server, first) as lost:
        job = await post(edge_stub, *TEXTS)
        await eventually(lambda: first.state.active == 1 and len(first.state.embedded) == 8)
        hand_back(lost)
        async with worker(server, second):
            found, end = await ended(edge_stub, job)
            event = await usage_of(edge_stub, job)
    assert second.state.embedded == list(TEXTS[8:])
    assert vectors_of(found) == await expected(*TEXTS)
    assert {frame.attempt for frame in found} == {1, 2}
    assert (end.usage.prompt_tokens, event.work.prompt_tokens) == (60, 60)


def hand_back(held: Worker) -> None:
    """Has a worker give its jobs back, as the pull loop does when the time to drain is over, and stop."""
    held.shutdown.request_stop("test")
    for task in asyncio.all_tasks():
        if task.get_name() == "job":
            task.cancel()


@pytest.mark.parametrize("source", ["frames", "result"])
async def test_finished_job_that_comes_again_is_only_settled_again(
    server: NatsServer, edge_stub: EdgeStub, source: str
) -> None:
    """Its worker died between the end and the acknowledgement."""
    job = await post(edge_stub, "owl")
    pull = await edge_stub.bus.connection.jetstream().pull_subscribe_bind("chat-main-live", "CHAT")
    (message,) = await pull.fetch(1, timeout=5)
    vector, usage = (0.5, -0.5), TokenUsage(prompt_tokens=7)
    if source == "frames":
        end = EmbeddingEnd(reason="stop", usage=usage)
        text = base64.b64encode(packed(vector)).decode()
        for frame in (
            EmbeddingFrame(seq=0, attempt=1, vectors=(text,), tokens=7),
            EmbeddingFrame(seq=1, attempt=1, end=end),
        ):
            await edge_stub.bus.publish(subjects.out(EDGE, job.request_id), frame.compact(), flush=True)
    else:
        result = EmbeddingResult(request_id=job.request_id, model=MODEL, vectors=(vector,), usage=usage)
        await keep(edge_stub.bus, subjects.result(job.request_id), result, f"{job.request_id}.result")
    await message.nak()
    engine = FakeEngine()
    async with worker(server, engine):
        event = await usage_of(edge_stub, job)
    found = await frames(edge_stub, job)
    assert vectors_of(found) == [list(vector)]
    assert found[-1].end is not None
    assert (event.outcome, event.work.prompt_tokens, engine.state.embedded) == ("stop", 7, [])


async def test_cancelled_job_leaves_the_engine_and_pays_for_what_was_read(
    server: NatsServer, edge_stub: EdgeStub
) -> None:
    engine = FakeEngine(FakeScript(hang_text=TEXTS[9]))
    async with worker(server, engine):
        job = await post(edge_stub, *TEXTS)
        await eventually(lambda: engine.state.active == 1 and len(engine.state.embedded) == 8)
        await edge_stub.bus.publish(subjects.cancel(job.request_id))
        _found, end = await ended(edge_stub, job)
        event = await usage_of(edge_stub, job)
        assert engine.state.active == 0
    assert (end.reason, event.outcome, event.work.prompt_tokens) == ("cancelled", "cancelled", 24)


async def test_failure_deadline_and_silence_are_answered_and_cost_nothing(
    server: NatsServer, edge_stub: EdgeStub
) -> None:
    engine = FakeEngine(FakeScript(fail_text="fail", hang_text="hang"))
    async with worker(server, engine, stall_timeout_s=0.5):
        failed, silent = await post(edge_stub, *TEXTS, "fail"), await post(edge_stub, "hang")
        late, long = await post(edge_stub, "owl", life_s=-1), await post(edge_stub, "owl", "word " * 5000)
        jobs = (failed, silent, late, long)
        errors = [(await ended(edge_stub, job))[1].error for job in jobs]
        events = [await usage_of(edge_stub, job) for job in jobs]
    assert [error.code for error in errors if error] == [
        ErrorCode.ENGINE_FAILED,
        ErrorCode.ENGINE_FAILED,
        ErrorCode.DEADLINE_EXCEEDED,
        ErrorCode.CONTEXT_LENGTH_EXCEEDED,
    ]
    assert errors[-1] is not None
    assert errors[-1].param == "inputs[1]"
    assert [(event.outcome, event.work.prompt_tokens) for event in events] == [("error", 0)] * 4


async def test_text_over_the_context_is_cut_where_it_may_be(server: NatsServer, edge_stub: EdgeStub) -> None:
    async with worker(server, FakeEngine()):
        job = await post(edge_stub, "owl", "word " * 5000, truncate=True)
        _found, end = await ended(edge_stub, job)
    assert (end.reason, end.truncated, end.usage.prompt_tokens) == ("stop", 1, 4097)


async def test_job_that_used_up_its_deliveries_is_answered(server: NatsServer, edge_stub: EdgeStub) -> None:
    settings = (await edge_stub.bus.api("CONSUMER.INFO.CHAT.chat-main-live", {}))["config"]
    body = {"stream_name": "CHAT", "config": {**settings, "max_deliver": 1}}
    await edge_stub.bus.api("CONSUMER.CREATE.CHAT.chat-main-live.job.chat.main.live.*", body)
    engine = FakeEngine(FakeScript(hang_text="owl"))
    async with worker(server, engine) as first:
        job = await post(edge_stub, "owl")
        await eventually(lambda: engine.state.active == 1)
        hand_back(first)
    async with worker(server, FakeEngine()):
        _found, end = await ended(edge_stub, job)
        event = await usage_of(edge_stub, job)
    assert end.error is not None
    assert (end.error.code, event.work.prompt_tokens) == (ErrorCode.INTERRUPTED, 0)
