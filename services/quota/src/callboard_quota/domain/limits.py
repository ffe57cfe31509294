"""Which limits apply to a request, from the tiers of everyone who answers for it."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from cachetools import LRUCache

from callboard_contracts.accounts import Account
from callboard_contracts.config import LimitsSection, QuotaSection
from callboard_contracts.quota import WorkKind
from callboard_quota.domain.limit_kinds import BALANCE, HEARD, LIMIT_KINDS, UNITS, LimitKind, Metric
from callboard_quota.domain.tenants import ANONYMOUS, SITE, model_tenant

Scope = Literal["key", "address", "model", "site"]
MAX_CACHED = 1_000
_OWNERS: dict[Scope, str] = {
    "key": "this API key",
    "address": "this address",
    "model": "this model",
    "site": "the whole site",
}


@dataclass(frozen=True, slots=True)
class Limit:
    """One limit on one tenant; `maximum` is in the counter's measure, units for tokens."""

    scope: Scope
    tenant: str
    kind: LimitKind
    maximum: int

    @property
    def label(self) -> str:
        """The limit's name for clients and metrics, from a closed set."""
        return f"{self.scope}.{self.kind.name}"

    @property
    def allowed(self) -> int:
        """The maximum in the client's measure."""
        return self.maximum // self.kind.metric.client_factor

    def refusal(self, used: int, *, may_fit_later: bool) -> str:
        """What a client is told that is over the limit."""
        return self.kind.refusal(_OWNERS[self.scope], self.allowed, used, may_fit_later=may_fit_later)


def kudos_limit(account: str) -> Limit:
    """An account may not spend more than it has earned."""
    return Limit("key", account, BALANCE, 0)


@dataclass(frozen=True, slots=True)
class Principal:
    """Somebody who answers for a request, and the tiers whose limits apply to them."""

    scope: Scope
    tenant: str
    tiers: tuple[LimitsSection, ...]

    def limits(self) -> Iterable[Limit]:
        """Every limit that applies to this principal."""
        for tier in self.tiers:
            for kind in LIMIT_KINDS.values():
                maximum: int | None = None if kind.is_balance else getattr(tier, kind.name, None)
                if maximum is not None:
                    yield Limit(self.scope, self.tenant, kind, maximum * kind.metric.client_factor)


@dataclass(frozen=True, slots=True)
class LimitSet:
    """What a request is decided by.

    `tenant` is charged; it is an account's where `scope` is "key". `limits` are all that apply, and of several of one
    kind on one tenant only the lowest; `hourly` are the kinds among them that count earlier hours. `counted` are the
    tenants and metrics that requests count in.
    """

    tenant: str
    tier: str
    scope: Scope
    limits: tuple[Limit, ...]
    hourly: Mapping[tuple[str, Metric], frozenset[LimitKind]]
    counted: tuple[tuple[str, Metric], ...]


class LimitPolicy:
    """Finds the limits that apply to a request under the site's settings.

    Those of a caller are cached, because putting them together costs a sixth of a decision.
    """

    def __init__(self, settings: QuotaSection) -> None:
        self._settings = settings
        self._cached: LRUCache[
            tuple[str | None, str | None, str | None, WorkKind | None], tuple[Account | None, LimitSet]
        ]
        self._cached = LRUCache(MAX_CACHED)

    def limits_of_caller(
        self, account: Account | None, address: str | None, model: str | None = None, kind: WorkKind | None = None
    ) -> LimitSet:
        """The limits of an account, or else of the tenant of an address; a caller with neither is anonymous.

        The limits of the model and of the site are among them only if a model is given. With a kind of work they are
        those that it counts for.
        """
        limited = model if model is None or model in self._settings.model_tiers else ""
        caller = (account.id if account else None, address, limited, kind)
        try:
            decided_for, limit_set = self._cached[caller]
        except KeyError:
            decided_for = limit_set = None
        if limit_set is None or decided_for is not account:
            limit_set = self._find(account, address, limited, kind)
            self._cached[caller] = (account, limit_set)
        return limit_set

    def limits_of_extension(
        self, tenant: str, account: Account | None, address: str | None, model: str, kind: WorkKind
    ) -> LimitSet:
        """The limits of an extension of a hold that `tenant` is charged for; it counts as no request and no job."""
        principals = [account_principal(self._settings, account)] if account else []
        if address is not None:
            principals.append(address_principal(self._settings, address, anonymous=address == tenant))
        principals = principals or [Principal("address", tenant, ())]
        limits = _strictest([*principals, *shared_principals(self._settings, model)])
        limits = tuple([limit for limit in limits if limit.kind.metric.is_measured])
        return _limit_set(tenant, "", principals[0], limits, kind)

    def _find(self, account: Account | None, address: str | None, model: str | None, kind: WorkKind | None) -> LimitSet:
        principals = [account_principal(self._settings, account)] if account else []
        if address is not None and (account is None or self._settings.address_tier):
            principals.append(address_principal(self._settings, address, anonymous=account is None))
        if not principals:
            principals.append(address_principal(self._settings, ANONYMOUS, anonymous=True))
        shared = [] if model is None else shared_principals(self._settings, model)
        limits = _strictest([*principals, *shared])
        payer, tier = principals[0], account.tier if account else self._settings.anonymous_tier
        return _limit_set(payer.tenant, tier, payer, limits, kind)


def account_principal(settings: QuotaSection, account: Account) -> Principal:
    """The holder of a key; a tier that no longer exists counts as the default one."""
    tier = settings.tiers.get(account.tier) or settings.tiers[settings.default_tier]
    overrides = {name: value for name, value in account.limits if value is not None}
    return Principal("key", account.id, (tier.model_copy(update=overrides) if overrides else tier,))


def address_principal(settings: QuotaSection, tenant: str, *, anonymous: bool) -> Principal:
    """The address that a request came from; without a key it carries the anonymous tier as well."""
    names = ([settings.anonymous_tier] if anonymous else []) + (
        [settings.address_tier] if settings.address_tier else []
    )
    return Principal("address", tenant, tuple(settings.tiers[name] for name in dict.fromkeys(names)))


def shared_principals(settings: QuotaSection, model: str) -> list[Principal]:
    """The model and the site, where they have limits."""
    principals: list[Principal] = []
    if model in settings.model_tiers:
        principals.append(Principal("model", model_tenant(model), (settings.tiers[settings.model_tiers[model]],)))
    if settings.site_tier:
        principals.append(Principal("site", SITE, (settings.tiers[settings.site_tier],)))
    return principals


def _strictest(principals: Iterable[Principal]) -> tuple[Limit, ...]:
    """Of limits of one kind on one tenant the lowest is enough to check."""
    chosen: dict[tuple[str, LimitKind], Limit] = {}
    for principal in principals:
        for limit in principal.limits():
            known = chosen.get((limit.tenant, limit.kind))
            if known is None or limit.maximum < known.maximum:
                chosen[limit.tenant, limit.kind] = limit
    return tuple(chosen.values())


def hourly_kinds(limits: Iterable[Limit]) -> dict[tuple[str, Metric], frozenset[LimitKind]]:
    """The kinds among limits that count earlier hours, by tenant and metric."""
    kinds: dict[tuple[str, Metric], frozenset[LimitKind]] = {}
    for limit in limits:
        if limit.kind.metric.is_hourly:
            of = limit.tenant, limit.kind.metric
            kinds[of] = kinds.get(of, frozenset()) | {limit.kind}
    return kinds


def _limit_set(tenant: str, tier: str, payer: Principal, limits: Iterable[Limit], kind: WorkKind | None) -> LimitSet:
    """The limits and counters that apply to a kind of work; without one, all."""
    counters: dict[tuple[str, Metric], None] = {(payer.tenant, UNITS): None, (payer.tenant, HEARD): None}
    counters |= {(limit.tenant, limit.kind.metric): None for limit in limits}
    limits = tuple([limit for limit in limits if kind is None or limit.kind.metric.counts(kind)])
    return LimitSet(
        tenant,
        tier,
        payer.scope,
        limits,
        hourly_kinds(limits),
        tuple([(who, metric) for who, metric in counters if kind is None or metric.counts(kind)]),
    )
