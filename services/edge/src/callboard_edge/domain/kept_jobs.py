"""Jobs whose result is polled: their state, their text so far and their result, read by id from any edge."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from callboard_contracts.chat import ChatEnd, ChatJob, ChatResult
from callboard_contracts.errors import CallboardError, ErrorCode, ErrorInfo
from callboard_contracts.kept import JobTicket
from callboard_contracts.quota import ReserveReply, ReserveRequest
from callboard_edge.domain.ports import JobRef, ResultStore
from callboard_edge.domain.reorder import TextReorderBuffer
from callboard_edge.domain.submission import Dependencies, Route, Submission, submit

CANCEL_WAIT_S = 1.0
"""How long a worker has to show that it had a job that was cancelled."""
CANCEL_POLL_S = 0.1

ANSWER_GRACE_S = 10.0
"""How long after its deadline a worker may take to answer for a job."""
CANCELLED = ChatEnd(reason="cancelled")
NOT_BEGUN = ChatEnd(
    reason="error", error=ErrorInfo(code=ErrorCode.NO_WORKER, message="No worker came for the request in time.")
)

JobState = Literal["queued", "running", "done"]


@dataclass(frozen=True, slots=True)
class KeptJob:
    """A polled job as it stands; `result` is there when it is done, `text` and `thinking` grow until then.

    `restarts` is how often it was begun again, as far as its worker has told.
    """

    state: JobState
    ticket: JobTicket
    text: str = ""
    thinking: str = ""
    tokens: int = 0
    result: ChatResult | None = None
    restarts: int = 0


class KeptJobs:
    """Submits jobs that nobody listens to, and answers for them until they expire."""

    def __init__(self, deps: Dependencies, store: ResultStore) -> None:
        self._deps = deps
        self._store = store

    async def submit(
        self,
        reserve: ReserveRequest,
        make_job: Callable[[ReserveReply], ChatJob],
        route: Route,
        name: str | None = None,
    ) -> Submission:
        """Takes the hold, enqueues the job and keeps its ticket, and the name by which its client asks for it.

        Raises:
            QuotaRefused: quota refused the hold.
            CallboardError: the queue did not take the job, or its ticket could not be kept; then it is cancelled.
        """
        jobs: list[ChatJob] = []

        def remembered(reply: ReserveReply) -> ChatJob:
            jobs.append(make_job(reply))
            return jobs[-1]

        async def entered() -> Submission:
            submission = await submit(self._deps, reserve, remembered, route)
            ticket = _ticket(jobs[-1], submission, route)
            try:
                await self._store.put_ticket(ticket)
                if name is not None:
                    await self._store.put_name(name, ticket.request_id)
            except CallboardError:
                await self._cancel(ticket)
                raise
            return submission

        return await asyncio.shield(self._deps.background.start(entered(), "submit-kept"))

    async def find(self, request_id: str) -> KeptJob:
        """The job as it stands.

        Raises:
            CallboardError: `not_found` for an id that is unknown or expired; `bus_unavailable`.
        """
        ticket = await self._ticket(request_id)
        result = await self._store.result(request_id)
        if result is not None:
            tokens = result.end.usage.completion_tokens
            return KeptJob("done", ticket, result.text, result.thinking, tokens, result, result.end.restarts)
        buffer = TextReorderBuffer()
        frames = await self._store.frames(request_id)
        if not frames and self._deps.now() > ticket.deadline_at + ANSWER_GRACE_S:
            # Workers answer for jobs that are too late; this one has had none.
            await asyncio.shield(self._deps.background.start(self._cancel(ticket, NOT_BEGUN), "give-up-kept"))
            result = await self._store.result(request_id)
            return KeptJob("done" if result else "queued", ticket, result=result)
        buffer.feed(frames)
        restarts = max((frame.restarts for frame in frames), default=0)
        # A frame may tell no more than that the job waits again.
        state: JobState = "running" if any(frame.says_something for frame in frames) else "queued"
        return KeptJob(state, ticket, buffer.text, buffer.thinking, buffer.tokens, restarts=restarts)

    async def find_named(self, name: str) -> KeptJob:
        """The newest job of a client's own name as it stands; raises as `find`."""
        return await self.find(await self._store.named(name) or "")

    async def cancel(self, request_id: str) -> None:
        """Ends a job, wherever it is; what was written stays readable. Raises as `find`."""
        ticket = await self._ticket(request_id)
        if await self._store.result(request_id) is None:
            await asyncio.shield(self._deps.background.start(self._cancel(ticket), "cancel-kept"))

    async def _ticket(self, request_id: str) -> JobTicket:
        ticket = await self._store.ticket(request_id)
        if ticket is None:
            raise CallboardError(ErrorCode.NOT_FOUND, "No request of that id is known here.", param="request_id")
        return ticket

    async def _cancel(self, ticket: JobTicket, end: ChatEnd = CANCELLED) -> None:
        await self._deps.jobs.cancel(ticket.request_id)
        if not await self._deps.jobs.remove(JobRef(ticket.stream, ticket.seq)) or await self._worker_had(ticket):
            return
        if ticket.hold is not None:
            await self._deps.quota.release(ticket.hold)
        await self._store.put_result(ChatResult(request_id=ticket.request_id, model=ticket.model, text="", end=end))

    async def _worker_had(self, ticket: JobTicket) -> bool:
        """Whether a worker turns out to have had the job; it then settles the hold and keeps the result itself."""
        until = asyncio.get_running_loop().time() + CANCEL_WAIT_S
        while asyncio.get_running_loop().time() < until:
            if await self._store.frames(ticket.request_id) or await self._store.result(ticket.request_id):
                return True
            await asyncio.sleep(CANCEL_POLL_S)
        return False


def _ticket(job: ChatJob, submission: Submission, route: Route) -> JobTicket:
    job_ref = submission.job_ref
    assert job_ref is not None
    return JobTicket(
        request_id=job.request_id,
        service=route.service,
        pool=route.pool,
        tenant=submission.tenant,
        model=job.request.model,
        stream=job_ref.stream,
        seq=job_ref.seq,
        hold=submission.hold,
        created_at=job.created_at,
        deadline_at=job.deadline_at,
    )
