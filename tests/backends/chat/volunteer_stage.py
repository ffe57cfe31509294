"""The engine whose replies volunteers write, its clock, and volunteers by hand."""

import asyncio
import math
from contextlib import aclosing
from typing import Any

from callboard_chat.backends.volunteers import VolunteerEngine
from callboard_chat.domain.pending_jobs import PendingJobs
from callboard_chat.domain.ports import Chunk, Continuation
from callboard_chat.domain.volunteer_models import VolunteerModels
from callboard_contracts.chat import ChatJob, ChatRequest
from callboard_contracts.volunteers import HandedJob, PopRequest, SubmitReply, TextNotes, VolunteerOffer
from tests.backends.chat.suite import request

MARK = "0123abcd"
ANN = "k_00000000000000aa"
BEN = "k_00000000000000bb"
NOW = 1_000_000.0


class Clock:
    """Time that a test moves on."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


class Stage:
    """An engine, its clock, and volunteers by hand."""

    def __init__(self, mark: str = MARK, most_jobs: int = 8) -> None:
        self.clock = Clock()
        self.pending = PendingJobs(mark, most_jobs, self.clock)
        self.models = VolunteerModels({}, "alpaca", self.clock)
        self.engine = VolunteerEngine(self.pending, self.models, 30.0, keep_alive_s=0.01, now=lambda: NOW)
        self._tickets = 0

    def ask(
        self,
        wanted: ChatRequest | None = None,
        said: Continuation | None = None,
        request_id: str = "r1",
        age_s: float = 0.0,
        left_s: float = math.inf,
    ) -> "asyncio.Task[list[Chunk]]":
        job = ChatJob(
            request_id=request_id,
            edge="e",
            tenant="k_asker",
            created_at=NOW - age_s,
            deadline_at=9e9,
            request=wanted or request(mode="completion"),
        )

        async def whole() -> list[Chunk]:
            async with aclosing(self.engine.stream_job(job, job.request, said, left_s=left_s)) as chunks:
                return [chunk async for chunk in chunks]

        return asyncio.ensure_future(whole())

    async def pop(self, worker: str = "w", account: str = ANN, wait_s: float = 0.0, **fields: Any) -> HandedJob | None:
        await asyncio.sleep(0)
        self._tickets += 1
        offer = VolunteerOffer.model_validate(
            {
                "worker_id": worker,
                "worker_name": worker,
                "account": account,
                "models": ("stub",),
                "max_length": 4096,
                "max_context_length": 8192,
                **fields,
            }
        )
        self.models.see(offer)
        reply = await self.pending.pop_within(PopRequest(ticket=f"t{self._tickets}", offer=offer, wait_s=wait_s))
        return reply.jobs[0] if reply.jobs else None

    async def got(self, worker: str = "w", account: str = ANN) -> HandedJob:
        job = await self.pop(worker, account)
        assert job is not None
        return job

    def submit(self, job: HandedJob, text: str | None, account: str = ANN, **notes: Any) -> SubmitReply:
        return self.pending.submit(job.id, account, text, notes=TextNotes.model_validate(notes))
