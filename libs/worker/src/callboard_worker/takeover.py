"""Asks an edge how far the reply of a job has come, for a worker that takes the job over."""

import asyncio

from pydantic import ValidationError

from callboard_contracts import subjects
from callboard_contracts.interest import ResumeReply, ResumeRequest
from callboard_contracts.jobs import Job
from callboard_kit.bus import Bus, BusUnavailable, NoResponders
from callboard_kit.pull import Superseded

ASK_TIMEOUT_S = 2.0
ASK_TRIES = 4
ASK_PAUSE_S = 0.75
"""Together some three seconds, in which an edge that lost the bus comes back."""


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
