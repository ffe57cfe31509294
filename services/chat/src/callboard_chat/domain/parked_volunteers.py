"""Volunteers that wait for a job, in the order in which they came."""

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass

from callboard_contracts.volunteers import HandedJob, PopRequest

MAX_PARKED = 2048
"""So many volunteers may wait at once; one more is answered at once."""


@dataclass(eq=False, slots=True)
class _Parked:
    request: PopRequest
    answer: "asyncio.Future[HandedJob]"


class ParkedVolunteers:
    """The pops that wait, by their tickets."""

    def __init__(self) -> None:
        self._parked: dict[str, _Parked] = {}

    def __len__(self) -> int:
        return len(self._parked)

    @property
    def is_full(self) -> bool:
        """Whether no more may wait."""
        return len(self._parked) >= MAX_PARKED

    async def job_for(self, request: PopRequest) -> HandedJob | None:
        """The job that a pop is given within the time that it waits, or None."""
        parked = _Parked(request, asyncio.get_running_loop().create_future())
        self._parked[request.ticket] = parked
        try:
            async with asyncio.timeout(request.wait_s):
                return await parked.answer
        except TimeoutError:
            # A job may have come in the very moment.
            return parked.answer.result() if parked.answer.done() and not parked.answer.cancelled() else None
        finally:
            self._parked.pop(request.ticket, None)

    def waiting(self) -> Iterator[PopRequest]:
        """The pops that nothing was given to yet, the one that has waited longest first."""
        return (parked.request for parked in self._parked.values() if not parked.answer.done())

    def give(self, request: PopRequest, job: HandedJob) -> None:
        """Answers one of them."""
        self._parked.pop(request.ticket).answer.set_result(job)

    def withdraw(self, ticket: str) -> None:
        """Says that the volunteer of a pop is gone."""
        if (parked := self._parked.pop(ticket, None)) is not None:
            parked.answer.cancel()
