"""Quota, asked over the bus."""

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Callable
from typing import Literal

from pydantic import ValidationError

from callboard_contracts import subjects
from callboard_contracts.errors import ErrorCode, ErrorInfo
from callboard_contracts.quota import (
    Hold,
    IdentifyReply,
    IdentifyRequest,
    ReleaseRequest,
    ReserveReply,
    ReserveRequest,
    UsageReply,
    UsageRequest,
)
from callboard_edge.domain.chores import Chores
from callboard_kit.bus import Bus, BusUnavailable, NoResponders

log = logging.getLogger(__name__)

RETRY_S = 2.0
ASK_AGAIN_S = 0.1
LATE_S = 15.0
"""How much longer than a decision may take its answer is waited for, so that a late hold can be given back."""
MAX_REMEMBERED_TENANTS = 10_000


class BusQuotaDesk:
    """Asks whichever quota process answers; where none does, decides as the site is configured."""

    def __init__(
        self,
        bus: Bus,
        chores: Chores,
        timeout_s: float,
        on_unreachable: Literal["refuse", "admit_and_settle"],
        on_admitted: Callable[[], None] = lambda: None,
    ) -> None:
        self._bus = bus
        self._chores = chores
        self._timeout_s = timeout_s
        self._admits = on_unreachable == "admit_and_settle"
        self._on_admitted = on_admitted
        self._tenants: OrderedDict[tuple[str | None, str | None], str] = OrderedDict()

    async def reserve(self, request: ReserveRequest) -> ReserveReply:
        """Takes a hold, or says why not."""
        caller = (request.key_digest, request.address)
        answer = await self._ask(subjects.QUOTA_RESERVE, request.model_dump_json().encode(), self._return_late)
        if answer is not None:
            try:
                reply = ReserveReply.model_validate_json(answer)
            except ValidationError:
                log.warning("quota_answer_malformed", extra={"request_id": request.request_id})
            else:
                if reply.error is None:
                    self._remember(caller, reply.tenant)
                return reply
        if self._admits:
            log.warning("admitted_without_quota", extra={"request_id": request.request_id})
            self._on_admitted()
            return ReserveReply(tenant=self._tenants.get(caller, "anonymous"))
        return ReserveReply(error=_unavailable())

    async def release(self, hold: Hold) -> None:
        """Gives a hold back; one that cannot be given back expires."""
        answer = await self._ask(subjects.QUOTA_RELEASE, ReleaseRequest(hold=hold).model_dump_json().encode())
        if answer is None:
            log.warning("release_unsent", extra={"request_id": hold.request_id})

    async def identify(self, request: IdentifyRequest) -> IdentifyReply:
        """Says who a caller is."""
        answer = await self._ask(subjects.QUOTA_IDENTIFY, request.model_dump_json().encode())
        if answer is not None:
            try:
                return IdentifyReply.model_validate_json(answer)
            except ValidationError:
                log.warning("quota_answer_malformed")
        if self._admits:
            return IdentifyReply(tenant=self._tenants.get((request.key_digest, request.address), "anonymous"))
        return IdentifyReply(error=_unavailable())

    async def usage(self, request: UsageRequest) -> UsageReply:
        """Says what a caller has used."""
        answer = await self._ask(subjects.QUOTA_USAGE, request.model_dump_json().encode())
        if answer is not None:
            try:
                return UsageReply.model_validate_json(answer)
            except ValidationError:
                log.warning("quota_answer_malformed")
        return UsageReply(error=_unavailable())

    async def _ask(self, subject: str, payload: bytes, on_late: Callable[[bytes], None] | None = None) -> bytes | None:
        """Asks within the time for a decision; None when there is none, and `on_late` gets what still comes then."""
        loop = asyncio.get_running_loop()
        until = loop.time() + self._timeout_s
        while True:
            try:
                if self._bus.connected:
                    return await self._bus.request(subject, payload, self._timeout_s, on_late, LATE_S)
            except NoResponders:
                pass
            except BusUnavailable:
                log.warning("quota_unreachable", extra={"reason": "no answer"})
                return None
            # Nobody has the question, so asking again is safe; quota or the bus may be about to come back.
            if loop.time() + ASK_AGAIN_S >= until:
                log.warning("quota_unreachable", extra={"reason": "nobody listens"})
                return None
            await asyncio.sleep(ASK_AGAIN_S)

    def _return_late(self, answer: bytes) -> None:
        """Gives back a hold that was granted after the time for it."""
        if answer and (hold := ReserveReply.model_validate_json(answer).hold) is not None:
            log.info("late_hold_returned", extra={"request_id": hold.request_id})
            self._chores.start(self.release(hold), "return-late")

    def _remember(self, caller: tuple[str | None, str | None], tenant: str) -> None:
        self._tenants[caller] = tenant
        self._tenants.move_to_end(caller)
        if len(self._tenants) > MAX_REMEMBERED_TENANTS:
            self._tenants.popitem(last=False)


def _unavailable() -> ErrorInfo:
    return ErrorInfo(
        code=ErrorCode.QUOTA_UNAVAILABLE,
        message="The quota service did not answer; try again shortly.",
        retry_after_s=RETRY_S,
    )
