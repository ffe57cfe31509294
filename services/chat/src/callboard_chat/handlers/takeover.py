"""Finds out how far another worker came with a chat job."""

from dataclasses import dataclass, field, replace

from callboard_chat.domain.ports import Continuation
from callboard_chat.domain.prior_attempt import History, history
from callboard_contracts import subjects
from callboard_contracts.chat import ChatFrame, ChatJob, ChatResult
from callboard_contracts.interest import ResumeReply
from callboard_contracts.quota import Hold
from callboard_contracts.streams import OUT
from callboard_kit.bus import Bus
from callboard_kit.stream_reads import read_subject
from callboard_worker.hold_extensions import open_extensions
from callboard_worker.progress import recorded_progress
from callboard_worker.running import RunningJob, is_wanted
from callboard_worker.takeover import ask_edge, kept_result

MAX_FRAMES = 200_000


@dataclass(frozen=True, slots=True)
class PriorAttempt:
    """What is known of a job that was handed out before.

    `result` is set when the reply was finished and kept; `wanted` is false when nobody waits for it any more;
    `extensions` are the holds that were taken on top of the job's own.
    """

    source: str
    history: History = field(default_factory=History)
    result: ChatResult | None = None
    wanted: bool = True
    extensions: tuple[Hold, ...] = ()


async def read_frames(bus: Bus, request_id: str) -> list[ChatFrame]:
    """The frames of a reply that the bus still has, in the order in which they were stored; raises BusUnavailable."""
    stored = await read_subject(bus, OUT, subjects.out("*", request_id), limit=MAX_FRAMES)
    return [ChatFrame.model_validate_json(message.data) for message in stored]


async def find_prior_attempt(bus: Bus, running: RunningJob[ChatJob]) -> PriorAttempt:
    """Looks for the frames that were sent, then for a kept result, then asks the edge what it received.

    A reply that nobody waits for any more, and of which nothing else is left, has used what its worker recorded.

    Raises:
        BusUnavailable: the bus does not answer at this moment.
        Superseded: another worker has the job.
    """
    return await _completed(bus, running.job, await _find(bus, running))


async def find_what_was_sent(bus: Bus, job: ChatJob) -> tuple[PriorAttempt, int]:
    """What is left of a reply that no worker goes on with, and its newest attempt; raises BusUnavailable."""
    frames = await read_frames(bus, job.request_id)
    attempt = max((frame.attempt for frame in frames), default=1)
    return await _completed(bus, job, PriorAttempt("frames", history(frames), wanted=False)), attempt


async def _find(bus: Bus, running: RunningJob[ChatJob]) -> PriorAttempt:
    job = running.job
    frames = await read_frames(bus, job.request_id)
    known = history(frames)
    if frames and known.end:
        return PriorAttempt("frames", known)
    if frames and known.whole:
        return PriorAttempt("frames", known, wanted=await is_wanted(bus, running))
    # The memory stream keeps frames for some minutes, and nothing over a restart of the bus.
    kept = await kept_result(bus, job.request_id, ChatResult)
    if kept is not None:
        reply = await ask_edge(bus, job, running.attempt, tries=1)
        return PriorAttempt("result", _received(reply), kept)
    reply = await ask_edge(bus, job, running.attempt)
    if reply is None:
        return PriorAttempt("none", wanted=not running.watched)
    return PriorAttempt("edge", _received(reply), wanted=reply.open or not running.watched)


async def _completed(bus: Bus, job: ChatJob, prior: PriorAttempt) -> PriorAttempt:
    """Adds what is kept on disk of the attempts before: their holds, and what they had used."""
    prior = replace(prior, extensions=await open_extensions(bus, job))
    used = await recorded_progress(bus, job.request_id)
    if used is None:
        return prior
    said, known = prior.history.said, prior.history
    if not prior.wanted and not known.started and said.tokens < used.completion_tokens:
        said = replace(said, tokens=used.completion_tokens)
    return replace(prior, history=replace(known, said=said, prompt_tokens=used.prompt_tokens or None))


def _received(reply: ResumeReply | None) -> History:
    if reply is None:
        return History()
    return History(reply.next_seq, Continuation(reply.text, reply.thinking, reply.tokens, reply.thinking_tokens))
