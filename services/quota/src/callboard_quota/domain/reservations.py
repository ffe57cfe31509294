"""Answers reservations: who asks, which limits apply, what the work costs, and what the client is told."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Literal, get_args

from callboard_contracts.accounts import Account
from callboard_contracts.config import QuotaSection
from callboard_contracts.errors import ErrorCode, ErrorInfo
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
    WorkKind,
)
from callboard_contracts.streams import LEASE_LIFE_S
from callboard_contracts.subjects import token
from callboard_quota.domain.amounts import cost, is_plausible, rates_of
from callboard_quota.domain.changes import audit_event
from callboard_quota.domain.concurrency import ConcurrencyWait
from callboard_quota.domain.decision import Granted, HoldRequest, LimitUsage, Refused
from callboard_quota.domain.ledger import Ledger
from callboard_quota.domain.limit_kinds import KUDOS, TOKENS_PER_DAY, TOKENS_PER_MONTH
from callboard_quota.domain.limits import Limit, LimitPolicy, LimitSet, kudos_limit
from callboard_quota.domain.ports import AccountStore, Clock, Journal, OutcomeUnknown, StoreUnavailable
from callboard_quota.domain.tenants import ACCOUNT_MARK, ADDRESS_MARK, ANONYMOUS, Secret
from callboard_quota.domain.windows import DECISION_LIFE_S

STORE_RETRY_S = 0.1
KUDOS_ATTEMPTS = 3
"""How often the kudos of an account are read anew where others spend them meanwhile; then none are held."""


class RefusedRequest(Exception):  # noqa: N818 - a decision, not a failure
    """The request cannot be decided on; carries what the client is told."""

    def __init__(self, info: ErrorInfo) -> None:
        super().__init__(info.message)
        self.info = info


class ReservationService:
    """Decides under `settings`, which may be replaced at any time; every method raises StoreUnavailable."""

    def __init__(
        self,
        settings: QuotaSection,
        secret: Secret,
        accounts: AccountStore,
        ledger: Ledger,
        clock: Clock,
        journal: Journal,
        concurrency_wait: ConcurrencyWait,
        pause: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._secret = secret
        self._accounts = accounts
        self._ledger = ledger
        self._clock = clock
        self._journal = journal
        self._concurrency_wait = concurrency_wait
        self._pause = pause
        self.settings = settings

    @property
    def settings(self) -> QuotaSection:
        """What the site has set."""
        return self._settings

    @settings.setter
    def settings(self, settings: QuotaSection) -> None:
        self._settings = settings
        self._policy = LimitPolicy(settings)
        models = ("", *settings.weights.model_factors)
        self._rates = {
            (model, kind): rates_of(settings.weights, model, kind) for model in models for kind in get_args(WorkKind)
        }
        """By model and kind of work; under no name, those of every model that is not named in the settings."""

    async def reserve(self, request: ReserveRequest) -> ReserveReply:
        """Grants or refuses a hold; for as long as the sender waits, a store that elects a leader is waited for."""
        now, left_s = self._clock.now(), request.wait_s
        until = now + left_s
        while True:
            try:
                return await self._reserve(request, now, max(DECISION_LIFE_S, left_s))
            except OutcomeUnknown:
                raise
            except StoreUnavailable:
                if left_s <= STORE_RETRY_S:
                    raise
            await self._pause(STORE_RETRY_S)
            now = self._clock.now()
            left_s = until - now

    async def _reserve(self, request: ReserveRequest, now: float, confirm_timeout_s: float) -> ReserveReply:
        tenant = ANONYMOUS
        try:
            _check(request, self.settings.lease_margin_s)
            limit_set = await self._limit_set(request, now)
            tenant = limit_set.tenant
            if request.kudos and (request.extends or limit_set.scope != "key"):
                if request.extends or not request.kudos_if_any:
                    raise _invalid("kudos", "only an account has kudos, and an extension takes none")
                request = request.model_copy(update={"kudos": 0})
            hold_request = self._hold_request(request, limit_set, now, confirm_timeout_s, request.kudos)
        except RefusedRequest as refused:
            self._record(request, "refused", tenant, reason=refused.info.code.value)
            return ReserveReply(tenant=tenant, error=refused.info)
        if request.repeat and request.extends is None:
            await self._ledger.take_back(tenant, request.request_id, request.repeat)
        if request.kudos and request.kudos_if_any:
            hold_request, outcome = await self._reserve_if_any(request, limit_set, now, confirm_timeout_s)
        else:
            outcome = await self._ledger.reserve(hold_request)
        if isinstance(outcome, Refused):
            outcome = await self._concurrency_wait.wait(hold_request, outcome)
        if isinstance(outcome, Refused):
            limit = outcome.limit_usage.limit
            states = () if limit.kind.is_balance else (_state(outcome.limit_usage),)
            self._record(request, "refused", tenant, reason=limit.label, units=hold_request.units)
            return ReserveReply(tenant=tenant, error=_exceeded(outcome), states=states)
        self._record(request, "admitted", tenant, hold_id=outcome.hold.id, units=hold_request.units)
        return ReserveReply(tenant=tenant, hold=outcome.hold, states=tuple(map(_state, outcome.limit_usages)))

    async def _reserve_if_any(
        self, request: ReserveRequest, limit_set: LimitSet, now: float, confirm_timeout_s: float
    ) -> tuple[HoldRequest, Granted | Refused]:
        """Reserves with as many of the kudos as the account has; others may take some of them at the same moment."""
        for _ in range(KUDOS_ATTEMPTS):
            kudos = min(request.kudos, max(0, await self._ledger.kudos(limit_set.tenant)))
            hold_request = self._hold_request(request, limit_set, now, confirm_timeout_s, kudos)
            outcome = await self._ledger.reserve(hold_request)
            if isinstance(outcome, Granted) or not outcome.limit_usage.limit.kind.is_balance:
                return hold_request, outcome
        hold_request = self._hold_request(request, limit_set, now, confirm_timeout_s, 0)
        return hold_request, await self._ledger.reserve(hold_request)

    async def identify(self, request: IdentifyRequest) -> IdentifyReply:
        """Says who a caller is."""
        try:
            limit_set = await self._limits_of_caller(request.key_digest, request.address, self._clock.now())
        except RefusedRequest as refused:
            return IdentifyReply(error=refused.info)
        return IdentifyReply(tenant=limit_set.tenant, tier=limit_set.tier)

    async def usage(self, request: UsageRequest) -> UsageReply:
        """Says what a caller has used and where the caller's limits stand."""
        try:
            limit_set = await self._limits_of_caller(request.key_digest, request.address, self._clock.now())
        except RefusedRequest as refused:
            return UsageReply(error=refused.info)
        periods = [Limit(limit_set.scope, limit_set.tenant, kind, 0) for kind in (TOKENS_PER_DAY, TOKENS_PER_MONTH)]
        day, month, *limit_usages = await self._ledger.limit_usages([*periods, *limit_set.limits])
        return UsageReply(
            tenant=limit_set.tenant,
            tier=limit_set.tier,
            tokens_last_day=day.used // UNITS_PER_TOKEN,
            tokens_this_month=month.used // UNITS_PER_TOKEN,
            limits=tuple(map(_state, limit_usages)),
        )

    async def release(self, request: ReleaseRequest) -> ReleaseReply:
        """Gives a hold back whole; a hold that quota did not grant, or that ended before, is left alone."""
        hold = request.hold
        if not self._secret.is_ours(hold):
            return self._not_released(hold, "unknown_hold")
        if not self._ledger.can_settle(hold):
            return self._not_released(hold, "too_late")
        ended = await self._ledger.release(hold)
        if not ended.first:
            return self._not_released(hold, "settled_before")
        self._journal.count([ended.outcome])
        return ReleaseReply(settled=True)

    async def _limit_set(self, request: ReserveRequest, now: float) -> LimitSet:
        if request.extends is None:
            return await self._limits_of_caller(request.key_digest, request.address, now, request.model, request.kind)
        hold = request.extends
        if not self._secret.is_ours(hold) or hold.request_id != request.request_id:
            raise _invalid("extends", "the hold to extend is not one of this request")
        account: Account | None = None
        address: str | None = None
        for entry in hold.entries:
            if entry.tenant.startswith(ACCOUNT_MARK):
                account = account or await self._accounts.by_id(entry.tenant)
            elif entry.tenant.startswith((ADDRESS_MARK, ANONYMOUS)):
                address = entry.tenant
        return self._policy.limits_of_extension(hold.tenant, account, address, request.model, request.kind)

    async def _limits_of_caller(
        self,
        digest: str | None,
        address: str | None,
        now: float,
        model: str | None = None,
        kind: WorkKind | None = None,
    ) -> LimitSet:
        account: Account | None = None
        if digest is not None:
            account = await self._account(digest, now)
        elif self.settings.require_key:
            raise _bad_key("An API key is required.")
        try:
            tenant = None if address is None else self._secret.address_tenant(address)
        except ValueError:
            raise _invalid("address", "not an IP address") from None
        return self._policy.limits_of_caller(account, tenant, model, kind)

    async def _account(self, digest: str, now: float) -> Account:
        account = await self._accounts.by_digest(digest)
        key = account.key(digest) if account else None
        if account is None or key is None:
            raise _bad_key("The API key is not known.")
        if key.revoked_at is not None:
            raise _bad_key("The API key was revoked.")
        if not key.valid_at(now):
            raise _bad_key("The API key has expired.")
        return account

    def _hold_request(
        self, request: ReserveRequest, limit_set: LimitSet, now: float, confirm_timeout_s: float, kudos: int
    ) -> HoldRequest:
        if request.extends:
            rates = request.extends.rates
        else:
            rates = self._rates.get((request.model, request.kind)) or self._rates["", request.kind]
        costs = cost(request.work, rates, request.kind)
        limits = limit_set.limits
        amounts = {of: of[1].held(costs) for of in limit_set.counted}
        if kudos:
            limits += (kudos_limit(limit_set.tenant),)
            amounts[limit_set.tenant, KUDOS] = kudos
        return HoldRequest(
            request_id=request.request_id,
            tenant=limit_set.tenant,
            kind=request.kind,
            model=request.model,
            amounts=amounts,
            limits=limits,
            hourly=limit_set.hourly,
            rates=rates,
            expires_at=now + request.life_s + self.settings.lease_margin_s,
            confirm_timeout_s=confirm_timeout_s,
            repeat=request.repeat,
        )

    def _record(
        self,
        request: ReserveRequest,
        kind: Literal["admitted", "refused"],
        tenant: str,
        *,
        reason: str = "",
        units: int = 0,
        hold_id: str = "",
    ) -> None:
        self._journal.record(
            AuditEvent(
                kind=kind,
                request_id=request.request_id,
                hold_id=hold_id,
                tenant=tenant,
                work=request.kind,
                model=request.model,
                units=units,
                reason=reason,
                at=self._clock.now(),
            )
        )

    def _not_released(self, hold: Hold, reason: str) -> ReleaseReply:
        event = audit_event("ignored", hold, self._clock.now(), reason, units=hold.units or 0)
        self._journal.record(event)
        return ReleaseReply(settled=False)


def _check(request: ReserveRequest, margin_s: float) -> None:
    try:
        token(request.request_id)
    except ValueError:
        raise _invalid("request_id", "not a request id") from None
    if not is_plausible(request.work):
        raise _invalid("work", "the amount of work is beyond any limit")
    if request.life_s + margin_s > LEASE_LIFE_S:
        raise _invalid("life_s", f"a hold lives at most {LEASE_LIFE_S - margin_s:.0f} s")


def _invalid(param: str, message: str) -> RefusedRequest:
    return RefusedRequest(ErrorInfo(code=ErrorCode.INVALID_REQUEST, message=f"{param}: {message}", param=param))


def _bad_key(message: str) -> RefusedRequest:
    return RefusedRequest(ErrorInfo(code=ErrorCode.INVALID_API_KEY, message=message))


def _exceeded(refused: Refused) -> ErrorInfo:
    limit, retry_after_s = refused.limit_usage.limit, refused.retry_after_s
    return ErrorInfo(
        code=ErrorCode.QUOTA_EXCEEDED,
        message=limit.refusal(refused.limit_usage.used, may_fit_later=retry_after_s is not None),
        limit=limit.label,
        retry_after_s=retry_after_s,
    )


def _state(limit_usage: LimitUsage) -> LimitState:
    limit = limit_usage.limit
    return LimitState(
        limit=limit.label,
        allowed=limit.allowed,
        remaining=max(0, limit.maximum - limit_usage.used) // limit.kind.metric.client_factor,
        resets_in_s=limit_usage.resets_in_s,
    )
