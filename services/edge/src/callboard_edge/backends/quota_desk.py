"""Quota, asked over the bus."""

import logging
from collections import OrderedDict
from collections.abc import Callable
from typing import Literal

from callboard_contracts import subjects
from callboard_contracts.quota import (
    Hold,
    IdentifyReply,
    IdentifyRequest,
    ReserveReply,
    ReserveRequest,
    UsageReply,
    UsageRequest,
)
from callboard_edge.domain.chores import Chores
from callboard_kit.bus import Bus
from callboard_kit.quota_line import UNAVAILABLE, QuotaLine

log = logging.getLogger(__name__)

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
        self._line = QuotaLine(bus, timeout_s, chores.start)
        self._admits = on_unreachable == "admit_and_settle"
        self._on_admitted = on_admitted
        self._tenants: OrderedDict[tuple[str | None, str | None], str] = OrderedDict()

    async def reserve(self, request: ReserveRequest) -> ReserveReply:
        """Takes a hold, or says why not."""
        caller = (request.key_digest, request.address)
        reply = await self._line.reserve(request)
        if reply is not None:
            if reply.error is None:
                self._remember(caller, reply.tenant)
            return reply
        if self._admits:
            log.warning("admitted_without_quota", extra={"request_id": request.request_id})
            self._on_admitted()
            return ReserveReply(tenant=self._tenants.get(caller, "anonymous"))
        return ReserveReply(error=UNAVAILABLE)

    async def release(self, hold: Hold) -> None:
        """Gives a hold back; one that cannot be given back expires."""
        await self._line.release(hold)

    async def identify(self, request: IdentifyRequest) -> IdentifyReply:
        """Says who a caller is."""
        reply = await self._line.ask(subjects.QUOTA_IDENTIFY, request, IdentifyReply)
        if reply is not None:
            return reply
        if self._admits:
            return IdentifyReply(tenant=self._tenants.get((request.key_digest, request.address), "anonymous"))
        return IdentifyReply(error=UNAVAILABLE)

    async def usage(self, request: UsageRequest) -> UsageReply:
        """Says what a caller has used."""
        return await self._line.ask(subjects.QUOTA_USAGE, request, UsageReply) or UsageReply(error=UNAVAILABLE)

    def _remember(self, caller: tuple[str | None, str | None], tenant: str) -> None:
        self._tenants[caller] = tenant
        self._tenants.move_to_end(caller)
        if len(self._tenants) > MAX_REMEMBERED_TENANTS:
            self._tenants.popitem(last=False)
