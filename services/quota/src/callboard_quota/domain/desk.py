"""Answers reservations: who asks, which limits apply, what the work costs, and what the client is told."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
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
from callboard_quota.domain.attempt import Ask, Refused, Standing
from callboard_quota.domain.ledger import Ledger
from callboard_quota.domain.limits import Limit, Party, account_party, address_party, kudos_limit, shared_parties
from callboard_quota.domain.places import WaitingRoom
from callboard_quota.domain.ports import AccountStore, Clock, Journal
from callboard_quota.domain.tenants import ANONYMOUS, Secret
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


@dataclass(frozen=True, slots=True)
class _Caller:
    """Who answers for a request: the first party is charged and named as the tenant."""

    tenant: str
    tier: str
    parties: tuple[Party, ...]


class Desk:
    """Decides; `settings` may be replaced at any time and counts from the next decision on."""

    def __init__(
        self,
        settings: QuotaSection,
        secret: Secret,
        accounts: AccountStore,
        ledger: Ledger,
        clock: Clock,
        journal: Journal,
        places: WaitingRoom,
    ) -> None:
        self.settings = settings
        self._secret = secret
        self._accounts = accounts
        self._ledger = ledger
        self._clock = clock
        self._journal = journal
        self._places = places

    async def reserve(self, request: ReserveRequest) -> ReserveReply:
        """Grants or refuses a hold; raises StoreUnavailable when neither can be said."""
        tenant = ANONYMOUS
        try:
            _check(request, self.settings.lease_margin_s)
            caller = await self._payer(request)
            tenant = caller.tenant
            if request.kudos and (request.top_up or caller.parties[0].scope != "key"):
                raise _invalid("kudos", "only an account has kudos, and a top-up takes none")
            ask = self._ask(request, caller)
        except RefusedRequest as refused:
            self._note(request, "refused", tenant, reason=refused.info.code.value)
            return ReserveReply(tenant=tenant, error=refused.info)
        outcome = await self._ledger.reserve(ask)
        if isinstance(outcome, Refused):
            outcome = await self._places.wait(ask, outcome)
        if isinstance(outcome, Refused):
            label = outcome.standing.limit.label
            states = () if label == KUDOS_LABEL else (_state(outcome.standing),)
            self._note(request, "refused", tenant, reason=label, units=_units(ask))
            return ReserveReply(tenant=tenant, error=_exceeded(outcome), states=states)
        self._note(request, "admitted", tenant, hold=outcome.hold, units=_units(ask))
        return ReserveReply(tenant=tenant, hold=outcome.hold, states=tuple(map(_state, outcome.standings)))

    async def identify(self, request: IdentifyRequest) -> IdentifyReply:
        """Says who a caller is; raises StoreUnavailable."""
        try:
            caller = await self._caller(request.key_digest, request.address)
        except RefusedRequest as refused:
            return IdentifyReply(error=refused.info)
        return IdentifyReply(tenant=caller.tenant, tier=caller.tier)

    async def usage(self, request: UsageRequest) -> UsageReply:
        """Says what a caller has used and where the caller's limits stand; raises StoreUnavailable."""
        try:
            caller = await self._caller(request.key_digest, request.address)
        except RefusedRequest as refused:
            return UsageReply(error=refused.info)
        payer = caller.parties[0]
        spans = [Limit(payer.scope, payer.tenant, name, 0) for name in ("tokens_per_day", "tokens_per_month")]
        limits = _strictest(limit for party in caller.parties for limit in party.limits())
        day, month, *standings = await self._ledger.standings([*spans, *limits])
        return UsageReply(
            tenant=caller.tenant,
            tier=caller.tier,
            tokens_last_day=day.used // UNITS_PER_TOKEN,
            tokens_this_month=month.used // UNITS_PER_TOKEN,
            limits=tuple(_state(standing) for standing in standings),
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
            self._journal.count(ended.fate)
        else:
            self._note_ignored(hold, "settled_before")
        return ReleaseReply(settled=ended.first)

    async def _payer(self, request: ReserveRequest) -> _Caller:
        if request.top_up is None:
            return await self._caller(request.key_digest, request.address)
        hold = request.top_up
        if not self._secret.is_ours(hold) or hold.request_id != request.request_id:
            raise _invalid("top_up", "the hold to top up is not one of this request")
        parties: list[Party] = []
        for tenant in dict.fromkeys(entry.tenant for entry in hold.entries if entry.metric == "units"):
            if tenant.startswith("k_"):
                account = await self._accounts.by_id(tenant)
                parties += [account_party(self.settings, account)] if account else []
            elif tenant.startswith("i_"):
                parties.append(address_party(self.settings, tenant, anonymous=tenant == hold.tenant))
        return _Caller(hold.tenant, "", tuple(parties) or (Party("address", hold.tenant, ()),))

    async def _caller(self, digest: str | None, address: str | None) -> _Caller:
        parties: list[Party] = []
        tier = self.settings.anonymous_tier
        if digest is not None:
            account = await self._account(digest)
            parties.append(account_party(self.settings, account))
            tier = account.tier
        elif self.settings.require_key:
            raise RefusedRequest(ErrorInfo(code=ErrorCode.INVALID_API_KEY, message="An API key is required."))
        if address is not None:
            try:
                tenant = self._secret.address_tenant(address)
            except ValueError:
                raise _invalid("address", "not an IP address") from None
            if digest is None or self.settings.address_tier:
                parties.append(address_party(self.settings, tenant, anonymous=digest is None))
        if not parties:
            parties.append(address_party(self.settings, ANONYMOUS, anonymous=True))
        return _Caller(parties[0].tenant, tier, tuple(parties))

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

    def _ask(self, request: ReserveRequest, caller: _Caller) -> Ask:
        rates = request.top_up.rates if request.top_up else rates_of(self.settings.weights, request.model)
        units = cost(request.work, rates)
        parties = [*caller.parties, *shared_parties(self.settings, request.model)]
        limits = [limit for party in parties for limit in party.limits()]
        if request.top_up is not None:
            limits = [limit for limit in limits if limit.metric == "units"]
        amounts: dict[tuple[str, Metric], int] = {(parties[0].tenant, "units"): units}
        for limit in limits:
            amounts[limit.tenant, limit.metric] = units if limit.metric == "units" else 1
        if request.kudos:
            limits.append(kudos_limit(caller.tenant))
            amounts[caller.tenant, "kudos"] = request.kudos
        return Ask(
            request_id=request.request_id,
            tenant=caller.tenant,
            kind=request.kind,
            model=request.model,
            amounts=tuple((tenant, metric, amount) for (tenant, metric), amount in amounts.items()),
            limits=_strictest(limits),
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


def _strictest(limits: Iterable[Limit]) -> tuple[Limit, ...]:
    """Where two tiers limit the same counter in the same way, the lower maximum is enough to look at."""
    chosen: dict[tuple[str, str], Limit] = {}
    for limit in limits:
        known = chosen.get((limit.tenant, limit.name))
        if known is None or limit.maximum < known.maximum:
            chosen[limit.tenant, limit.name] = limit
    return tuple(chosen.values())


def _units(ask: Ask) -> int:
    return next(amount for _tenant, metric, amount in ask.amounts if metric == "units")


def _invalid(param: str, message: str) -> RefusedRequest:
    return RefusedRequest(ErrorInfo(code=ErrorCode.INVALID_REQUEST, message=f"{param}: {message}", param=param))


def _bad_key(message: str) -> RefusedRequest:
    return RefusedRequest(ErrorInfo(code=ErrorCode.INVALID_API_KEY, message=message))


def _exceeded(refused: Refused) -> ErrorInfo:
    limit = refused.standing.limit
    if limit.label == KUDOS_LABEL:
        return ErrorInfo(
            code=ErrorCode.QUOTA_EXCEEDED,
            message=f"The account has {-refused.standing.used / KUDOS_SCALE:g} kudos, fewer than this may cost.",
            limit=limit.label,
        )
    what = f"The limit of {_SCOPE_TEXT[limit.scope]} for {_LIMIT_TEXT[limit.name]}"
    allowed = limit.maximum // limit.client_factor
    if refused.retry_after_s is None:
        message = f"{what} ({allowed}) is lower than what this request may need."
    else:
        message = f"{what} ({allowed}) is reached."
    return ErrorInfo(
        code=ErrorCode.QUOTA_EXCEEDED, message=message, limit=limit.label, retry_after_s=refused.retry_after_s
    )


def _state(standing: Standing) -> LimitState:
    limit = standing.limit
    left = max(0, limit.maximum - standing.used)
    return LimitState(
        limit=limit.label,
        allowed=limit.maximum // limit.client_factor,
        remaining=math.floor(left / limit.client_factor),
        resets_in_s=standing.resets_in_s,
    )
