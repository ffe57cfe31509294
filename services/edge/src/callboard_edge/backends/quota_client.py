"""Quota, asked over the bus."""

import logging
from collections.abc import Callable
from typing import Literal

from cachetools import LRUCache

from callboard_contracts import subjects
from callboard_contracts.errors import ErrorCode, ErrorInfo
from callboard_contracts.kudos import KudosBalanceRequest, KudosReply, KudosTransferRequest, KudosUptimeRequest
from callboard_contracts.quota import (
    Hold,
    IdentifyReply,
    IdentifyRequest,
    ReserveReply,
    ReserveRequest,
    UsageReply,
    UsageRequest,
)
from callboard_kit.background_tasks import BackgroundTasks
from callboard_kit.bus import Bus
from callboard_kit.quota_rpc import UNAVAILABLE, QuotaRpc

log = logging.getLogger(__name__)

MAX_REMEMBERED_TENANTS = 10_000
ANONYMOUS = "anonymous"
KEY_REQUIRED = ErrorInfo(code=ErrorCode.INVALID_API_KEY, message="An API key is required.")


class BusQuotaClient:
    """Asks whichever quota process answers; where none does, decides as the site is configured."""

    def __init__(
        self,
        bus: Bus,
        background: BackgroundTasks,
        timeout_s: float,
        on_unreachable: Literal["refuse", "admit_and_settle"],
        on_admitted: Callable[[], None] = lambda: None,
        *,
        require_key: bool = False,
        wait_s: float = 0.0,
    ) -> None:
        # Where requests are admitted without quota, they are as soon as it is silent.
        self._line = QuotaRpc(bus, timeout_s, background.start, wait_s, retries=on_unreachable == "refuse")
        self._admits = on_unreachable == "admit_and_settle"
        self._require_key = require_key
        self._on_admitted = on_admitted
        self._tenants: LRUCache[str, str] = LRUCache(MAX_REMEMBERED_TENANTS)
        """The tenants of the keys and addresses that quota lately let in."""

    async def reserve(self, request: ReserveRequest) -> ReserveReply:
        """Takes a hold, or says why not."""
        caller = request.key_digest or request.address or ANONYMOUS
        reply = await self._line.reserve(request)
        if reply is not None:
            self._learn(caller, reply)
            return reply
        error = self._why_not(request.key_digest)
        if error is not None:
            return ReserveReply(error=error)
        log.warning("admitted_without_quota", extra={"request_id": request.request_id})
        self._on_admitted()
        return ReserveReply(tenant=self._tenants.get(caller, ANONYMOUS))

    def reserve_later(self, request: ReserveRequest, on_end: Callable[[ReserveReply | None], None]) -> None:
        """Asks for a hold that no request waits for; `on_end` gets None where quota does not answer."""

        def answered(reply: ReserveReply | None) -> None:
            if reply is not None:
                self._learn(request.key_digest or request.address or ANONYMOUS, reply)
            on_end(reply)

        self._line.reserve_later(request, answered)

    async def release(self, hold: Hold) -> None:
        """Gives a hold back; one that cannot be given back expires."""
        await self._line.release(hold)

    async def check_caller(self, key_digest: str | None) -> ErrorInfo | None:
        """Why a caller's request is not even read, or None; a key that was lately let in is not asked about again."""
        if not self._require_key:
            return None
        if key_digest is None:
            return KEY_REQUIRED
        if key_digest in self._tenants:
            return None
        return (await self.identify(IdentifyRequest(key_digest=key_digest))).error

    async def identify(self, request: IdentifyRequest) -> IdentifyReply:
        """Says who a caller is."""
        caller = request.key_digest or request.address or ANONYMOUS
        reply = await self._line.ask(subjects.QUOTA_IDENTIFY, request, IdentifyReply)
        if reply is not None:
            self._learn(caller, reply)
            return reply
        error = self._why_not(request.key_digest)
        if error is not None:
            return IdentifyReply(error=error)
        return IdentifyReply(tenant=self._tenants.get(caller, ANONYMOUS))

    async def usage(self, request: UsageRequest) -> UsageReply:
        """Says what a caller has used."""
        return await self._line.ask(subjects.QUOTA_USAGE, request, UsageReply) or UsageReply(error=UNAVAILABLE)

    async def kudos(self, account: str) -> KudosReply:
        """Says what an account is called and has in kudos."""
        request = KudosBalanceRequest(account=account)
        return await self._line.ask(subjects.QUOTA_KUDOS_SHOW, request, KudosReply) or KudosReply(error=UNAVAILABLE)

    async def pay_uptime(self, request: KudosUptimeRequest) -> KudosReply:
        """Pays a volunteer for having been there."""
        return await self._line.ask(subjects.QUOTA_KUDOS_UPTIME, request, KudosReply) or KudosReply(error=UNAVAILABLE)

    async def transfer_kudos(self, request: KudosTransferRequest) -> KudosReply:
        """Moves kudos."""
        return await self._line.ask(subjects.QUOTA_KUDOS_TRANSFER, request, KudosReply) or KudosReply(error=UNAVAILABLE)

    def _why_not(self, digest: str | None) -> ErrorInfo | None:
        """Why a caller is not let in while quota is away; where keys are required, only those that it let in are."""
        if not self._admits:
            return UNAVAILABLE
        if self._require_key and digest is None:
            return KEY_REQUIRED
        if self._require_key and digest not in self._tenants:
            return UNAVAILABLE
        return None

    def _learn(self, caller: str, reply: ReserveReply | IdentifyReply) -> None:
        if reply.error is None:
            self._tenants[caller] = reply.tenant
        elif reply.error.code is ErrorCode.INVALID_API_KEY:
            self._tenants.pop(caller, None)
