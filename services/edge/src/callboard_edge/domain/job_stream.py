"""One request on its way over the board: from the hold to the end, and what is cleaned up when it ends early."""

import asyncio
import logging
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Generic, Self, TypeVar

from callboard_contracts.chat import InterestReply, InterestRequest
from callboard_contracts.errors import CallboardError, ErrorCode
from callboard_contracts.quota import Hold, LimitState, ReserveReply, ReserveRequest
from callboard_edge.domain.background_tasks import BackgroundTasks
from callboard_edge.domain.ports import Inbox, JobQueue, JobRef, QuotaClient, ReplyRouter

log = logging.getLogger(__name__)

CANCEL_GRACE_S = 1.0
"""How long a cancelled job's worker has to show itself before the job counts as one that nobody had begun."""
DEADLINE_GRACE_S = 1.0
"""How much longer than the worker the edge waits, so that the worker's own answer comes first."""
FIRST_CHECK_S = 2.0
LAST_CHECK_S = 8.0
"""How long nothing must arrive before the board is asked whether something was missed: at first, and at most."""
REFILL_PAUSE_S = 0.25
"""The pause between two attempts to fill a gap that the first one left."""

T = TypeVar("T")


class Refused(CallboardError):  # noqa: N818 - quota's decision, as the caller is told it
    """Quota refused a request; `states` says where the limit stands."""

    states: tuple[LimitState, ...] = ()


class FailedAfterOutput(CallboardError):  # noqa: N818 - what it means for the caller
    """A request failed after a part of it had been emitted, which is charged: a repeat would be charged again."""


@dataclass(frozen=True, slots=True)
class Dependencies:
    """What every job_stream works with."""

    quota: QuotaClient
    jobs: JobQueue
    replies: ReplyRouter
    background: BackgroundTasks


class JobStream(ABC, Generic[T]):
    """A request that somebody waits for.

    Use it as a context manager: leaving before the end, for whatever reason, tells the worker to stop, takes a queued
    job back and releases the hold of a job that nobody had begun.
    """

    def __init__(self, deps: Dependencies, request_id: str, life_s: float) -> None:
        self.request_id = request_id
        self.tenant = ""
        self.states: tuple[LimitState, ...] = ()
        self.begun = False
        """Whether a worker has shown itself: by something it sent, or by asking whether it should go on."""
        self._deps = deps
        self.hold: Hold | None = None
        self._deadline = asyncio.get_running_loop().time() + life_s + DEADLINE_GRACE_S
        self._entry: asyncio.Task[JobRef] | None = None
        self._closed = False
        self._check_pause_s = FIRST_CHECK_S
        self._catching_up = False
        self._next_check = asyncio.get_running_loop().time() + FIRST_CHECK_S
        self._inbox: Inbox[T] = self._open()

    @abstractmethod
    def _open(self) -> Inbox[T]:
        """Begins to collect what workers send."""

    @abstractmethod
    async def _post(self, reply: ReserveReply) -> JobRef:
        """Posts the job with its hold."""

    @abstractmethod
    def _take_ready(self) -> Sequence[T]:
        """Takes what has arrived into the stream and returns what can go out."""

    @abstractmethod
    async def _refill(self) -> bool:
        """Reads from the board what may have been missed; true when that brought something."""

    @property
    @abstractmethod
    def ended(self) -> bool:
        """Whether the end has been taken."""

    @property
    @abstractmethod
    def _missing(self) -> bool:
        """Whether there is a gap that only the board can fill."""

    @abstractmethod
    def _progress(self, request: InterestRequest) -> InterestReply:
        """The answer to a worker that asks about a request that is still wanted."""

    async def begin(self, reserve: ReserveRequest) -> None:
        """Takes the hold and posts the job.

        Raises:
            Refused: quota said no.
            CallboardError: the board did not take the job.
        """
        self._entry = self._deps.background.start(self._enter(reserve), "enter")
        try:
            await asyncio.shield(self._entry)
        except BaseException:
            self.close()
            raise

    async def _enter(self, reserve: ReserveRequest) -> JobRef:
        reply = await self._deps.quota.reserve(reserve)
        self.states = reply.states
        if reply.error is not None:
            refused = Refused(reply.error.code, reply.error.message)
            refused.info = reply.error
            refused.states = reply.states
            raise refused
        self.tenant = reply.tenant
        self.hold = reply.hold
        try:
            return await self._post(reply)
        except BaseException:
            if reply.hold is not None:
                await self._deps.quota.release(reply.hold)
            raise

    async def take(self, wait_s: float) -> Sequence[T]:
        """What comes next in the stream, as soon as there is something; nothing when the wait is over first.

        Raises:
            CallboardError: the deadline has passed, or this edge stops.
        """
        loop = asyncio.get_running_loop()
        until = loop.time() + wait_s
        while True:
            if self._inbox.failure is not None:
                raise CallboardError.of(self._inbox.failure)
            was_missing, lost = self._missing, self._inbox.lost
            ready = self._take_ready()
            if lost or self._catching_up or (self._missing and not was_missing):
                self._next_check = 0.0
            elif ready:
                self._check_pause_s = FIRST_CHECK_S
                self._next_check = loop.time() + FIRST_CHECK_S
            if ready:
                self.begun = True
                return ready
            now = loop.time()
            if now >= self._deadline:
                raise CallboardError(ErrorCode.DEADLINE_EXCEEDED, "The request was not finished before its deadline.")
            if now >= self._next_check:
                self._catching_up = await self._refill()
                self._next_check = loop.time() + (REFILL_PAUSE_S if self._missing else self._check_pause_s)
                self._check_pause_s = min(LAST_CHECK_S, self._check_pause_s * 2)
            elif now >= until:
                return ()
            else:
                await self._inbox.wait(min(until, self._deadline, self._next_check) - now)

    def on_interest(self, request: InterestRequest) -> InterestReply:
        """Answers a worker of this request."""
        self.begun = True
        if self._closed or self.ended:
            return InterestReply(open=False, attempt=request.attempt)
        return self._progress(request)

    def close(self) -> None:
        """Ends the job_stream; safe to repeat. Before the end it leaves the cleaning up to a task."""
        if self._closed:
            return
        self._closed = True
        if self.ended or self._entry is None:
            self._deps.replies.close_request(self.request_id)
        else:
            self._deps.background.start(self._abandon(self._entry), "abandon")

    async def _abandon(self, entry: asyncio.Task[JobRef]) -> None:
        try:
            try:
                job_ref = await entry
            except (Exception, asyncio.CancelledError):
                return
            log.info("request_abandoned", extra={"request_id": self.request_id, "begun": self.begun})
            await self._deps.jobs.cancel(self.request_id)
            if self.begun or not await self._deps.jobs.remove(job_ref):
                return
            if not await self._worker_shows() and self.hold is not None:
                await self._deps.quota.release(self.hold)
        finally:
            self._deps.replies.close_request(self.request_id)

    async def _worker_shows(self) -> bool:
        """Whether a worker turns out to have had the job; it then settles the hold itself."""
        loop = asyncio.get_running_loop()
        until = loop.time() + CANCEL_GRACE_S
        while not self.begun and loop.time() < until:
            await self._inbox.wait(until - loop.time())
            if self._inbox.drain():
                self.begun = True
            if self._inbox.failure is not None:
                break
        return self.begun

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()
