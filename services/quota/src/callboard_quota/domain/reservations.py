"""Answers reservations: who asks, which limits apply, what the work costs, and what the client is told."""

import math
from typing import Literal

from callboard_contracts.accounts import Account
from callboard_contracts.config import QuotaSection
from callboard_contracts.errors import ErrorCode, ErrorInfo
from callboard_contracts.kudos import KUDOS_SCALE
from callboard_contracts.quota import (
    UNITS_PER_TOKEN,
    AuditEvent,
    Hold,
    IdentifyReply,
    IdentifyRequest,
    LimitState,
    ReleaseReply,
    ReleaseRequest,
    ReserveReply,
    ReserveRequest,
    UsageReply,
    UsageRequest,
)
from callboard_contracts.streams import LEASE_LIFE_S
from callboard_contracts.subjects import token
from callboard_quota.domain.amounts import cost, held_units, is_sane, rates_of
from callboard_quota.domain.concurrency import ConcurrencyWait
from callboard_quota.domain.decision import HoldRequest, LimitUsage, Refused
from callboard_quota.domain.ledger import Ledger
from callboard_quota.domain.limits import Limit, LimitPolicy, LimitSet, kudos_limit
from callboard_quota.domain.ports import AccountStore, Clock, Journal
from callboard_quota.domain.tenants import ACCOUNT_MARK, ADDRESS_MARK, ANONYMOUS, Secret
from callboard_quota.domain.windows import Metric

_LIMIT_TEXT = {
    "tokens_per_day": "the tokens of 24 hours",
    "tokens_per_month": "the tokens of the month",
    "requests_per_minute": "the requests of a minute",
    "jobs_at_once": "the jobs at one time",
}
KUDOS_LABEL = "key.kudos"
_SCOPE_TEXT = {
    "key": "this API key",
    "address": "this address",
    "model": "this model",
    "site": "the whole site",
}


class RefusedRequest(Exception):  # noqa: N818 - a decision, not a failure
    """The request cannot be decided on; carries what the client is told."""

    def __init__(self, info: ErrorInfo) -> None:
        super().__init__(info.message)
        self.info = info


class ReservationService:
    """Decides; `settings` may be replaced at any time and counts from the next decision on."""

    def __init__(
        self,
        settings: QuotaSection,
        secret: Secret,
        accounts: AccountStore,
        ledger: Ledger,
        clock: Clock,
        journal: Journal,
        places: ConcurrencyWait,
    ) -> None:
        self._secret = secret
        self._accounts = accounts
        self._ledger = ledger
        self._clock = clock
        self._journal = journal
        self._places = places
        self.settings = settings

    @property
    def settings(self) -> QuotaSection:
        """What the site has set."""
        return self._settings

    @settings.setter
    def settings(self, settings: QuotaSection) -> None:
        self._settings = settings
        self._rules = LimitPolicy(settings)

    async def reserve(self, request: ReserveRequest) -> ReserveReply:
        """Grants or refuses a hold; raises StoreUnavailable when neither can be said."""
        tenant = ANONYMOUS
        try:
            _check(request, self.settings.lease_margin_s)
            limit_set = await self._terms(request)
            tenant = limit_set.tenant
            if request.kudos and (request.extends or limit_set.scope != "key"):
                raise _invalid("kudos", "only an account has kudos, and a extension takes none")
            ask = self._ask(request, limit_set)
        except RefusedRequest as refused:
            self._note(request, "refused", tenant, reason=refused.info.code.value)
            return ReserveReply(tenant=tenant, error=refused.info)
        outcome = await self._ledger.reserve(ask)
        if isinstance(outcome, Refused):
            outcome = await self._places.wait(ask, outcome)
        if isinstance(outcome, Refused):
            label = outcome.limit_usage.limit.label
            states = () if label == KUDOS_LABEL else (_state(outcome.limit_usage),)
            self._note(request, "refused", tenant, reason=label, units=_units(ask))
            return ReserveReply(tenant=tenant, error=_exceeded(outcome), states=states)
        self._note(request, "admitted", tenant, hold=outcome.hold, units=_units(ask))
        return ReserveReply(tenant=tenant, hold=outcome.hold, states=tuple(map(_state, outcome.limit_usages)))

    async def identify(self, request: IdentifyRequest) -> IdentifyReply:
        """Says who a caller is; raises StoreUnavailable."""
        try:
            limit_set = await self._of_caller(request.key_digest, request.address)
        except RefusedRequest as refused:
            return IdentifyReply(error=refused.info)
        return IdentifyReply(tenant=limit_set.tenant, tier=limit_set.tier)

    async def usage(self, request: UsageRequest) -> UsageReply:
        """Says what a caller has used and where the caller's limits stand; raises StoreUnavailable."""
        try:
            limit_set = await self._of_caller(request.key_digest, request.address)
        except RefusedRequest as refused:
            return UsageReply(error=refused.info)
        spans = [Limit(limit_set.scope, limit_set.tenant, name, 0) for name in ("tokens_per_day", "tokens_per_month")]
        day, month, *limit_usages = await self._ledger.limit_usages([*spans, *limit_set.limits])
        return UsageReply(
            tenant=limit_set.tenant,
            tier=limit_set.tier,
            tokens_last_day=day.used // UNITS_PER_TOKEN,
            tokens_this_month=month.used // UNITS_PER_TOKEN,
            limits=tuple(_state(limit_usage) for limit_usage in limit_usages),
        )

    async def release(self, request: ReleaseRequest) -> ReleaseReply:
        """Gives a hold back whole; a hold that quota did not grant, or that ended before, is left alone."""
        hold = request.hold
        if not self._secret.is_ours(hold):
            self._note_ignored(hold, "unknown_hold")
            return ReleaseReply(settled=False)
        if not self._ledger.can_settle(hold):
            self._note_ignored(hold, "too_late")
            return ReleaseReply(settled=False)
        ended = await self._ledger.release(hold)
        if ended.first:
            self._journal.count(ended.outcome)
        else:
            self._note_ignored(hold, "settled_before")
        return ReleaseReply(settled=ended.first)

    async def _terms(self, request: ReserveRequest) -> LimitSet:
        if request.extends is None:
            return await self._of_caller(request.key_digest, request.address, request.model)
        hold = request.extends
        if not self._secret.is_ours(hold) or hold.request_id != request.request_id:
            raise _invalid("extends", "the hold to top up is not one of this request")
        account: Account | None = None
        address: str | None = None
        for entry in hold.entries:
            if entry.tenant.startswith(ACCOUNT_MARK):
                account = account or await self._accounts.by_id(entry.tenant)
            elif entry.tenant.startswith((ADDRESS_MARK, ANONYMOUS)):
                address = entry.tenant
        return self._rules.extends(hold.tenant, account, address, request.model)

    async def _of_caller(self, digest: str | None, address: str | None, model: str | None = None) -> LimitSet:
        account: Account | None = None
        if digest is not None:
            account = await self._account(digest)
        elif self.settings.require_key:
            raise RefusedRequest(ErrorInfo(code=ErrorCode.INVALID_API_KEY, message="An API key is required."))
        try:
            tenant = None if address is None else self._secret.address_tenant(address)
        except ValueError:
            raise _invalid("address", "not an IP address") from None
        return self._rules.limit_set(account, tenant, model)

    async def _account(self, digest: str) -> Account:
        account = await self._accounts.by_digest(digest)
        key = account.key(digest) if account else None
        if account is None or key is None:
            raise _bad_key("The API key is not known.")
        if key.revoked_at is not None:
            raise _bad_key("The API key was revoked.")
        if not key.valid_at(self._clock.now()):
            raise _bad_key("The API key has expired.")
        return account

    def _ask(self, request: ReserveRequest, limit_set: LimitSet) -> HoldRequest:
        rates = request.extends.rates if request.extends else rates_of(self.settings.weights, request.model)
        units = cost(request.work, rates)
        limits = limit_set.limits
        amounts: list[tuple[str, Metric, int]]
        amounts = [(tenant, metric, units if metric == "units" else 1) for tenant, metric in limit_set.counted]
        if request.kudos:
            limits += (kudos_limit(limit_set.tenant),)
            amounts.append((limit_set.tenant, "kudos", request.kudos))
        return HoldRequest(
            request_id=request.request_id,
            tenant=limit_set.tenant,
            kind=request.kind,
            model=request.model,
            amounts=tuple(amounts),
            limits=limits,
            rates=rates,
            expires_at=self._clock.now() + request.life_s + self.settings.lease_margin_s,
        )

    def _note(
        self,
        request: ReserveRequest,
        kind: Literal["admitted", "refused"],
        tenant: str,
        *,
        reason: str = "",
        units: int = 0,
        hold: Hold | None = None,
    ) -> None:
        self._journal.note(
            AuditEvent(
                kind=kind,
                request_id=request.request_id,
                hold_id=hold.id if hold else "",
                tenant=tenant,
                work=request.kind,
                model=request.model,
                units=units,
                reason=reason,
                at=self._clock.now(),
            )
        )

    def _note_ignored(self, hold: Hold, reason: str) -> None:
        self._journal.note(
            AuditEvent(
                kind="ignored",
                request_id=hold.request_id,
                hold_id=hold.id,
                tenant=hold.tenant,
                work=hold.kind,
                model=hold.model,
                units=held_units(hold),
                reason=reason,
                at=self._clock.now(),
            )
        )


def _check(request: ReserveRequest, margin_s: float) -> None:
    try:
        token(request.request_id)
    except ValueError:
        raise _invalid("request_id", "not a request id") from None
    if not is_sane(request.work):
        raise _invalid("work", "the amount of work is beyond any limit")
    if request.life_s + margin_s > LEASE_LIFE_S:
        raise _invalid("life_s", f"a hold lives at most {LEASE_LIFE_S - margin_s:.0f} s")


def _units(ask: HoldRequest) -> int:
    return next(amount for _tenant, metric, amount in ask.amounts if metric == "units")


def _invalid(param: str, message: str) -> RefusedRequest:
    return RefusedRequest(ErrorInfo(code=ErrorCode.INVALID_REQUEST, message=f"{param}: {message}", param=param))


def _bad_key(message: str) -> RefusedRequest:
    return RefusedRequest(ErrorInfo(code=ErrorCode.INVALID_API_KEY, message=message))


def _exceeded(refused: Refused) -> ErrorInfo:
    limit = refused.limit_usage.limit
    if limit.label == KUDOS_LABEL:
        # What others hold at the same moment may be more than there is, until some of them are refused too.
        left = max(0, -refused.limit_usage.used) / KUDOS_SCALE
        message = f"The account has {left:g} kudos, fewer than this may cost."
        return ErrorInfo(code=ErrorCode.QUOTA_EXCEEDED, message=message, limit=limit.label)
    what = f"The limit of {_SCOPE_TEXT[limit.scope]} for {_LIMIT_TEXT[limit.name]}"
    allowed = limit.maximum // limit.client_factor
    if refused.retry_after_s is None:
        message = f"{what} ({allowed}) is lower than what this request may need."
    else:
        message = f"{what} ({allowed}) is reached."
    return ErrorInfo(
        code=ErrorCode.QUOTA_EXCEEDED, message=message, limit=limit.label, retry_after_s=refused.retry_after_s
    )


def _state(limit_usage: LimitUsage) -> LimitState:
    limit = limit_usage.limit
    left = max(0, limit.maximum - limit_usage.used)
    return LimitState(
        limit=limit.label,
        allowed=limit.maximum // limit.client_factor,
        remaining=math.floor(left / limit.client_factor),
        resets_in_s=limit_usage.resets_in_s,
    )
