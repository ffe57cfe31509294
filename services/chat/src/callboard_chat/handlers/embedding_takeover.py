"""What is already known of an embedding job when a worker takes it over."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from callboard_contracts import subjects
from callboard_contracts.embedding import (
    EmbeddingEnd,
    EmbeddingFrame,
    EmbeddingJob,
    EmbeddingResult,
    order_of_embedding_frames,
)
from callboard_contracts.ordering import newest
from callboard_contracts.quota import Hold
from callboard_contracts.streams import OUT
from callboard_kit.bus import Bus
from callboard_kit.stream_reads import read_subject
from callboard_worker.hold_extensions import open_extensions
from callboard_worker.running import RunningJob, is_wanted
from callboard_worker.takeover import ask_edge, kept_result

MAX_FRAMES = 8192


@dataclass(frozen=True, slots=True)
class PriorEmbedding:
    """What is known of a job that was handed out before: its frames from the first on, or a result that was kept.

    `wanted` is false when nobody waits for it any more; `extensions` are the holds beside the job's own.
    """

    source: str
    frames: Sequence[EmbeddingFrame] = ()
    result: EmbeddingResult | None = None
    wanted: bool = True
    extensions: tuple[Hold, ...] = ()

    @property
    def end(self) -> EmbeddingEnd | None:
        """How the job ended, where it has."""
        return self.frames[-1].end if self.frames else None


async def sent_frames(bus: Bus, request_id: str) -> list[EmbeddingFrame]:
    """The frames of a job that the bus has, up to the first that is missing; raises BusUnavailable."""
    stored = await read_subject(bus, OUT, subjects.out("*", request_id), limit=MAX_FRAMES)
    frames = [EmbeddingFrame.model_validate_json(message.data) for message in stored]
    return newest(order_of_embedding_frames(), frames)


async def find_prior_embedding(bus: Bus, running: RunningJob[EmbeddingJob]) -> PriorEmbedding:
    """Looks for the frames that were sent, then for a kept result, then asks the edge whether it waits.

    Raises:
        BusUnavailable: the bus does not answer at this moment.
        Superseded: another worker has the job.
    """
    prior = await _find(bus, running)
    return replace(prior, extensions=await open_extensions(bus, running.job))


async def _find(bus: Bus, running: RunningJob[EmbeddingJob]) -> PriorEmbedding:
    job = running.job
    frames = await sent_frames(bus, job.request_id)
    if frames:
        return PriorEmbedding("frames", frames, wanted=frames[-1].end is not None or await is_wanted(bus, running))
    kept = await kept_result(bus, job.request_id, EmbeddingResult)
    if kept is not None and (kept.vectors or kept.error):
        return PriorEmbedding("result", result=kept)
    reply = await ask_edge(bus, job, running.attempt)
    if reply is None:
        return PriorEmbedding("none", wanted=not running.watched)
    return PriorEmbedding("edge", wanted=reply.open or not running.watched)
