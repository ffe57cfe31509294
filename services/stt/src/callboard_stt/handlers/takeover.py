"""What is already known of a transcription when a worker takes it over."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from callboard_contracts import subjects
from callboard_contracts.ordering import newest
from callboard_contracts.quota import Hold
from callboard_contracts.streams import OUT
from callboard_contracts.transcription import (
    TranscriptionEnd,
    TranscriptionFrame,
    TranscriptionJob,
    TranscriptionResult,
    order_of_transcription_frames,
)
from callboard_kit.bus import Bus
from callboard_kit.stream_reads import read_subject
from callboard_worker.hold_extensions import open_extensions
from callboard_worker.running import RunningJob, is_wanted
from callboard_worker.takeover import ask_edge, kept_result

MAX_FRAMES = 65_536


@dataclass(frozen=True, slots=True)
class PriorTranscription:
    """What is known of a job that was handed out before: its frames from the first on, or a result that was kept.

    `wanted` is false when nobody waits for it any more; `extensions` are the holds beside the job's own.
    """

    source: str
    frames: Sequence[TranscriptionFrame] = ()
    result: TranscriptionResult | None = None
    wanted: bool = True
    extensions: tuple[Hold, ...] = ()

    @property
    def end(self) -> TranscriptionEnd | None:
        """How the job ended, where it has."""
        return self.frames[-1].end if self.frames else None


async def sent_frames(bus: Bus, request_id: str) -> list[TranscriptionFrame]:
    """The frames of a job that the bus has, up to the first that is missing; raises BusUnavailable."""
    stored = await read_subject(bus, OUT, subjects.out("*", request_id), limit=MAX_FRAMES)
    frames = [TranscriptionFrame.model_validate_json(message.data) for message in stored]
    return newest(order_of_transcription_frames(), frames)


async def find_prior_transcription(bus: Bus, running: RunningJob[TranscriptionJob]) -> PriorTranscription:
    """Looks for the frames that were sent, then for a kept result, then asks the edge whether it waits.

    Raises:
        BusUnavailable: the bus does not answer at this moment.
        Superseded: another worker has the job.
    """
    prior = await _find(bus, running)
    return replace(prior, extensions=await open_extensions(bus, running.job))


async def _find(bus: Bus, running: RunningJob[TranscriptionJob]) -> PriorTranscription:
    job = running.job
    frames = await sent_frames(bus, job.request_id)
    if frames:
        return PriorTranscription("frames", frames, wanted=frames[-1].end is not None or await is_wanted(bus, running))
    kept = await kept_result(bus, job.request_id, TranscriptionResult)
    if kept is not None:
        return PriorTranscription("result", result=kept)
    reply = await ask_edge(bus, job, running.attempt)
    if reply is None:
        return PriorTranscription("none", wanted=not running.watched)
    return PriorTranscription("edge", wanted=reply.open or not running.watched)
