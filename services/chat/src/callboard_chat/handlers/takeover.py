"""Finds out how far another worker came with a job."""

import logging
from dataclasses import dataclass, field

from callboard_chat.domain.ports import Continuation
from callboard_chat.domain.prior_attempt import History, history
from callboard_contracts import subjects
from callboard_contracts.chat import ChatFrame, ChatJob, ChatResult
from callboard_contracts.interest import ResumeReply
from callboard_contracts.jobs import JOB_VERSION
from callboard_contracts.streams import OUT, RESULT
from callboard_kit.bus import Bus, BusUnavailable
from callboard_kit.pull import Nak
from callboard_kit.stream_reads import read_last, read_subject
from callboard_worker.takeover import ask_edge

log = logging.getLogger(__name__)

TRY_AGAIN_S = 1.0
MAX_FRAMES = 200_000


@dataclass(frozen=True, slots=True)
class PriorAttempt:
    """What is known of a job that was handed out before.

    `result` is set when the reply was finished and kept; `wanted` is false when nobody waits for it any more.
    """

    source: str
    history: History = field(default_factory=History)
    result: ChatResult | None = None
    wanted: bool = True


async def find_prior_attempt(bus: Bus, job: ChatJob, attempt: int, *, is_batch: bool) -> PriorAttempt:
    """Looks for the frames that were sent, then for a kept result, then asks the edge what it received.

    Raises:
        Nak: the bus does not answer at this moment.
    """
    try:
        stored = await read_subject(bus, OUT, subjects.out("*", job.request_id), limit=MAX_FRAMES)
        frames = history(ChatFrame.model_validate_json(message.data) for message in stored)
        if stored and (frames.whole or frames.end):
            return PriorAttempt("frames", frames)
        # The memory stream keeps two minutes, and nothing over a restart of the bus.
        kept = await read_last(bus, RESULT, subjects.result(job.request_id))
        if kept is not None:
            return PriorAttempt("result", await _received(bus, job, attempt), ChatResult.model_validate_json(kept.data))
        return await _ask_edge(bus, job, attempt, is_batch=is_batch)
    except BusUnavailable:
        log.warning("prior_attempt_unknown", extra={"request_id": job.request_id, "attempt": attempt})
        raise Nak(TRY_AGAIN_S) from None


async def _received(bus: Bus, job: ChatJob, attempt: int) -> History:
    reply = await ask_edge(bus, job, attempt, tries=1)
    return History() if reply is None else _history(reply)


async def _ask_edge(bus: Bus, job: ChatJob, attempt: int, *, is_batch: bool) -> PriorAttempt:
    reply = await ask_edge(bus, job, attempt)
    if reply is None:
        return PriorAttempt("none", wanted=is_batch or job.version != JOB_VERSION)
    return PriorAttempt("edge", _history(reply), wanted=is_batch or reply.open)


def _history(reply: ResumeReply) -> History:
    return History(reply.next_seq, Continuation(reply.text, reply.thinking, reply.tokens))
