"""Hands a job to the worker that is the quickest at it, such as one that has read the beginning of its prompt before.

Any worker may get any job from the queue. One that gets a job which prefers another asks that worker for a slot, and
hands the message over with its place in the queue when it is promised one. Nobody waits: a worker that is full, slow or
gone does not get the job. If the message is lost on its way, the queue hands the job out again.
"""

from collections.abc import Callable

from nats.aio.msg import Msg

from callboard_contracts import subjects
from callboard_contracts.headers import JOB_REPLY, JOB_SUBJECT, PREFERRED_WORKER
from callboard_kit import tracing
from callboard_kit.bus import Bus, BusError
from callboard_kit.pull import place_of
from callboard_worker.metrics import WorkerMetrics
from callboard_worker.pull import PullLoop

OFFER_TIMEOUT_S = 0.1
PROMISE_LIFE_S = 1.0
ROOM = b"room"
FULL = b"full"


class Handover:
    """One worker's part: it hands jobs over to others, and takes those that are meant for it."""

    def __init__(self, bus: Bus, worker: str, metrics: WorkerMetrics, ready: Callable[[], bool]) -> None:
        self._bus = bus
        self._worker = worker
        self._jobs = metrics.preferred_jobs
        self._ready = ready

    async def listen(self, loop: PullLoop) -> None:
        """Takes jobs for a loop, for as long as its process works."""

        async def offered(message: Msg) -> None:
            room = self._ready() and loop.promise(PROMISE_LIFE_S)
            await self._bus.publish(message.reply, ROOM if room else FULL, flush=True)

        def handed_over(message: Msg) -> None:
            headers = message.headers or {}
            context = tracing.context_of(headers) or None
            loop.take(Msg(self._bus.connection, headers[JOB_SUBJECT], headers[JOB_REPLY], message.data, context))

        await self._bus.subscribe(subjects.offered_job(self._worker), offered)
        await self._bus.subscribe_now(subjects.handed_over_job(self._worker), handed_over)

    async def passes_on(self, message: Msg) -> bool:
        """Hands a new job over to the worker that it prefers; False when it is to run here."""
        preferred = (message.headers or {}).get(PREFERRED_WORKER)
        if preferred is None or place_of(message)[0] != 1:
            return False
        if preferred == self._worker:
            self._jobs.labels("here").inc()
            return False
        try:
            answer = await self._bus.request(subjects.offered_job(preferred), b"", OFFER_TIMEOUT_S)
            if answer != ROOM:
                self._jobs.labels("full").inc()
                return False
            # The server lets nobody name a place in a queue as the reply subject of a message.
            place = {JOB_SUBJECT: message.subject, JOB_REPLY: message.reply}
            headers = {**tracing.context_of(message.headers), **place}
            await self._bus.publish(subjects.handed_over_job(preferred), message.data, headers, flush=True)
        except BusError:
            self._jobs.labels("gone").inc()
            return False
        self._jobs.labels("handed_over").inc()
        return True
