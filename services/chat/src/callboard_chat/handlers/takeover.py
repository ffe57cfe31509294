"""Finds out how far another worker came with a chat job."""

from dataclasses import dataclass, field

from callboard_chat.domain.ports import Continuation
from callboard_chat.domain.prior_attempt import History, history
from callboard_contracts import subjects
from callboard_contracts.chat import ChatFrame, ChatJob, ChatResult
from callboard_contracts.interest import ResumeReply
from callboard_contracts.streams import OUT
from callboard_kit.bus import Bus
from callboard_kit.stream_reads import read_subject
from callboard_worker.running import RunningJob
from callboard_worker.takeover import ask_edge, kept_result

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


async def read_frames(bus: Bus, request_id: str) -> list[ChatFrame]:
    """The frames of a reply that the bus still has, in the order in which they were stored; raises BusUnavailable."""
    stored = await read_subject(bus, OUT, subjects.out("*", request_id), limit=MAX_FRAMES)
    return [ChatFrame.model_validate_json(message.data) for message in stored]


async def find_prior_attempt(bus: Bus, running: RunningJob[ChatJob]) -> PriorAttempt:
    """Looks for the frames that were sent, then for a kept result, then asks the edge what it received.

    Raises:
        BusUnavailable: the bus does not answer at this moment.
        Superseded: another worker has the job.
    """
    job = running.job
    frames = await read_frames(bus, job.request_id)
    known = history(frames)
    if frames and (known.whole or known.end):
        return PriorAttempt("frames", known)
    # The memory stream keeps frames for some minutes, and nothing over a restart of the bus.
    kept = await kept_result(bus, job, ChatResult)
    if kept is not None:
        reply = await ask_edge(bus, job, running.attempt, tries=1)
        return PriorAttempt("result", _received(reply), kept)
    reply = await ask_edge(bus, job, running.attempt)
    if reply is None:
        return PriorAttempt("none", wanted=not running.watched)
    return PriorAttempt("edge", _received(reply), wanted=reply.open or not running.watched)


def _received(reply: ResumeReply | None) -> History:
    if reply is None:
        return History()
    return History(reply.next_seq, Continuation(reply.text, reply.thinking, reply.tokens))
