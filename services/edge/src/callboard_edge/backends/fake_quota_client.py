"""Quota in memory; it behaves as that on the bus, and fails on demand."""

import asyncio
from collections.abc import Callable

from callboard_contracts.errors import ErrorCode, ErrorInfo
from callboard_contracts.kudos import KUDOS_METRIC, KudosReply, KudosTransferRequest, KudosUptimeRequest
from callboard_contracts.quota import (
    Hold,
    HoldEntry,
    IdentifyReply,
    IdentifyRequest,
    LimitState,
    ReserveReply,
    ReserveRequest,
    UsageReply,
    UsageRequest,
    WorkKind,
)

TENANT = "anonymous"
LEASE_MARGIN_S = 30.0
KEY_REQUIRED = ErrorInfo(code=ErrorCode.INVALID_API_KEY, message="An API key is required.")


class FakeQuotaClient:
    """Grants every hold, unless told to refuse or to be away; keeps count of what is held."""

    def __init__(self) -> None:
        self.refusal: ErrorInfo | None = None
        self.refused_kind: WorkKind | None = None
        """The one kind of work that is refused, or None for all."""
        self.states: tuple[LimitState, ...] = ()
        self.require_key = False
        self.delay_s = 0.0
        self.asked: list[ReserveRequest] = []
        self.asking: set[asyncio.Task[ReserveReply]] = set()
        """Requests for holds that no request waits for."""
        self.identified: list[IdentifyRequest] = []
        self.held: dict[str, Hold] = {}
        self.released: list[str] = []
        self.accounts: dict[str, str] = {}
        """The accounts of keys, by the keys' digests; all other callers are one tenant."""
        self.balances: dict[str, int] = {}
        self.uptimes: dict[tuple[str, int], KudosUptimeRequest] = {}
        self.transfers: dict[str, KudosTransferRequest] = {}

    async def reserve(self, request: ReserveRequest) -> ReserveReply:
        """Takes a hold, or says why not."""
        self.asked.append(request)
        await asyncio.sleep(self.delay_s)
        if self.refusal is not None and self.refused_kind in (None, request.kind):
            return ReserveReply(error=self.refusal, states=self.states)
        account = self.accounts.get(request.key_digest or "", TENANT)
        kudos = request.kudos
        if kudos > self.balances.get(account, 0):
            if not request.kudos_if_any:
                error = ErrorInfo(code=ErrorCode.QUOTA_EXCEEDED, message="The account has fewer.", limit="key.kudos")
                return ReserveReply(error=error)
            kudos = self.balances.get(account, 0)
        if kudos:
            self.balances[account] -= kudos
        hold = Hold(
            id=request.request_id,
            request_id=request.request_id,
            tenant=TENANT,
            kind=request.kind,
            model=request.model,
            entries=(HoldEntry(tenant=account, metric=KUDOS_METRIC, bucket="ever", amount=kudos),) if kudos else (),
            expires_at=request.life_s + LEASE_MARGIN_S,
        )
        self.held[request.request_id] = hold
        return ReserveReply(tenant=TENANT, hold=hold, states=self.states)

    def reserve_later(self, request: ReserveRequest, on_end: Callable[[ReserveReply | None], None]) -> None:
        """Takes a hold that no request waits for."""

        def ended(asking: asyncio.Task[ReserveReply]) -> None:
            self.asking.discard(asking)
            on_end(asking.result())

        asking = asyncio.ensure_future(self.reserve(request))
        self.asking.add(asking)
        asking.add_done_callback(ended)

    async def release(self, hold: Hold) -> None:
        """Gives a hold back."""
        if self.held.pop(hold.request_id, None) is not None:
            for entry in hold.entries:
                self.balances[entry.tenant] += entry.amount
            self.released.append(hold.request_id)

    async def usage(self, request: UsageRequest) -> UsageReply:
        """Says that as many tokens were used as requests were granted."""
        self.identified.append(IdentifyRequest(key_digest=request.key_digest, address=request.address))
        used = len(self.asked)
        return UsageReply(
            tenant=TENANT,
            tier="standard",
            tokens_last_day=used,
            tokens_this_month=used,
            limits=self.states,
            error=self.refusal,
        )

    async def kudos(self, account: str) -> KudosReply:
        """Says what an account has."""
        if account not in self.balances:
            error = ErrorInfo(code=ErrorCode.INVALID_REQUEST, message="account: no such account", param="account")
            return KudosReply(error=error)
        return KudosReply(account=account, name="ada", balance=self.balances[account])

    async def pay_uptime(self, request: KudosUptimeRequest) -> KudosReply:
        """Pays a volunteer, once for a period."""
        self.uptimes[request.worker, request.period] = request
        return KudosReply(account=request.account)

    async def transfer_kudos(self, request: KudosTransferRequest) -> KudosReply:
        """Moves kudos, once for each id."""
        repeated = request.id in self.transfers
        if not repeated:
            if request.target not in self.balances:
                error = ErrorInfo(code=ErrorCode.INVALID_REQUEST, message="target: no such account", param="target")
                return KudosReply(error=error)
            if self.balances.get(request.source, 0) < request.amount:
                error = ErrorInfo(code=ErrorCode.QUOTA_EXCEEDED, message="The account has fewer kudos.", limit="kudos")
                return KudosReply(error=error)
            self.balances[request.source] -= request.amount
            self.balances[request.target] += request.amount
            self.transfers[request.id] = request
        return KudosReply(account=request.source, balance=self.balances[request.source], repeated=repeated)

    async def check_caller(self, key_digest: str | None) -> ErrorInfo | None:
        """Lets everybody in, unless keys are required."""
        return KEY_REQUIRED if self.require_key and key_digest is None else None

    async def identify(self, request: IdentifyRequest) -> IdentifyReply:
        """Says who a caller is."""
        self.identified.append(request)
        tenant = self.accounts.get(request.key_digest or "", TENANT)
        return IdentifyReply(tenant=tenant, tier="standard", error=self.refusal)
