"""How the work on a job ends, and how that is kept: the usage event and the result, before the job is done."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Generic, Literal, TypeVar

from callboard_contracts import subjects
from callboard_contracts.errors import CallboardError, ErrorCode, ErrorInfo
from callboard_contracts.jobs import Job
from callboard_contracts.model import Message
from callboard_contracts.quota import Hold, UsageEvent, VolunteerWork, Work, WorkKind, WorkOutcome
from callboard_kit.bus import Bus, BusError, PublishRefused
from callboard_kit.kept import keep
from callboard_worker.engine import EngineError
from callboard_worker.metrics import WorkerMetrics
from callboard_worker.pull import Superseded
from callboard_worker.running import RunningJob

log = logging.getLogger(__name__)

DEAD = ErrorInfo(code=ErrorCode.INTERRUPTED, message="The work was started several times and never finished.")
WORKER_DIED = ErrorInfo(
    code=ErrorCode.WORKER_DIED, message="Two workers died while they worked on the request; it is not tried again."
)
STUCK = ErrorInfo(
    code=ErrorCode.WORKER_DIED, message="The engine stopped working on the request and could not be stopped."
)
INTERNAL = ErrorInfo(code=ErrorCode.INTERNAL, message="The worker failed; its log has the request id.")

SYNC_WITHIN_S = 0.002
"""The client has its reply by then, so outcomes may wait to be brought to the disk together."""

R = TypeVar("R", covariant=True)
Cut = Literal["cancelled", "error"]


@dataclass(frozen=True, slots=True)
class Outcome(Generic[R]):
    """How the work on a job ended; `error` is set exactly when the reason is `error`, or says what cut it short."""

    reason: R
    error: ErrorInfo | None = None


async def outcome_of(
    running: RunningJob[Any],
    work: Callable[[], Awaitable[Outcome[R]]],
    explain: Callable[[Literal["deadline", "stalled"]], ErrorInfo],
    metrics: WorkerMetrics,
) -> Outcome[R | Cut]:
    """Does the work on a job, as long as the job is wanted and in time; every other end becomes an outcome too.

    `explain` words what the client is told of work that was late, or whose engine fell silent.

    Raises:
        Superseded: another worker has the job.
        BusError: the bus cannot be reached; the job is to be handed out again.
    """
    scope = running.cancel_scope
    if running.left_s <= 0:
        return Outcome("error", explain("deadline"))
    if scope.reason is None:
        try:
            with scope:
                return await work()
        except BusError:
            raise
        except (CallboardError, EngineError) as error:
            return Outcome("error", error.info)
        except Exception:
            # A fault in this program is answered, not repeated: it would most likely only happen again.
            log.exception("work_failed", extra={"request_id": running.job.request_id})
            return Outcome("error", INTERNAL)
        if scope.at_s is not None:
            metrics.cancel_latency.observe(time.monotonic() - scope.at_s)
    match scope.reason:
        case "superseded":
            raise Superseded
        case "deadline" | "stalled" as reason:
            return Outcome("error", explain(reason))
        case _:
            return Outcome("cancelled")


async def keep_outcome(
    bus: Bus,
    job: Job,
    *,
    kind: WorkKind,
    model: str,
    pool: str,
    work: Work,
    outcome: WorkOutcome,
    extensions: tuple[Hold, ...] = (),
    result: Message | None = None,
    kudos: int = 0,
    volunteer: VolunteerWork | None = None,
    send_end: Callable[[], Awaitable[None]] | None = None,
) -> None:
    """Stores what a job used and, where there is one, its result; a repeat goes under the same ids and counts once.

    `kudos` are what the work cost in thousandths, and `volunteer` is who did it and is paid. `send_end` tells the
    client that the work has ended; what it sends goes out first, and in one write with the rest.

    Raises:
        ExceptionGroup: the bus did not keep it in time; the job is to be handed out again.
    """
    event = UsageEvent(
        request_id=job.request_id,
        tenant=job.tenant,
        kind=kind,
        model=model,
        pool=pool,
        work=work,
        outcome=outcome,
        hold=job.hold,
        extensions=extensions,
        kudos=kudos,
        volunteer=volunteer,
        at=bus.clock.now(),
    )
    async with asyncio.TaskGroup() as group:
        if result is not None:
            # Begun before anything is published, it adds to the write that the first message has made.
            group.create_task(_keep_result(bus, job, result))
        if send_end is not None:
            await send_end()
        subject, msg_id = subjects.usage(job.tenant), f"{job.request_id}.{kind}"
        await bus.publish_stored(subject, event.encoded(), msg_id, sync_within_s=SYNC_WITHIN_S)


async def _keep_result(bus: Bus, job: Job, result: Message) -> None:
    try:
        await keep(bus, subjects.result(job.request_id), result, f"{job.request_id}.result", SYNC_WITHIN_S)
    except PublishRefused:
        # The client has its frames; only polling for this one reply is lost, and the usage must still count.
        log.exception("result_refused", extra={"request_id": job.request_id})
