"""A job that somebody listens to: from the hold to the end of its stream, and the clean-up when it ends early."""

import asyncio
import logging
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Sequence
from time import monotonic
from typing import Any, Generic, Protocol, Self, TypeVar

from callboard_contracts.errors import CallboardError, ErrorCode, ErrorInfo
from callboard_contracts.interest import ResumeReply
from callboard_contracts.quota import UNITS_PER_TOKEN, Hold, LimitState, ReserveRequest
from callboard_edge.domain.ports import Inbox, RequestState
from callboard_edge.domain.submission import Dependencies, MakeJob, Route, Submission, submit
from callboard_edge.domain.workers import WorkerWait

log = logging.getLogger(__name__)

KEEP_ALIVE_S = 15.0
"""How long a stream may be silent before its reader is told that it still lives."""
CANCEL_GRACE_S = 1.0
"""How long a cancelled job's worker has to show itself before the job counts as one that nobody began."""
DEADLINE_GRACE_S = 1.0
"""How much longer than the worker the edge waits, so that the worker's own answer comes first."""
FIRST_CHECK_S = 2.0
LAST_CHECK_S = 8.0
"""How long nothing must arrive before the bus is asked whether a message was missed: at first, and at most."""
ACCEPTED_WITHIN_S = 0.1
"""So long the first frame is waited for alone: mostly it comes soon after the job was queued, and tells that too."""
REFILL_PAUSE_S = 0.25
"""The pause between two attempts to fill a gap."""

T = TypeVar("T")


class FailedAfterOutput(CallboardError):  # noqa: N818 - what it means for the caller
    """A request failed after a part of it had been sent, which is charged: a retry would be charged again."""


class Buffer(Protocol[T]):
    """Puts the messages of one kind of job in order."""

    @property
    def ended(self) -> bool:
        """Whether the end is here."""
        ...

    @property
    def missing(self) -> bool:
        """Whether there is a gap that only a read from the bus can fill."""
        ...

    @property
    def attempt(self) -> int:
        """The newest attempt seen."""
        ...

    def feed(self, arrived: Iterable[T], /) -> list[T]:
        """Takes messages in any order and returns those that can go out now, in order."""
        ...

    def announce(self, attempt: int) -> None:
        """Notes that an attempt has begun, so that what older ones still send is left aside."""
        ...

    def resume(self) -> ResumeReply:
        """How far the stream has come, for a worker that takes the job over."""
        ...


class StreamSource(ABC, Generic[T]):
    """Where the messages of one job come from: its inbox, and what the bus has kept."""

    def __init__(self, buffer: Buffer[T]) -> None:
        self.buffer = buffer
        self.inbox: Inbox[T] = self.open(RequestState(lambda: buffer.attempt, self.resume))
        self.open_to_workers = True
        """Whether somebody still waits."""
        self.worker_seen = False
        """Whether a worker has shown itself: by what it sent, or by asking how far the stream has come."""
        self._ready: list[T] = []

    @abstractmethod
    def open(self, state: RequestState) -> Inbox[T]:
        """Begins to collect what workers send."""

    @abstractmethod
    async def replay(self) -> Sequence[T]:
        """Reads back what may have been missed."""

    async def complete(self) -> Sequence[T]:
        """What ends the stream when nothing can be read back; nothing, unless the job keeps a result."""
        return ()

    def take(self) -> Sequence[T]:
        """Takes what has arrived and returns what can go out, in order."""
        if arrived := self.inbox.drain():
            self._ready += self.buffer.feed(arrived)
        if not self._ready:
            return ()
        ready, self._ready = self._ready, []
        self.worker_seen = True
        return ready

    async def refill(self) -> Sequence[T]:
        """Reads from the bus what may have been missed, and returns what can go out."""
        replayed = await self.replay()
        self._ready += self.buffer.feed(self.inbox.drain())
        self._ready += self.buffer.feed(replayed)
        if not self._ready and not self.buffer.ended:
            self._ready += await self.complete()
        return self.take()

    def resume(self, attempt: int) -> ResumeReply:
        """Answers a worker that takes the job over; what arrived before it asked still counts."""
        self.worker_seen = True
        if not self.open_to_workers or self.buffer.ended:
            return ResumeReply(open=False, attempt=attempt)
        self._ready += self.buffer.feed(self.inbox.drain())
        self.buffer.announce(attempt)
        return self.buffer.resume()


class JobStream(Generic[T]):
    """A job and what its workers send, as one continuous stream.

    Use it as an async context manager, and iterate over the batches that arrive. Leaving before the end, for whatever
    reason, cancels the job: its worker stops, a queued job is removed, and the hold of a job that nobody began is
    released.
    """

    def __init__(
        self, deps: Dependencies, request_id: str, life_s: float, source: StreamSource[T], wait: WorkerWait
    ) -> None:
        now = monotonic()
        self.request_id = request_id
        self.states: tuple[LimitState, ...] = ()
        self.hold: Hold | None = None
        self._deps = deps
        self._source = source
        self._wait = wait
        self._deadline = now + life_s + DEADLINE_GRACE_S
        self._submitting: asyncio.Task[Submission] | None = None
        self._accepted = False
        self._on_accepted: Callable[[Sequence[LimitState]], None] | None = None
        self._route: Route | None = None
        self._closed = False
        self._check_pause_s = FIRST_CHECK_S
        self._next_check = now + FIRST_CHECK_S
        self._catching_up = False
        self._missing = False
        """Whether a gap was there when messages were last taken."""

    async def submit(
        self,
        reserve: ReserveRequest,
        make_job: MakeJob,
        route: Route,
        store: Callable[[], Awaitable[None]] | None = None,
    ) -> Self:
        """Takes the hold and enqueues the job; `store` first puts where its worker finds it what the job cannot carry.

        Raises:
            QuotaRefused: quota refused the hold.
            CallboardError: the queue did not take the job, or what it needs was not stored.
        """
        return await self.begin(submit(self._deps, reserve, make_job, route, store), route).accepted()

    def begin(self, submitting: asyncio.Task[Submission], route: Route) -> Self:
        """Takes the task that has the job queued. Nobody needs to wait for it: `take` raises what it raises."""
        self._route = route
        self._deps.waiting.begin(route.service, route.pool, self.request_id)
        self._submitting = submitting
        submitting.add_done_callback(self._settle)
        return self

    async def accepted(self) -> Self:
        """Waits until the job is queued; raises what the task raises that has it queued."""
        submitting = self._submitting
        if submitting is None or self._accepted:
            return self
        try:
            await asyncio.shield(submitting)
        except BaseException:
            self.close()
            raise
        self._settle(submitting)
        return self

    def tell_limits(self, tell: Callable[[Sequence[LimitState]], None]) -> None:
        """Has the caller's limits told as soon as quota's decision is known, before anything is taken."""
        if self._accepted:
            tell(self.states)
        else:
            self._on_accepted = tell

    def _settle(self, submitting: asyncio.Task[Submission]) -> None:
        """Takes in that the job is queued, or has its reader learn that it will not be."""
        if self._accepted:
            return
        if submitting.cancelled() or submitting.exception() is not None:
            self._source.inbox.wake()
            return
        submission = submitting.result()
        self.states, self.hold = submission.states, submission.hold
        self._accepted = True
        if self._on_accepted is not None:
            self._on_accepted(self.states)

    @property
    def ended(self) -> bool:
        """Whether the end of the stream has been taken."""
        return self._source.buffer.ended

    @property
    def worker_seen(self) -> bool:
        """Whether a worker has shown itself."""
        return self._source.worker_seen

    @property
    def waking(self) -> bool:
        """Whether the job waits for a worker of a pool that has none at this moment."""
        return not self.ended and self._wait.waking

    def charged_tokens(self, audio_ms: int) -> int:
        """What quota charges for so much sound, in whole tokens; 0 where no hold was taken."""
        rate = self.hold.rates.audio_units_per_s if self.hold is not None else 0
        return -(-audio_ms * rate // (1000 * UNITS_PER_TOKEN))

    async def batches(self, keep_alive_s: float = KEEP_ALIVE_S) -> AsyncGenerator[Sequence[T]]:
        """Yields what arrives together, up to the end; an empty batch after each silence of `keep_alive_s`.

        Raises:
            CallboardError: the deadline has passed, no worker came, or this edge stops.
        """
        while not self.ended:
            yield await self.take(keep_alive_s)

    def __aiter__(self) -> AsyncGenerator[Sequence[T]]:
        return self.batches()

    async def take(self, wait_s: float) -> Sequence[T]:
        """What comes next, as soon as there is something; nothing when the wait is over first. Raises as `batches`."""
        until = monotonic() + wait_s
        inbox, buffer = self._source.inbox, self._source.buffer
        if not self._accepted and self._submitting is not None:
            if not self._submitting.done():
                await inbox.wait(min(wait_s, ACCEPTED_WITHIN_S))
            if not self._accepted:
                await self.accepted()
                until = monotonic() + wait_s
        while True:
            if inbox.failure is not None:
                return self._failed(inbox.failure)
            lost, was_missing = inbox.lost, self._missing
            ready = self._source.take()
            self._missing = buffer.missing
            if lost or self._catching_up or (self._missing and not was_missing):
                self._next_check = 0.0
            elif ready:
                self._check_pause_s = FIRST_CHECK_S
                self._next_check = monotonic() + FIRST_CHECK_S
            if ready:
                return self._handed_out(ready)
            now = monotonic()
            give_up_at = self._give_up_at(now)
            if now >= self._next_check:
                if ready := await self._refilled():
                    return self._handed_out(ready)
            elif now >= until:
                return ()
            else:
                await inbox.wait(min(until, self._next_check, give_up_at) - now)

    def _give_up_at(self, now: float) -> float:
        """When the wait for the next message is over; raises CallboardError where it is."""
        if now >= self._deadline:
            raise CallboardError(ErrorCode.DEADLINE_EXCEEDED, "The request was not finished before its deadline.")
        # A worker announces itself before it takes a job, so that a request that is given up here was not begun.
        return self._deadline if self._source.worker_seen else min(self._deadline, self._wait.until())

    async def _refilled(self) -> Sequence[T]:
        ready = await self._source.refill()
        self._catching_up = bool(ready)
        self._missing = self._source.buffer.missing
        self._next_check = monotonic() + (REFILL_PAUSE_S if self._missing else self._check_pause_s)
        self._check_pause_s = min(LAST_CHECK_S, self._check_pause_s * 2)
        return ready

    def _handed_out(self, ready: Sequence[T]) -> Sequence[T]:
        """Takes note of what the reader gets next."""
        if self._route is not None:
            self._wait_over()
        return ready

    def _failed(self, error: ErrorInfo) -> Sequence[T]:
        """What the reader gets where the inbox was failed."""
        raise CallboardError.of(error)

    def _wait_over(self) -> None:
        if self._route is not None:
            self._deps.waiting.end(self._route.service, self._route.pool, self.request_id)
            self._route = None

    def close(self) -> None:
        """Ends the stream; safe to repeat. Before its end the job is cancelled by a background task."""
        if self._closed:
            return
        self._closed = True
        if self._route is not None:
            self._wait_over()
        self._source.open_to_workers = False
        if self._source.buffer.ended or self._submitting is None:
            self._deps.replies.close_request(self.request_id)
        else:
            self._deps.background.start(self._cancel(self._submitting), "cancel")

    async def _cancel(self, submitting: asyncio.Task[Submission]) -> None:
        try:
            try:
                submission = await submitting
            except (Exception, asyncio.CancelledError):
                return
            log.info("request_abandoned", extra={"request_id": self.request_id, "worker_seen": self.worker_seen})
            await self._withdraw(submission)
        finally:
            self._deps.replies.close_request(self.request_id)

    async def _withdraw(self, submission: Submission) -> None:
        """Takes back what was submitted."""
        await self._deps.jobs.cancel(self.request_id)
        if self.worker_seen or submission.job_ref is None or not await self._deps.jobs.remove(submission.job_ref):
            return
        if not await self._worker_shows() and submission.hold is not None:
            await self._deps.quota.release(submission.hold)

    async def _worker_shows(self) -> bool:
        """Whether a worker turns out to have had the job; it then settles the hold itself."""
        until = monotonic() + CANCEL_GRACE_S
        inbox = self._source.inbox
        while not self.worker_seen and monotonic() < until and inbox.failure is None:
            await inbox.wait(until - monotonic())
            if inbox.drain():
                return True
        return self.worker_seen

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: Any) -> None:
        self.close()
