"""A chat worker that holds what it writes with real quota processes on a real bus."""

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from callboard_chat.app import run_worker
from callboard_chat.backends.fake import FakeEngine, FakeScript
from callboard_chat.settings import pool_settings
from callboard_contracts import subjects
from callboard_contracts.chat import ChatFrame, ChatJob, ChatMessage, ChatRequest
from callboard_contracts.config import Config
from callboard_contracts.errors import ErrorCode
from callboard_contracts.quota import UsageEvent, Work
from callboard_contracts.streams import OUT, USAGE
from callboard_kit.bus import Bus
from callboard_kit.lifecycle import Shutdown
from callboard_kit.stream_reads import read_subject
from callboard_worker.hold_extensions import open_extensions
from tests.integration.quota.deployment import (
    QuotaDeployment,
    audit,
    counters,
    eventually,
    hold_of,
    no_leases,
    release,
    request,
    settled,
)

pytestmark = [pytest.mark.integration, pytest.mark.timeout(400)]

POOL = "main"
MODEL = "owl"
SLICE_TOKENS = 32
PROMPT_TOKENS = 40
LIMIT_TOKENS = 1000
CONFIG = {
    "chat": {
        "pools": {POOL: {"backend": "fake", "slots": 16}},
        "models": {MODEL: {"pool": POOL}},
        "hold_slice_tokens": SLICE_TOKENS,
        "drain_timeout_s": 5,
    },
    "quota": {"tiers": {"anonymous": {"tokens_per_day": LIMIT_TOKENS}}, "decision_timeout_s": 1.0},
}


@pytest.fixture
async def deployment(tmp_path: Path) -> AsyncGenerator[QuotaDeployment]:
    """A bus and two quota processes of the test's own."""
    own = QuotaDeployment(tmp_path / "deployment", CONFIG)
    try:
        await asyncio.to_thread(own.start, 2)
        yield own
        await asyncio.to_thread(own.stop)
    finally:
        await asyncio.to_thread(own.abandon)


@pytest.fixture
async def bus(deployment: QuotaDeployment) -> AsyncGenerator[Bus]:
    """A connection to it."""
    async with deployment.bus() as connected:
        yield connected


def script(tokens: int, prompt_tokens: int | None = PROMPT_TOKENS, **fields: Any) -> FakeScript:
    """A reply of so many words; the prompt is counted with the first of them, or at the end."""
    return FakeScript(tokens=tuple(f"w{n} " for n in range(tokens)), prompt_tokens=prompt_tokens, **fields)


@asynccontextmanager
async def worker(deployment: QuotaDeployment, played: FakeScript) -> AsyncGenerator["asyncio.Task[None]"]:
    """A chat worker in this process."""
    config = Config.model_validate(deployment.table)
    shutdown = Shutdown()
    running = asyncio.ensure_future(run_worker(config, pool_settings(config, POOL, {}), FakeEngine(played), shutdown))
    try:
        yield running
    finally:
        shutdown.request_stop("test")
        async with asyncio.timeout(20):
            await asyncio.gather(running, return_exceptions=True)


async def ask(bus: Bus, name: str, *, prompt_tokens: int = PROMPT_TOKENS, most_tokens: int = 2000) -> ChatJob:
    """Holds a usual prompt and the first slice, and posts the job, which is polled."""
    held = Work(prompt_tokens=prompt_tokens, completion_tokens=min(SLICE_TOKENS, most_tokens))
    hold = await hold_of(bus, request(name, 0).model_copy(update={"work": held}))
    now = time.time()
    messages = (ChatMessage(role="user", content="Tell me a story."),)
    job = ChatJob(
        request_id=name,
        edge="e1",
        tenant=hold.tenant,
        request=ChatRequest(model=MODEL, messages=messages, max_output_tokens=most_tokens),
        hold=hold,
        held=held,
        created_at=now,
        deadline_at=now + 60,
    )
    await bus.publish_stored(subjects.job("chat", POOL, "batch", job.tenant), job.encoded(), name)
    return job


async def frames_of(bus: Bus, job: ChatJob) -> list[ChatFrame]:
    return [ChatFrame.model_validate_json(one.data) for one in await read_subject(bus, OUT, f"out.*.{job.request_id}")]


async def usage_of(bus: Bus, job: ChatJob) -> UsageEvent:
    """The job's one usage event, once all is settled."""
    found: list[UsageEvent] = []

    async def reported() -> bool:
        stored = await read_subject(bus, USAGE, subjects.usage(job.tenant))
        events = [UsageEvent.model_validate_json(message.data) for message in stored]
        found[:] = [event for event in events if event.request_id == job.request_id]
        return bool(found)

    await eventually(reported, "a usage event", timeout_s=60)
    await settled(bus)
    (event,) = found
    return event


def tokens(work: Work) -> int:
    return work.prompt_tokens + work.completion_tokens


def held_tokens(event: UsageEvent) -> int:
    return sum(hold.units or 0 for hold in (event.hold, *event.extensions) if hold) // 1000


async def charged_tokens(bus: Bus, job: ChatJob) -> int:
    return (await counters(bus)).get((job.tenant, "units"), 0) // 1000


async def admissions(bus: Bus, job: ChatJob) -> int:
    """How many requests for holds of a job were decided."""
    return sum(event.kind in {"admitted", "refused"} for event in await audit(bus, job.request_id))


async def test_reply_shorter_than_its_slice_asks_quota_for_nothing(deployment: QuotaDeployment, bus: Bus) -> None:
    async with worker(deployment, script(SLICE_TOKENS)):
        event = await usage_of(bus, job := await ask(bus, "short"))
    assert (event.outcome, event.work.completion_tokens, event.extensions) == ("stop", SLICE_TOKENS, ())
    assert await admissions(bus, job) == 1
    assert await charged_tokens(bus, job) == PROMPT_TOKENS + SLICE_TOKENS


async def test_long_reply_is_held_in_growing_slices_and_charged_as_written(
    deployment: QuotaDeployment, bus: Bus
) -> None:
    async with worker(deployment, script(500)):
        event = await usage_of(bus, job := await ask(bus, "long", most_tokens=600))
    assert (event.outcome, event.work) == ("stop", Work(prompt_tokens=PROMPT_TOKENS, completion_tokens=500))
    assert 500 + PROMPT_TOKENS <= held_tokens(event) <= 600 + PROMPT_TOKENS
    assert len(event.extensions) <= 5
    assert await charged_tokens(bus, job) == 540
    await no_leases(bus)


async def test_limit_ends_a_reply_exactly(deployment: QuotaDeployment, bus: Bus) -> None:
    async with worker(deployment, script(1500)):
        event = await usage_of(bus, job := await ask(bus, "limited"))
    assert event.outcome == "length"
    assert tokens(event.work) == held_tokens(event) == LIMIT_TOKENS
    assert await charged_tokens(bus, job) == LIMIT_TOKENS
    frames = await frames_of(bus, job)
    assert sum(frame.tokens for frame in frames) == LIMIT_TOKENS - PROMPT_TOKENS


async def test_replies_at_once_share_a_limit_to_its_last_token(deployment: QuotaDeployment, bus: Bus) -> None:
    async with worker(deployment, script(300, token_delay_s=0.001)):
        jobs = [await ask(bus, f"shared{n}") for n in range(10)]
        events = [await usage_of(bus, job) for job in jobs]
    assert all(event.work.completion_tokens >= SLICE_TOKENS for event in events)
    assert all(tokens(event.work) <= held_tokens(event) for event in events)
    assert await charged_tokens(bus, jobs[0]) == sum(tokens(event.work) for event in events) <= LIMIT_TOKENS
    await no_leases(bus)


async def test_prompt_longer_than_was_reckoned_is_held_before_anything_is_said(
    deployment: QuotaDeployment, bus: Bus
) -> None:
    async with worker(deployment, script(20, prompt_tokens=300)):
        event = await usage_of(bus, job := await ask(bus, "longer"))
    assert (event.outcome, event.work) == ("stop", Work(prompt_tokens=300, completion_tokens=20))
    assert await charged_tokens(bus, job) == 320


async def test_prompt_beyond_the_limit_is_refused_by_it_and_costs_nothing(
    deployment: QuotaDeployment, bus: Bus
) -> None:
    async with worker(deployment, script(20, prompt_tokens=LIMIT_TOKENS + 1)):
        event = await usage_of(bus, job := await ask(bus, "beyond"))
    assert (event.outcome, tokens(event.work)) == ("error", 0)
    (end,) = [frame.end for frame in await frames_of(bus, job)]
    assert end is not None
    assert end.error is not None
    assert (end.error.code, end.error.limit) == (ErrorCode.QUOTA_EXCEEDED, "address.tokens_per_day")
    assert await charged_tokens(bus, job) == 0


async def test_prompt_that_is_counted_at_the_end_is_held_then(deployment: QuotaDeployment, bus: Bus) -> None:
    async with worker(deployment, script(SLICE_TOKENS, prompt_tokens=None)):
        event = await usage_of(bus, job := await ask(bus, "late", prompt_tokens=1))
    assert event.work == Work(prompt_tokens=4, completion_tokens=SLICE_TOKENS)
    assert len(event.extensions) == 1
    assert await charged_tokens(bus, job) == 4 + SLICE_TOKENS


async def test_worker_that_takes_over_goes_on_with_the_holds_that_were_taken(
    deployment: QuotaDeployment, bus: Bus
) -> None:
    async with worker(deployment, script(200, token_delay_s=0.01)) as first:
        job = await ask(bus, "handed-on")

        async def extended() -> bool:
            return await admissions(bus, job) > 1

        await eventually(extended, "an extension")
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        async with worker(deployment, script(200)):
            event = await usage_of(bus, job)
    assert event.work == Work(prompt_tokens=PROMPT_TOKENS, completion_tokens=200)
    assert tokens(event.work) <= held_tokens(event)
    assert len(event.extensions) == await admissions(bus, job) - 1
    assert await charged_tokens(bus, job) == 240
    await no_leases(bus)


async def test_reply_ends_with_an_error_when_quota_stays_away(
    deployment: QuotaDeployment, bus: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("callboard_worker.hold_extensions.QUOTA_WAIT_S", 1.0)
    async with worker(deployment, script(300, token_delay_s=0.02)):
        job = await ask(bus, "alone")
        for service in deployment.quotas:
            await asyncio.to_thread(service.running.kill)

        async def ended() -> bool:
            return any(frame.end for frame in await frames_of(bus, job))

        await eventually(ended, "an end")
    *_, last = await frames_of(bus, job)
    assert last.end is not None
    assert last.end.error is not None
    assert last.end.error.code is ErrorCode.QUOTA_UNAVAILABLE
    deployment.quotas.clear()
    await asyncio.to_thread(deployment.add().wait_ready)
    event = await usage_of(bus, job)
    assert event.work == Work(prompt_tokens=PROMPT_TOKENS, completion_tokens=SLICE_TOKENS)


@pytest.mark.parametrize("holds_lost", [False, True])
async def test_dead_job_is_charged_with_what_was_sent(
    deployment: QuotaDeployment, bus: Bus, *, holds_lost: bool
) -> None:
    async with worker(deployment, script(400, token_delay_s=0.005)) as first:
        job = await ask(bus, "dead")

        async def sent() -> bool:
            return sum(frame.tokens for frame in await frames_of(bus, job)) >= 100

        await eventually(sent, "a hundred tokens")
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
    delivered = sum(frame.tokens for frame in await frames_of(bus, job))
    if holds_lost:
        # As when their leases ran out before a worker came back.
        for hold in await open_extensions(bus, job):
            assert await release(bus, hold)
    async with worker(deployment, script(0)):
        await asyncio.sleep(0.5)
        # As the server says once a job was handed out too often.
        (queued,) = await read_subject(bus, "CHAT", "job.chat.>")
        advisory = f'{{"stream_seq": {queued.seq}}}'.encode()
        await bus.publish("$JS.EVENT.ADVISORY.CONSUMER.MAX_DELIVERIES.CHAT.x", advisory)
        event = await usage_of(bus, job)
    assert (event.outcome, event.work.completion_tokens) == ("error", delivered)
    assert event.work.prompt_tokens == PROMPT_TOKENS
    assert bool(event.extensions) is not holds_lost
    assert await charged_tokens(bus, job) == PROMPT_TOKENS + delivered
    await no_leases(bus)
