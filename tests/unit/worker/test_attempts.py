"""Jobs that cannot end their worker begin at once, however their last worker ended."""

import asyncio
from typing import cast

import pytest

from callboard_chat.metrics import WORKER
from callboard_contracts.chat import ChatJob, ChatRequest
from callboard_kit.bus import Bus
from callboard_worker.attempts import Attempts
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
