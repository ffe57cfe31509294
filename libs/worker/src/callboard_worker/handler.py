"""Hands deliveries to a service's kind of job."""

import logging
from typing import Generic, Protocol, TypeVar

from pydantic import ValidationError

from callboard_contracts import subjects
from callboard_contracts.errors import ErrorInfo
from callboard_contracts.jobs import Job
from callboard_kit import tracing
from callboard_kit.bus import Bus
from callboard_kit.payload_cipher import PayloadUnreadable
from callboard_worker.attempts import MAX_WORKER_DEATHS, Attempts
from callboard_worker.dead_letters import DeadLetters
from callboard_worker.metrics import WorkerMetrics
from callboard_worker.outcomes import DEAD, WORKER_DIED
from callboard_worker.pull import Delivery
from callboard_worker.running import RunningJob, RunningJobs

log = logging.getLogger(__name__)

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

    async def answer_dead(self, job: J, error: ErrorInfo) -> None:
        """Answers for a job that is not handed out again: an error for the client, and what was used is kept."""
        ...

    async def close(self) -> None:
        """Ends what the kind still has under way, once no job runs."""
        ...


class JobHandler(Generic[J]):
    """Runs each delivery as a job of one kind."""

    def __init__(
        self,
        kind: JobKind[J],
        running: RunningJobs,
        attempts: Attempts,
        bus: Bus,
        stream: str,
        metrics: WorkerMetrics,
    ) -> None:
        self._kind = kind
        self._running = running
        self._attempts = attempts
        self._cipher = bus.cipher
        self._metrics = metrics
        self.dead_letters = DeadLetters(bus, stream, self.on_dead)

    async def handle(self, delivery: Delivery) -> None:
        """Runs a job; raises what `JobKind.run` does, and ValueError for a message that is not a job.

        A job whose key has been erased is far past its deadline and its hold has expired, so it is only counted.
        """
        with tracing.span("process job", "consumer", delivery.headers, {"callboard.attempt": delivery.attempt}):
            try:
                job = self._kind.parse(await self._cipher.decrypt(delivery.data))
            except PayloadUnreadable:
                log.warning("job_unreadable", extra={"stream_seq": delivery.stream_seq})
                self._metrics.count_job("unreadable")
                return
            is_batch = subjects.job_class_of(delivery.subject) == "batch"
            running = self._running.enter(job, delivery.attempt, is_batch=is_batch)
            try:
                running.stream_seq = delivery.stream_seq
                await self._run(running)
            finally:
                self._running.leave(running)

    async def _run(self, running: RunningJob[J]) -> None:
        if (queue_s := running.queue_s) is not None:
            self._metrics.queue_wait.observe(queue_s, tracing.ids())
            tracing.annotate({"callboard.request_id": running.job.request_id, "callboard.queue_wait_s": queue_s})
        if await self._attempts.begin(running) >= MAX_WORKER_DEATHS:
            await self.set_aside(running, WORKER_DIED)
            return
        returned = True
        try:
            await self._kind.run(running)
            returned = False
        finally:
            await self._attempts.end(running, returned=returned)

    async def set_aside(self, running: RunningJob[J], error: ErrorInfo) -> None:
        """Answers for a job that ends workers, and keeps it among the dead letters; raises BusError."""

        async def answer(_data: bytes) -> None:
            await self._kind.answer_dead(running.job, error)
            self._metrics.count_job("worker_died")

        log.error("job_set_aside", extra={"request_id": running.job.request_id, "attempt": running.attempt})
        await self.dead_letters.set_aside(running.stream_seq, running.attempt, answer)

    async def on_dead(self, data: bytes) -> None:
        """Answers for a job that used up its deliveries; what is not a job needs no answer."""
        try:
            job = self._kind.parse(await self._cipher.decrypt(data))
        except (PayloadUnreadable, ValueError):
            return
        await self._kind.answer_dead(job, DEAD)
        self._metrics.count_job("dead")


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
