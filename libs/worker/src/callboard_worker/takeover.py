"""Finds out how far an earlier attempt came with a job that was handed out again."""

import asyncio
import logging
from collections.abc import Awaitable
from typing import Protocol, TypeVar

from pydantic import ValidationError

from callboard_contracts import subjects
from callboard_contracts.interest import ResumeReply, ResumeRequest
from callboard_contracts.jobs import Job
from callboard_contracts.model import Message
from callboard_kit.bus import Bus, BusUnavailable, NoResponders
from callboard_kit.kept import kept
from callboard_worker.metrics import WorkerMetrics
from callboard_worker.pull import Nak, Superseded

log = logging.getLogger(__name__)

ASK_TIMEOUT_S = 2.0
ASK_TRIES = 4
ASK_PAUSE_S = 0.75
"""Together some three seconds, in which an edge that lost the bus comes back."""
NAK_DELAY_S = 1.0


class PriorAttempt(Protocol):
    """What is known of earlier attempts."""

    @property
    def source(self) -> str:
        """Where it was found, a word of a fixed set."""
        ...


P = TypeVar("P", bound=PriorAttempt)
M = TypeVar("M", bound=Message)


async def take_over(job: Job, attempt: int, search: Awaitable[P], metrics: WorkerMetrics) -> P:
    """Returns what a search for earlier attempts found, and notes it.

    Raises:
        Nak: the bus does not answer at this moment.
    """
    ids = {"request_id": job.request_id, "attempt": attempt}
    try:
        prior = await search
    except BusUnavailable:
        log.warning("prior_attempt_unknown", extra=ids)
        raise Nak(NAK_DELAY_S) from None
    metrics.resumed.labels(prior.source).inc()
    log.info("job_taken_over", extra={**ids, "source": prior.source})
    return prior


async def kept_result(bus: Bus, request_id: str, model: type[M]) -> M | None:
    """The result of a job that came to its end, where it is kept; raises BusUnavailable."""
    return await kept(bus, subjects.result(request_id), model)


async def ask_edge(bus: Bus, job: Job, attempt: int, tries: int = ASK_TRIES) -> ResumeReply | None:
    """Returns what the job's edge says, or None where no such edge listens.

    Raises:
        Superseded: the edge has heard of a newer attempt.
        BusUnavailable: no answer in time, or none that can be read.
    """
    question = ResumeRequest(attempt=attempt).encoded()
    subject = subjects.resume(job.edge, job.request_id)
    for tries_left in reversed(range(tries)):
        try:
            reply = ResumeReply.model_validate_json(await bus.request(subject, question, ASK_TIMEOUT_S))
        except NoResponders:
            if tries_left:
                await asyncio.sleep(ASK_PAUSE_S)
            continue
        except ValidationError:
            raise BusUnavailable("the answer cannot be read") from None
        if reply.attempt > attempt:
            raise Superseded
        return reply
    return None
