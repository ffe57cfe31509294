"""Finds out how far another worker came with a speech job."""

from dataclasses import dataclass

from callboard_contracts import subjects
from callboard_contracts.headers import SEGMENT
from callboard_contracts.speech import AudioSegment, SegmentInfo, SpeechJob
from callboard_contracts.streams import AUDIO
from callboard_kit.bus import Bus
from callboard_kit.stream_reads import read_subject
from callboard_tts.domain.segments import Progress, progress_of
from callboard_worker.running import RunningJob
from callboard_worker.takeover import ask_edge


@dataclass(frozen=True, slots=True)
class PriorAttempt:
    """What is known of a job that was handed out before; `wanted` is false when nobody waits for it any more."""

    source: str
    progress: Progress
    wanted: bool = True


async def read_segments(bus: Bus, job: SpeechJob) -> list[AudioSegment]:
    """The segments of an utterance that the bus still has, in the order in which they were stored.

    Raises:
        BusUnavailable: the bus does not answer at this moment.
    """
    stored = await read_subject(bus, AUDIO, subjects.audio(job.room, job.utterance, "*"))
    return [
        AudioSegment(
            int(message.subject.rsplit(".", 1)[-1]),
            SegmentInfo.model_validate_json(message.headers[SEGMENT]),
            message.data,
        )
        for message in stored
    ]


async def find_prior_attempt(bus: Bus, running: RunningJob[SpeechJob]) -> PriorAttempt:
    """Looks for the segments that were sent; without any, asks the edge what it received.

    Raises:
        BusUnavailable: the bus does not answer at this moment.
        Superseded: another worker has the job.
    """
    progress = progress_of(await read_segments(bus, running.job))
    if progress.next_n:
        return PriorAttempt("stream", progress)
    # Nothing was sent, or the stream lost it with the server's memory.
    reply = await ask_edge(bus, running.job, running.attempt)
    if reply is None:
        return PriorAttempt("nowhere", progress, wanted=not running.watched)
    # Where in the text that was is not known. All is sent again; the edge cuts away what it has.
    progress = Progress(next_n=reply.next_seq, extensions=progress.extensions)
    return PriorAttempt("edge", progress, wanted=reply.open or not running.watched)
