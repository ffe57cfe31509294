"""Answers edges for volunteers: pops, submits, pieces of text, and volunteers that left."""

import logging
import math
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Protocol, TypeVar, runtime_checkable

from nats.aio.msg import Msg
from pydantic import ValidationError

from callboard_chat import metrics
from callboard_chat.domain.pending_jobs import PendingJobs
from callboard_chat.domain.ports import Chunk, Continuation
from callboard_chat.domain.volunteer_models import VolunteerModels
from callboard_contracts import subjects
from callboard_contracts.chat import ChatJob, ChatRequest
from callboard_contracts.model import Message
from callboard_contracts.volunteers import (
    PopReply,
    PopRequest,
    ProgressRequest,
    ServedBy,
    SubmitReply,
    SubmitRequest,
    WithdrawPop,
)
from callboard_kit.background_tasks import BackgroundTasks
from callboard_kit.bus import Bus, BusError, NoResponders

log = logging.getLogger(__name__)

CLOSE_TIMEOUT_S = 1.0
HAND_OVER_S = 0.5
"""So long the server has to say that the edge of a pop is gone, whose job another volunteer then gets at once."""

M = TypeVar("M", bound=Message)


@runtime_checkable
class TakesVolunteers(Protocol):
    """An engine whose replies volunteers write."""

    @property
    def pending(self) -> PendingJobs:
        """The jobs that volunteers may pop."""
        ...

    @property
    def models(self) -> VolunteerModels:
        """What volunteers offer."""
        ...

    def stream_job(
        self,
        job: ChatJob,
        request: ChatRequest,
        continuation: Continuation | None,
        *,
        batch: bool = False,
        left_s: float = math.inf,
    ) -> AsyncGenerator[Chunk, None]:
        """Writes the reply of a job, which has so long until its deadline."""
        ...


class VolunteerCalls:
    """What one worker answers; `announce` is called when a model is offered that was not before."""

    def __init__(self, engine: TakesVolunteers, max_reply_bytes: int, announce: Callable[[], None]) -> None:
        self._pending = engine.pending
        self._models = engine.models
        self._max_reply_bytes = max_reply_bytes
        self._announce = announce

    async def pop(self, request: PopRequest) -> PopReply:
        """Jobs for a volunteer, for which it may wait."""
        if self._models.see(request.offer):
            self._announce()
        reply = await self._pending.pop_within(request)
        if reply.jobs and len(reply.compact()) > self._max_reply_bytes:
            # What no message can carry no volunteer can write; several jobs go out one by one.
            for job in reply.jobs[0 if len(reply.jobs) == 1 else 1 :]:
                self._pending.submit(job.id, request.offer.account, None)
            kept = reply.jobs[:1] if len(reply.jobs) > 1 else ()
            reply = reply.model_copy(update={"jobs": kept})
        return reply

    async def submit(self, request: SubmitRequest) -> SubmitReply:
        """What became of a text."""
        adopter = None
        if request.worker_id:
            adopter = ServedBy(
                worker_id=request.worker_id, worker_name=request.worker_name, model="", account=request.account
            )
        reply = self._pending.submit(
            request.id,
            request.account,
            request.text,
            adopter,
            adopter_validated=request.validated,
            notes=request.notes,
        )
        withheld = reply.outcome == "accepted" and request.notes.state != "ok"
        metrics.VOLUNTEER_SUBMITS.labels(request.notes.state if withheld else reply.outcome).inc()
        return reply

    async def progress(self, request: ProgressRequest) -> SubmitReply:
        """What became of a piece of a text."""
        return self._pending.progress(request.id, request.account, request.text, request.delta)

    def withdraw(self, request: WithdrawPop) -> None:
        """Takes back what went to a volunteer that has left."""
        self._pending.withdraw_pop(request.ticket)


@asynccontextmanager
async def serving_volunteers(
    bus: Bus, worker_id: str, engine: TakesVolunteers, announce: Callable[[], None]
) -> AsyncGenerator[None]:
    """Answers what edges ask this worker until the block is left.

    Raises:
        BusUnavailable: the connection has ended.
    """
    calls = VolunteerCalls(engine, bus.connection.max_payload, announce)
    metrics.watch_volunteers(engine.pending)
    # There are no more of them than volunteers that are let wait, each with a time limit.
    parked = BackgroundTasks()

    async def answered(message: Msg, kind: type[M], answer: Callable[[M], Awaitable[Message]]) -> None:
        try:
            request = kind.model_validate_json(message.data)
        except ValidationError:
            log.warning("volunteer_call_malformed", extra={"kind": kind.__name__})
            return
        await bus.publish(message.reply, (await answer(request)).encoded(), flush=True)

    async def popped(message: Msg) -> None:
        parked.start(_hand_over(bus, calls, message), "pop")

    async def submitted(message: Msg) -> None:
        await answered(message, SubmitRequest, calls.submit)

    async def progressed(message: Msg) -> None:
        await answered(message, ProgressRequest, calls.progress)

    async def withdrawn(message: Msg) -> None:
        try:
            calls.withdraw(WithdrawPop.model_validate_json(message.data))
        except ValidationError:
            log.warning("volunteer_call_malformed", extra={"kind": "WithdrawPop"})

    subscriptions = [
        await bus.subscribe(subjects.volunteer_pop(worker_id), popped),
        await bus.subscribe(subjects.volunteer_submit(worker_id), submitted),
        await bus.subscribe(subjects.volunteer_progress(worker_id), progressed),
        await bus.subscribe(subjects.volunteer_withdraw(worker_id), withdrawn),
    ]
    try:
        yield
    finally:
        await bus.unsubscribe(subscriptions[0])
        # Volunteers may submit what they have in work as long as its jobs run.
        await parked.close(CLOSE_TIMEOUT_S)


async def _hand_over(bus: Bus, calls: VolunteerCalls, message: Msg) -> None:
    """Answers a pop, and takes the jobs back where its edge is gone."""
    try:
        request = PopRequest.model_validate_json(message.data)
    except ValidationError:
        log.warning("volunteer_call_malformed", extra={"kind": "PopRequest"})
        return
    reply = await calls.pop(request)
    if not reply.jobs:
        metrics.VOLUNTEER_POPS.labels("none").inc()
        await bus.publish(message.reply, reply.encoded(), flush=True)
        return
    result = "job"
    try:
        # Edges do not answer to it, but the server says when nobody is there to get it.
        await bus.request(message.reply, reply.encoded(), HAND_OVER_S)
    except NoResponders:
        log.info("volunteer_pop_undelivered", extra={"worker": request.offer.worker_id, "jobs": len(reply.jobs)})
        calls.withdraw(WithdrawPop(ticket=request.ticket))
        result = "undelivered"
    except BusError:
        pass
    metrics.VOLUNTEER_POPS.labels(result).inc()
