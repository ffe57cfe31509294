"""The quota service's requests over the bus, for edges and workers."""

import logging
import time
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
    """Sends requests to the quota service's queue group, which may be silent for `timeout_s`.

    `start` runs and owns the release of holds that were granted after that time. Where a process says that it waits for
    its store, up to `wait_s` are waited in all. With `retries` a request without an answer is sent again in this time.
    """

    def __init__(
        self,
        bus: Bus,
        timeout_s: float,
        start: Callable[[Coroutine[Any, Any, None], str], object],
        wait_s: float = 0.0,
        *,
        retries: bool = True,
    ) -> None:
        self._bus = bus
        self._timeout_s = timeout_s
        self._start = start
        self._wait_s = wait_s
        self._retries = retries

    async def reserve(self, request: ReserveRequest) -> ReserveReply | None:
        """Quota's decision, or None where there was none in time."""
        if self._wait_s:
            # Validation costs a third of the model's own copy.
            wait_s = min(self._wait_s, request.life_s)
            request = ReserveRequest.model_validate({**vars(request), "wait_s": wait_s})
        return await self._ask(subjects.QUOTA_RESERVE, request, ReserveReply, self._came_late)

    def reserve_later(self, request: ReserveRequest, on_end: Callable[[ReserveReply | None], None]) -> None:
        """Asks for a hold that no request waits for: `on_end` gets the decision, or None where there is none in time.

        It is asked once, and has `LATE_S`. What may have been granted without an answer is the caller's to take back.
        """

        def answered(answer: bytes | None) -> None:
            on_end(_read(subjects.QUOTA_RESERVE, answer, ReserveReply) if answer else None)

        try:
            self._bus.request_later(subjects.QUOTA_RESERVE, request.whole(), answered, LATE_S)
        except BusError:
            on_end(None)

    async def release(self, hold: Hold) -> None:
        """Releases a hold; a hold that cannot be released expires."""
        if await self.ask(subjects.QUOTA_RELEASE, ReleaseRequest(hold=hold), ReleaseReply) is None:
            log.warning("release_unsent", extra={"request_id": hold.request_id})

    async def ask(self, subject: str, request: Message, reply: type[R]) -> R | None:
        """The answer to any other request to quota, all of which may be repeated, or None."""
        return await self._ask(subject, request, reply)

    async def _ask(
        self, subject: str, request: Message, reply: type[R], on_late: Callable[[bytes], None] | None = None
    ) -> R | None:
        answer = await self._answer(subject, request, on_late)
        return None if answer is None else _read(subject, answer, reply)

    async def _answer(self, subject: str, request: Message, on_late: Callable[[bytes], None] | None) -> bytes | None:
        wait_s = request.wait_s if isinstance(request, ReserveRequest) else self._wait_s
        until = time.monotonic() + wait_s
        while True:
            payload = request.whole()
            try:
                return await ask_service(
                    self._bus, subject, payload, self._timeout_s, on_late, LATE_S, max(0.0, until - time.monotonic())
                )
            except BusError as error:
                unheard = isinstance(error, NoResponders)
                if not self._retries or time.monotonic() >= until or not (unheard or _may_repeat(request)):
                    log.warning("quota_unreachable", extra={"reason": "nobody listens" if unheard else "no answer"})
                    return None
                if not unheard and isinstance(request, ReserveRequest):
                    # Somebody may have it, and may even have granted it to nobody's knowledge.
                    request = request.model_copy(
                        update={"repeat": request.repeat + 1, "wait_s": until - time.monotonic()}
                    )

    def _came_late(self, answer: bytes) -> None:
        if answer and (hold := ReserveReply.model_validate_json(answer).hold) is not None:
            log.info("late_hold_returned", extra={"request_id": hold.request_id})
            self._start(self.release(hold), "return-late")


def _read(subject: str, answer: bytes, reply: type[R]) -> R | None:
    try:
        return reply.model_validate_json(answer)
    except ValidationError:
        log.warning("quota_answer_malformed", extra={"subject": subject})
        return None


def _may_repeat(request: Message) -> bool:
    """Whether a request that somebody may have can be sent again; one of several extensions could not be found."""
    return not isinstance(request, ReserveRequest) or request.extends is None
