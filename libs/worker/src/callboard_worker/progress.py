"""Records what running jobs have used, several times a second, for whoever settles them when all else is lost.

The frames of a reply are in the memory of the bus and in its edge; when both are killed with the worker, this record is
what is left. It lags by a fraction of a second and costs one small message, whatever the number of jobs.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping

from callboard_contracts import subjects
from callboard_contracts.progress import WorkerProgress
from callboard_contracts.quota import Work
from callboard_contracts.streams import PROGRESS
from callboard_kit.bus import Bus, BusError
from callboard_kit.stream_reads import read_subject

log = logging.getLogger(__name__)

RECORD_INTERVAL_S = 0.25
MAX_WORKERS = 10_000


async def record_progress(bus: Bus, worker_id: str, used: Callable[[], Mapping[str, Work]]) -> None:
    """Publishes what the running jobs have used whenever that has changed, until cancelled."""
    recorded: Mapping[str, Work] = {}
    while True:
        await asyncio.sleep(RECORD_INTERVAL_S)
        jobs = used()
        if jobs and jobs != recorded:
            try:
                await bus.publish(subjects.progress(worker_id), WorkerProgress(jobs=dict(jobs)).encoded())
                recorded = jobs
            except BusError:
                log.warning("progress_unrecorded")


async def recorded_progress(bus: Bus, request_id: str) -> Work | None:
    """The most that any worker recorded of a job, or None; raises BusUnavailable."""
    stored = await read_subject(bus, PROGRESS, subjects.progress("*"), limit=MAX_WORKERS)
    records = [WorkerProgress.model_validate_json(message.data) for message in stored]
    found = [record.jobs[request_id] for record in records if request_id in record.jobs]
    return max(found, key=lambda work: (work.completion_tokens, work.audio_ms, work.prompt_tokens), default=None)
