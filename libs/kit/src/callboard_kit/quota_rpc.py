"""The quota service's requests over the bus, for edges and workers."""

import logging
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from pydantic import ValidationError

from callboard_contracts import subjects
from callboard_contracts.errors import ErrorCode, ErrorInfo
from callboard_contracts.model import Message
from callboard_contracts.quota import Hold, ReleaseReply, ReleaseRequest, ReserveReply, ReserveRequest
from callboard_kit.bus import Bus, BusError, NoResponders
from callboard_kit.rpc import ask_service

log = logging.getLogger(__name__)

LATE_S = 15.0
"""How long after the timeout an answer is still taken, so that a late hold can be released."""
UNAVAILABLE = ErrorInfo(
    code=ErrorCode.QUOTA_UNAVAILABLE,
    message="The quota service did not answer; try again shortly.",
    retry_after_s=2.0,
)

R = TypeVar("R", bound=Message)


class QuotaRpc:
    """Sends requests to the quota service's queue group, each within `timeout_s`.

    `start` runs and owns the release of holds that were granted after that time.
    """

    def __init__(self, bus: Bus, timeout_s: float, start: Callable[[Coroutine[Any, Any, None], str], object]) -> None:
        self._bus = bus
        self._timeout_s = timeout_s
        self._start = start

    async def reserve(self, request: ReserveRequest) -> ReserveReply | None:
        """Quota's decision, or None where there was none in time."""
        return await self.ask(subjects.QUOTA_RESERVE, request, ReserveReply, self._came_late)

    async def release(self, hold: Hold) -> None:
        """Releases a hold; a hold that cannot be released expires."""
        if await self.ask(subjects.QUOTA_RELEASE, ReleaseRequest(hold=hold), ReleaseReply) is None:
            log.warning("release_unsent", extra={"request_id": hold.request_id})

    async def ask(
        self, subject: str, request: Message, reply: type[R], on_late: Callable[[bytes], None] | None = None
    ) -> R | None:
        """The answer to any request to quota, or None; `on_late` gets an answer that comes after the timeout."""
        answer = await self._answer(subject, request.model_dump_json().encode(), on_late)
        if answer is None:
            return None
        try:
            return reply.model_validate_json(answer)
        except ValidationError:
            log.warning("quota_answer_malformed", extra={"subject": subject})
            return None

    async def _answer(self, subject: str, payload: bytes, on_late: Callable[[bytes], None] | None) -> bytes | None:
        try:
            return await ask_service(self._bus, subject, payload, self._timeout_s, on_late, LATE_S)
        except BusError as error:
            reason = "nobody listens" if isinstance(error, NoResponders) else "no answer"
            log.warning("quota_unreachable", extra={"reason": reason})
            return None

    def _came_late(self, answer: bytes) -> None:
        if answer and (hold := ReserveReply.model_validate_json(answer).hold) is not None:
            log.info("late_hold_returned", extra={"request_id": hold.request_id})
            self._start(self.release(hold), "return-late")
