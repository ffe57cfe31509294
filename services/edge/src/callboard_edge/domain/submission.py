"""From a request to a job in a queue: the hold first, then the job, and no hold without a job."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from callboard_contracts.errors import CallboardError
from callboard_contracts.jobs import Job, Service
from callboard_contracts.quota import Hold, LimitState, ReserveReply, ReserveRequest
from callboard_contracts.subjects import JobClass
from callboard_edge.domain.ports import (
    Background,
    JobQueue,
    JobRef,
    ModelInquiry,
    QuotaClient,
    ReplyRouter,
    RoomReader,
    RoomsClient,
)
from callboard_edge.domain.waiting_jobs import WaitingJobs


class QuotaRefused(CallboardError):  # noqa: N818 - quota's decision, as the caller is told it
    """Quota refused a request; `states` says where the limit stands."""

    states: tuple[LimitState, ...] = ()


@dataclass(frozen=True, slots=True)
class Dependencies:
    """What every request works with."""

    quota: QuotaClient
    jobs: JobQueue
    replies: ReplyRouter
    background: Background
    rooms: RoomsClient
    room_reader: RoomReader
    inquiry: ModelInquiry
    now: Callable[[], float] = time.time
    """The Unix time that jobs are stamped with: the bus's, since others compare it with theirs."""
    waiting: WaitingJobs = field(default_factory=WaitingJobs)


@dataclass(frozen=True, slots=True)
class Route:
    """The queue that a job goes to."""

    service: Service
    pool: str
    job_class: JobClass = "live"


@dataclass(frozen=True, slots=True)
class Submission:
    """A job that lies in its queue, and what is held for it; `job_ref` is None for one that a room queues."""

    job_ref: JobRef | None
    tenant: str
    hold: Hold | None
    states: tuple[LimitState, ...]


MakeJob = Callable[[ReserveReply], Job]


def submit(
    deps: Dependencies,
    reserve: ReserveRequest,
    make_job: MakeJob,
    route: Route,
    store: Callable[[], Awaitable[None]] | None = None,
) -> asyncio.Task[Submission]:
    """Takes a hold and enqueues the job, after `store`; the hold is released when either fails.

    The task outlives a caller that is cancelled, so that nobody loses track of a hold. It fails with QuotaRefused, or
    with the CallboardError of the queue.
    """
    return deps.background.start(_submit(deps, reserve, make_job, route, store), "submit")


async def _submit(
    deps: Dependencies,
    reserve: ReserveRequest,
    make_job: MakeJob,
    route: Route,
    store: Callable[[], Awaitable[None]] | None,
) -> Submission:
    reply = await deps.quota.reserve(reserve)
    if reply.error is not None:
        refused = QuotaRefused.of(reply.error)
        refused.states = reply.states
        raise refused
    try:
        if store is not None:
            await store()
        job_ref = await deps.jobs.enqueue(make_job(reply), route.service, route.pool, route.job_class)
    except BaseException:
        if reply.hold is not None:
            await deps.quota.release(reply.hold)
        raise
    return Submission(job_ref, reply.tenant, reply.hold, reply.states)
