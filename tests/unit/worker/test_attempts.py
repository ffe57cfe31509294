"""Attempts are recorded once they last, and jobs that cannot end their worker begin at once."""

import asyncio
from typing import cast

import pytest

from callboard_chat.metrics import WORKER
from callboard_contracts.chat import ChatJob, ChatRequest
from callboard_contracts.jobs import AttemptRecord
from callboard_kit.bus import Bus
from callboard_worker import attempts as attempts_module
from callboard_worker.attempts import RECORD_DELAY_S, Attempts
from callboard_worker.running import RunningJob

pytestmark = pytest.mark.unit


async def test_jobs_that_only_wait_are_neither_counted_nor_on_probation() -> None:
    # A bus that is asked anything fails the test.
    attempts = Attempts(cast("Bus", None), "worker", WORKER, engine_in_process=False, counted=False)
    request = ChatRequest(mode="completion", model="owl", prompt="An owl", max_output_tokens=16)
    job = ChatJob(request_id="r", edge="e", tenant="anonymous", created_at=0, deadline_at=9e9, request=request)
    running = [RunningJob(job, 3, is_batch=True, entered_at=0.0) for _ in range(512)]
    async with asyncio.timeout(5):
        assert [await attempts.begin(one) for one in running] == [0] * 512
        for one in running:
            await attempts.end(one, returned=True)


class RecordingBus:
    """Keeps the records of attempts in the order in which they are published."""

    def __init__(self) -> None:
        self.states: list[tuple[str, str]] = []

    async def publish(self, subject: str, payload: bytes) -> None:
        self.states.append((subject.rpartition(".")[2], AttemptRecord.model_validate_json(payload).state))


def running(request_id: str) -> RunningJob[ChatJob]:
    request = ChatRequest(mode="completion", model="owl", prompt="An owl", max_output_tokens=16)
    job = ChatJob(request_id=request_id, edge="e", tenant="anonymous", created_at=0, deadline_at=9e9, request=request)
    return RunningJob(job, 1, is_batch=False, entered_at=0.0)


async def test_attempt_is_recorded_once_it_has_run_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attempts_module, "PROBATION_CHECK_S", 60.0)
    bus = RecordingBus()
    attempts = Attempts(cast("Bus", bus), "worker", WORKER, engine_in_process=False)
    watching = asyncio.ensure_future(attempts.watch())
    short, long, returned = running("short"), running("long"), running("returned")
    for one in (short, long, returned):
        await attempts.begin(one)
    await attempts.end(short, returned=False)
    await attempts.end(returned, returned=True)
    assert bus.states == [("returned", "returned")]
    async with asyncio.timeout(20 * RECORD_DELAY_S):
        while len(bus.states) < 2:
            await asyncio.sleep(0.005)
    assert bus.states[1] == ("long", "running")
    await attempts.end(long, returned=False)
    await asyncio.sleep(2 * RECORD_DELAY_S)
    assert len(bus.states) == 2
    watching.cancel()


async def test_attempt_on_an_engine_in_the_process_is_recorded_before_it_begins() -> None:
    bus = RecordingBus()
    attempts = Attempts(cast("Bus", bus), "worker", WORKER, engine_in_process=True)
    await attempts.begin(running("r1"))
    assert bus.states == [("r1", "running")]
