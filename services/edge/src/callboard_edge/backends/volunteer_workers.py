"""Asks single chat workers for volunteers, over the bus."""

from typing import TypeVar

from pydantic import ValidationError

from callboard_contracts import subjects
from callboard_contracts.model import Message
from callboard_contracts.volunteers import (
    PopReply,
    PopRequest,
    ProgressRequest,
    SubmitReply,
    SubmitRequest,
    WithdrawPop,
)
from callboard_edge.domain.volunteer_jobs import ChatWorkerGone
from callboard_kit.bus import Bus, BusError, NoResponders

TIMEOUT_S = 2.0
SUBMIT_TIMEOUT_S = 5.0

M = TypeVar("M", bound=Message)


class BusVolunteerWorkers:
    """Each chat worker by its own subjects; see `VolunteerWorkers`."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus

    async def pop(self, worker: str, request: PopRequest) -> PopReply | None:
        """Jobs for a volunteer."""
        return await self._ask(subjects.volunteer_pop(worker), request, PopReply, TIMEOUT_S + request.wait_s)

    async def withdraw(self, worker: str, ticket: str) -> None:
        """Says that a volunteer left; a message that is lost leaves its job to its time limit."""
        try:
            await self._bus.publish(subjects.volunteer_withdraw(worker), WithdrawPop(ticket=ticket).encoded())
        except BusError:
            return

    async def submit(self, worker: str, request: SubmitRequest) -> SubmitReply | None:
        """What became of a text; raises ChatWorkerGone."""
        try:
            data = await self._bus.request(subjects.volunteer_submit(worker), request.encoded(), SUBMIT_TIMEOUT_S)
            return SubmitReply.model_validate_json(data)
        except NoResponders:
            raise ChatWorkerGone from None
        except (BusError, ValidationError):
            return None

    async def progress(self, worker: str, request: ProgressRequest) -> SubmitReply | None:
        """What became of a piece of a text."""
        return await self._ask(subjects.volunteer_progress(worker), request, SubmitReply, TIMEOUT_S)

    async def _ask(self, subject: str, request: Message, kind: type[M], timeout_s: float) -> M | None:
        try:
            return kind.model_validate_json(await self._bus.request(subject, request.encoded(), timeout_s))
        except (BusError, ValidationError):
            return None
