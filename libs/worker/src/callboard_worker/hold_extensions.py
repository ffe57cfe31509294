"""Further holds for work that is under way: asked for over the bus, and known job by job."""

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, TypeVar

from callboard_contracts import subjects
from callboard_contracts.errors import ErrorCode, ErrorInfo
from callboard_contracts.jobs import Job
from callboard_contracts.quota import Hold, ReserveReply, ReserveRequest, Work
from callboard_contracts.streams import LEASE
from callboard_kit.bus import Bus
from callboard_kit.quota_rpc import UNAVAILABLE, QuotaRpc
from callboard_kit.stream_reads import read_batches
from callboard_worker.metrics import WorkerMetrics

log = logging.getLogger(__name__)

QUOTA_WAIT_S = 10.0
"""How long quota may be unreachable when more must be held; meanwhile the client still uses what is held."""
RETRY_PAUSE_S = 0.25
MIN_LIFE_S = 1.0
LEASES_PER_READ = 250
INTERNAL = ErrorInfo(
    code=ErrorCode.INTERNAL, message="The worker could not hold more for the work; its log has the request id."
)

T = TypeVar("T")


class HoldExtensions:
    """Asks whichever quota process answers; it owns each request until its reply, even if the caller was cancelled.

    With `admits_unheld` the site lets work go on while quota cannot be reached.
    """

    def __init__(self, bus: Bus, timeout_s: float, *, admits_unheld: bool = False) -> None:
        self.admits_unheld = admits_unheld
        self._tasks: set[asyncio.Task[Any]] = set()
        self._rpc = QuotaRpc(bus, timeout_s, self._start, QUOTA_WAIT_S, retries=False)

    async def ask(self, hold: Hold, work: Work, life_s: float) -> Hold | ErrorInfo:
        """Asks once for a further hold on the accounts of `hold`, and returns it or what quota says instead.

        `quota_unavailable` means that nothing was decided and a repeat is safe. A hold that is granted after this call
        has ended, by its time or by a cancellation, is given back.
        """
        request = ReserveRequest(
            request_id=hold.request_id, kind=hold.kind, model=hold.model, work=work, life_s=life_s, extends=hold
        )
        asking = self._start(self._ask(request), "extension")
        try:
            return await asyncio.shield(asking)
        except asyncio.CancelledError:
            asking.add_done_callback(self._give_back_result)
            raise

    def give_back(self, hold: Hold) -> None:
        """Releases a hold in the background; one that cannot be given back expires."""
        self._start(self._rpc.release(hold), "give-back")

    async def close(self, timeout_s: float) -> None:
        """Waits for what is under way, then ends the rest."""
        until = time.monotonic() + timeout_s
        # A reply that comes in this time may start a release.
        while self._tasks and (left_s := until - time.monotonic()) > 0:
            await asyncio.wait(set(self._tasks), timeout=left_s)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _ask(self, request: ReserveRequest) -> Hold | ErrorInfo:
        reply = await self._rpc.reserve(request) or ReserveReply()
        return reply.hold or reply.error or UNAVAILABLE

    def _give_back_result(self, asking: asyncio.Task[Hold | ErrorInfo]) -> None:
        if not asking.cancelled() and asking.exception() is None and isinstance(hold := asking.result(), Hold):
            self.give_back(hold)

    def _start(self, work: Coroutine[Any, Any, T], name: str) -> asyncio.Task[T]:
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


class JobHolds:
    """The holds of one job, which grow while it is worked on; `known` are the extensions of earlier attempts.

    `left_s` says how long until the job's deadline.
    """

    def __init__(
        self,
        extensions: HoldExtensions,
        job: Job,
        known: Sequence[Hold],
        left_s: Callable[[], float],
        metrics: WorkerMetrics,
    ) -> None:
        self._extensions = extensions
        self._job = job
        self._granted = list(known)
        self._pending: list[Hold] = []
        self._left_s = left_s
        self._metrics = metrics

    @property
    def extensions(self) -> tuple[Hold, ...]:
        """All holds beside the job's own, in the order in which they were taken."""
        return tuple(self._granted)

    @property
    def all(self) -> tuple[Hold, ...]:
        """All holds, the job's own first; none where the job was admitted without one."""
        return (self._job.hold, *self._granted) if self._job.hold else self.extensions

    def drain_pending(self) -> tuple[Hold, ...]:
        """Takes the holds that were granted since the last call."""
        pending, self._pending = tuple(self._pending), []
        return pending

    async def ask(self, work: Work) -> Hold | ErrorInfo | None:
        """Requests a hold for more work, with retries while quota is unreachable.

        Returns the hold, why there is none, or None where the site lets the work go on without one.
        """
        hold = self._job.hold
        assert hold is not None
        clock = time.monotonic
        until = clock() + QUOTA_WAIT_S
        while True:
            answer = await self._extensions.ask(hold, work, max(MIN_LIFE_S, self._left_s()))
            if isinstance(answer, Hold):
                self._granted.append(answer)
                self._pending.append(answer)
                self._count("granted")
                return answer
            if answer.code is ErrorCode.QUOTA_EXCEEDED:
                self._count("refused")
                return answer
            away = answer.code is ErrorCode.QUOTA_UNAVAILABLE
            if away and self._extensions.admits_unheld:
                log.warning("work_without_hold", extra={"request_id": hold.request_id})
                self._count("unheld")
                return None
            if not away or clock() + RETRY_PAUSE_S > until:
                log.warning("hold_extension_failed", extra={"request_id": hold.request_id, "code": answer.code.value})
                self._count("failed")
                return answer if away else INTERNAL
            await asyncio.sleep(RETRY_PAUSE_S)

    def give_back_pending(self) -> None:
        """Releases the holds that were granted since the last `drain_pending`."""
        for hold in self.drain_pending():
            self._extensions.give_back(hold)

    def _count(self, outcome: str) -> None:
        self._metrics.hold_extensions.labels(outcome).inc()


async def open_extensions(bus: Bus, job: Job) -> tuple[Hold, ...]:
    """The open holds that earlier attempts took on top of a job's own, the oldest first; raises BusUnavailable."""
    found: list[Hold] = []
    async for batch in read_batches(bus, LEASE, subjects.lease_filter(job.tenant), batch_size=LEASES_PER_READ):
        # A lease that ended is replaced by an empty message.
        holds = [Hold.model_validate_json(message.data) for message in batch if message.data]
        found += [hold for hold in holds if hold.request_id == job.request_id]
    return tuple(hold for hold in found if job.hold is not None and hold.id != job.hold.id)
