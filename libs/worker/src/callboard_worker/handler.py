"""Hands deliveries to a service's kind of job."""

from typing import Generic, Protocol, TypeVar

from pydantic import ValidationError

from callboard_contracts import subjects
from callboard_contracts.jobs import Job
from callboard_worker.metrics import WorkerMetrics
from callboard_worker.pull import Delivery
from callboard_worker.running import RunningJob, RunningJobs

J = TypeVar("J", bound=Job)


class JobKind(Protocol[J]):
    """What a service makes of its jobs."""

    def parse(self, data: bytes) -> J:
        """Reads a job; raises ValueError, without the client's words, where the message is none. See `read_job`."""
        ...

    async def run(self, running: RunningJob[J]) -> None:
        """Runs one job to its end; when it returns, the job is acked.

        Raises:
            Nak: another worker, or this one later, is to take the job.
            Superseded: another worker has the job.
        """
        ...

    async def answer_dead(self, job: J) -> None:
        """Answers for a job that was handed out too often: an error for the client, and what was used is kept."""
        ...

    async def close(self) -> None:
        """Ends what the kind still has under way, once no job runs."""
        ...


class JobHandler(Generic[J]):
    """Runs each delivery as a job of one kind."""

    def __init__(self, kind: JobKind[J], running: RunningJobs, metrics: WorkerMetrics) -> None:
        self._kind = kind
        self._running = running
        self._metrics = metrics

    async def handle(self, delivery: Delivery) -> None:
        """Runs a job; raises what `JobKind.run` does, and ValueError for a message that is not a job."""
        job = self._kind.parse(delivery.data)
        is_batch = subjects.job_class_of(delivery.subject) == "batch"
        with self._running.entered(job, delivery.attempt, is_batch=is_batch) as running:
            if running.queue_s is not None:
                self._metrics.queue_wait.observe(running.queue_s)
            await self._kind.run(running)

    async def on_dead(self, data: bytes) -> None:
        """Answers for a job that used up its deliveries; what is not a job needs no answer."""
        try:
            job = self._kind.parse(data)
        except ValueError:
            return
        await self._kind.answer_dead(job)
        self._metrics.jobs.labels("dead").inc()


def read_job(model: type[J], data: bytes) -> J:
    """The job in a message.

    Raises:
        ValueError: it is none; what is wrong is named by field only, since the values are a client's words.
    """
    try:
        return model.model_validate_json(data)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        field = ".".join(map(str, first["loc"]))
        raise ValueError(f"not a {model.__name__}: {field}: {first['type']}") from None
