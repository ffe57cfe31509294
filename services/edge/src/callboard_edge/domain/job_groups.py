"""Requests that are made of several polled jobs: submitted together, read and ended by one id, from any edge."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from callboard_contracts.chat import ChatResult
from callboard_contracts.errors import CallboardError, ErrorCode
from callboard_contracts.kept import KeptGroup
from callboard_edge.domain.kept_jobs import KeptJob, KeptJobs
from callboard_edge.domain.ports import Background, ResultStore

log = logging.getLogger(__name__)

END_WAIT_S = 1.0
"""How long jobs that were cancelled have to show their end; a worker stops within 250 ms."""
END_POLL_S = 0.1
SUBMIT_TIMEOUT_S = 120.0


@dataclass(frozen=True, slots=True)
class GroupJob:
    """One job of a request; `result` is None until it ends, and afterwards where the result is gone.

    `place` is where the job lies in its work queue, `tokens` and `text` are what it has written so far, `restarts` is
    how often it was begun again.
    """

    ended: bool
    result: ChatResult | None = None
    place: int = 0
    begun: bool = False
    text: str = ""
    tokens: int = 0
    restarts: int = 0


@dataclass(frozen=True, slots=True)
class GroupState:
    """A request as it stands."""

    group: KeptGroup
    jobs: Sequence[GroupJob]

    @property
    def ended(self) -> bool:
        """Whether all jobs have ended."""
        return all(job.ended for job in self.jobs)


class JobGroups:
    """Submits and answers for requests of several jobs until they expire."""

    def __init__(self, kept: KeptJobs, store: ResultStore, background: Background) -> None:
        self._kept = kept
        self._store = store
        self._background = background

    async def submit(self, name: str, group: KeptGroup, enter: Callable[[str], Awaitable[object]]) -> None:
        """Keeps a request under a name and enters its jobs by their ids, all or none.

        Raises:
            CallboardError: the group could not be kept, or what `enter` raises for one of the jobs.
        """
        task = self._background.start(self._submit(name, group, enter), "submit-group")
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError:
            # Nobody was told the name, so nobody will ask for the replies.
            self._background.start(self._take_back(task, group), "take-back-group")
            raise

    async def find(self, name: str) -> GroupState:
        """The request as it stands.

        Raises:
            CallboardError: `not_found` for a name that is unknown or expired; `bus_unavailable`.
        """
        group = await self._group(name)
        if group.ended:
            results = await asyncio.gather(*map(self._store.result, group.job_ids))
            if not any(results):
                raise _unknown()
            return GroupState(group, [_ended_job(result) for result in results])
        state = GroupState(group, await asyncio.gather(*map(self._job, group.job_ids)))
        if state.ended:
            # The results are kept for some time from now on, so the group has to be kept as long.
            await self._store.put_group(name, group.model_copy(update={"ended": True}))
        return state

    async def cancel(self, name: str) -> GroupState:
        """Ends all jobs of a request, and returns what there is of them; raises as `find`."""
        group = await self._group(name)
        if not group.ended:
            await self._cancel(group.job_ids)
        until = asyncio.get_running_loop().time() + END_WAIT_S
        while True:
            state = await self.find(name)
            if state.ended or asyncio.get_running_loop().time() >= until:
                return state
            await asyncio.sleep(END_POLL_S)

    async def _group(self, name: str) -> KeptGroup:
        group = await self._store.group(name)
        if group is None:
            raise _unknown()
        return group

    async def _job(self, job_id: str) -> GroupJob:
        try:
            job = await self._kept.find(job_id)
        except CallboardError as error:
            if error.info.code is not ErrorCode.NOT_FOUND:
                raise
            # Its ticket may be gone a little earlier than its result.
            return _ended_job(await self._store.result(job_id))
        return _group_job(job)

    async def _submit(self, name: str, group: KeptGroup, enter: Callable[[str], Awaitable[object]]) -> None:
        await self._store.put_group(name, group)
        for count, job_id in enumerate(group.job_ids):
            try:
                await enter(job_id)
            except CallboardError:
                # What failed may have been the last step of the newest, whose job is there then.
                await self._cancel(group.job_ids[: count + 1])
                raise

    async def _take_back(self, task: "asyncio.Task[None]", group: KeptGroup) -> None:
        await asyncio.wait([task], timeout=SUBMIT_TIMEOUT_S)
        if task.done() and task.exception() is None:
            await self._cancel(group.job_ids)

    async def _cancel(self, job_ids: Sequence[str]) -> None:
        found = await asyncio.gather(*map(self._kept.cancel, job_ids), return_exceptions=True)
        for job_id, error in zip(job_ids, found, strict=True):
            if isinstance(error, CallboardError) and error.info.code is not ErrorCode.NOT_FOUND:
                log.warning("job_not_cancelled", extra={"request_id": job_id, "error": error.info.code.value})


def _group_job(job: KeptJob) -> GroupJob:
    return GroupJob(
        ended=job.state == "done",
        result=job.result,
        place=job.ticket.seq,
        begun=job.state == "running",
        text=job.text,
        tokens=job.tokens,
        restarts=job.restarts,
    )


def _ended_job(result: ChatResult | None) -> GroupJob:
    return GroupJob(ended=True, result=result, restarts=result.end.restarts if result else 0)


def _unknown() -> CallboardError:
    return CallboardError(ErrorCode.NOT_FOUND, "No request of that id is known here.", param="request_id")
