"""What is already known of a job whose answer is a list in numbered frames, when a worker takes it over."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

from callboard_contracts import subjects
from callboard_contracts.jobs import Job
from callboard_contracts.model import Message
from callboard_contracts.ordering import AttemptOrder, newest
from callboard_contracts.quota import Hold
from callboard_contracts.streams import OUT
from callboard_kit.bus import Bus
from callboard_kit.stream_reads import read_subject
from callboard_worker.hold_extensions import open_extensions
from callboard_worker.running import RunningJob, is_wanted
from callboard_worker.takeover import ask_edge, kept_result

F = TypeVar("F", bound=Message)
E = TypeVar("E", bound=Message)
R = TypeVar("R", bound=Message)


@dataclass(frozen=True, slots=True)
class FrameKind(Generic[F, E, R]):
    """How the frames of one kind of job are read.

    `end` is how a frame says that the job ended; `is_whole` says whether a kept result can stand for all frames.
    """

    frame: type[F]
    result: type[R]
    order: Callable[[], AttemptOrder[F]]
    end: Callable[[F], E | None]
    max_frames: int
    is_whole: Callable[[R], bool] = lambda _result: True


@dataclass(frozen=True, slots=True)
class PriorFrames(Generic[F, E, R]):
    """What is known of a job that was handed out before: its frames from the first on, or a result that was kept.

    `end` is how it ended, where it has. `wanted` is false when nobody waits for it any more; `extensions` are the
    holds beside the job's own.
    """

    source: str
    frames: Sequence[F] = ()
    end: E | None = None
    result: R | None = None
    wanted: bool = True
    extensions: tuple[Hold, ...] = ()


async def sent_frames(bus: Bus, kind: FrameKind[F, E, R], job: Job) -> PriorFrames[F, E, R]:
    """The frames of a job that the bus has, up to the first that is missing; raises BusUnavailable."""
    prior = await _sent(bus, kind, job)
    return replace(prior, extensions=await open_extensions(bus, job))


async def find_prior_frames(bus: Bus, kind: FrameKind[F, E, R], running: RunningJob[Any]) -> PriorFrames[F, E, R]:
    """Looks for the frames that were sent, then for a kept result, then asks the edge whether it waits.

    Raises:
        BusUnavailable: the bus does not answer at this moment.
        Superseded: another worker has the job.
    """
    prior = await _find(bus, kind, running)
    return replace(prior, extensions=await open_extensions(bus, running.job))


async def _sent(bus: Bus, kind: FrameKind[F, E, R], job: Job) -> PriorFrames[F, E, R]:
    stored = await read_subject(bus, OUT, subjects.out("*", job.request_id), limit=kind.max_frames)
    frames = newest(kind.order(), [kind.frame.model_validate_json(message.data) for message in stored])
    return PriorFrames("frames", frames, kind.end(frames[-1]) if frames else None)


async def _find(bus: Bus, kind: FrameKind[F, E, R], running: RunningJob[Any]) -> PriorFrames[F, E, R]:
    job: Job = running.job
    sent = await _sent(bus, kind, job)
    if sent.frames:
        return replace(sent, wanted=sent.end is not None or await is_wanted(bus, running))
    kept = await kept_result(bus, job.request_id, kind.result)
    if kept is not None and kind.is_whole(kept):
        return PriorFrames("result", result=kept)
    reply = await ask_edge(bus, job, running.attempt)
    if reply is None:
        return PriorFrames("none", wanted=not running.watched)
    return PriorFrames("edge", wanted=reply.open or not running.watched)
