"""Finds out how far another worker came with a speech job."""

from dataclasses import dataclass

from callboard_contracts.headers import SEGMENT
from callboard_contracts.speech import BYTES_PER_MS, AudioSegment, SegmentInfo, SpeechJob
from callboard_kit.bus import Bus
from callboard_kit.stream_reads import read_subject
from callboard_tts.domain.segments import Progress, progress_of
from callboard_worker.hold_extensions import open_extensions
from callboard_worker.progress import recorded_progress
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

    Where it is spoken in a room, its announcement lies beside them.

    Raises:
        BusUnavailable: the bus does not answer at this moment.
    """
    stored = await read_subject(bus, job.audio_stream, job.segment_subject("*"))
    return [
        AudioSegment(
            int(message.subject.rsplit(".", 1)[-1]),
            SegmentInfo.model_validate_json(message.headers[SEGMENT]),
            message.data,
        )
        for message in stored
        if SEGMENT in message.headers
    ]


async def find_what_was_sent(bus: Bus, job: SpeechJob) -> tuple[Progress, int]:
    """How far an utterance came that no worker goes on with, and its newest attempt; raises BusUnavailable."""
    segments = await read_segments(bus, job)
    attempt = max((segment.info.attempt for segment in segments), default=1)
    return (progress_of(segments) if segments else await _recorded(bus, job)), attempt


async def find_prior_attempt(bus: Bus, running: RunningJob[SpeechJob]) -> PriorAttempt:
    """Looks for the segments that were sent; without any, asks the edge that listens what it received.

    Of an utterance that nobody waits for any more, and of which nothing else is left, its worker's record counts.

    Raises:
        BusUnavailable: the bus does not answer at this moment.
        Superseded: another worker has the job.
    """
    progress = progress_of(await read_segments(bus, running.job))
    if progress.next_n:
        return PriorAttempt("stream", progress)
    # Nothing was sent, or the stream lost it with the server's memory.
    asks = running.job.has_listening_edge
    reply = await ask_edge(bus, running.job, running.attempt) if asks else None
    if reply is None and running.watched:
        return PriorAttempt("nowhere", await _recorded(bus, running.job), wanted=False)
    # What was held for it is still held, though the segments that said so may be lost.
    held = (*progress.extensions, *await open_extensions(bus, running.job))
    extensions = tuple({hold.id: hold for hold in held}.values())
    if reply is None:
        return PriorAttempt("nowhere", Progress(extensions=extensions))
    # Where in the text that was is not known. All is sent again; the edge cuts away what it has.
    progress = Progress(next_n=reply.next_seq, extensions=extensions)
    return PriorAttempt("edge", progress, wanted=reply.open or not running.watched)


async def _recorded(bus: Bus, job: SpeechJob) -> Progress:
    """What is kept on disk of an utterance whose segments were lost: how much was sent, and the holds for it."""
    used = await recorded_progress(bus, job.request_id)
    sent_bytes = used.audio_ms * BYTES_PER_MS if used else 0
    return Progress(sent_bytes=sent_bytes, extensions=await open_extensions(bus, job))
