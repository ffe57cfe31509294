"""Further holds for work that is under way, asked for over the bus."""

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any, TypeVar

from pydantic import ValidationError

from callboard_contracts import subjects
from callboard_contracts.errors import ErrorCode, ErrorInfo
from callboard_contracts.quota import Hold, ReleaseRequest, ReserveReply, ReserveRequest, Work
from callboard_kit.bus import Bus, BusError

log = logging.getLogger(__name__)

LATE_S = 15.0
"""How much longer than a decision may take its answer is waited for, so that a late hold can be given back."""
UNAVAILABLE = ErrorInfo(
    code=ErrorCode.QUOTA_UNAVAILABLE, message="The quota service did not answer; try again shortly."
)

T = TypeVar("T")


class BusTopUps:
    """Asks whichever quota process answers; it owns every question until its answer, whoever has stopped waiting."""

    def __init__(self, bus: Bus, timeout_s: float) -> None:
        self._bus = bus
        self._timeout_s = timeout_s
        self._tasks: set[asyncio.Task[Any]] = set()

    async def ask(self, hold: Hold, audio_ms: int, life_s: float) -> Hold | ErrorInfo:
        """Asks once; see `TopUps`."""
        request = ReserveRequest(
            request_id=hold.request_id,
            kind=hold.kind,
            model=hold.model,
            work=Work(audio_ms=audio_ms),
            life_s=life_s,
            top_up=hold,
        )
        asking = self._start(self._ask(request))
        try:
            return await asyncio.shield(asking)
        except asyncio.CancelledError:
            asking.add_done_callback(self._give_back_result)
            raise

    def give_back(self, hold: Hold) -> None:
        """Gives a hold back without anybody waiting for it."""
        self._start(self._release(hold))

    async def close(self, timeout_s: float) -> None:
        """Waits for what is under way, then ends the rest."""
        until = asyncio.get_running_loop().time() + timeout_s
        # An answer that comes in this time may call for one more step.
        while self._tasks and (left_s := until - asyncio.get_running_loop().time()) > 0:
            await asyncio.wait(set(self._tasks), timeout=left_s)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _ask(self, request: ReserveRequest) -> Hold | ErrorInfo:
        try:
            answer = await self._bus.request(
                subjects.QUOTA_RESERVE, request.model_dump_json().encode(), self._timeout_s, self._came_late, LATE_S
            )
            reply = ReserveReply.model_validate_json(answer)
        except BusError:
            return UNAVAILABLE
        except ValidationError:
            log.warning("quota_answer_malformed", extra={"request_id": request.request_id})
            return UNAVAILABLE
        return reply.hold or reply.error or UNAVAILABLE

    async def _release(self, hold: Hold) -> None:
        try:
            body = ReleaseRequest(hold=hold).model_dump_json().encode()
            await self._bus.request(subjects.QUOTA_RELEASE, body, self._timeout_s)
        except BusError:
            log.warning("release_unsent", extra={"request_id": hold.request_id})

    def _came_late(self, answer: bytes) -> None:
        if answer and (hold := ReserveReply.model_validate_json(answer).hold) is not None:
            log.info("late_hold_returned", extra={"request_id": hold.request_id})
            self.give_back(hold)

    def _give_back_result(self, asking: asyncio.Task[Hold | ErrorInfo]) -> None:
        if not asking.cancelled() and asking.exception() is None and isinstance(hold := asking.result(), Hold):
            self.give_back(hold)

    def _start(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        task = asyncio.get_running_loop().create_task(work, name="top-up")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task
