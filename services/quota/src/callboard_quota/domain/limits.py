"""Which limits apply to a request, from the tiers of everyone who is to answer for it."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal, get_args

from callboard_contracts.accounts import Account
from callboard_contracts.config import QuotaSection, TierSection
from callboard_contracts.quota import UNITS_PER_TOKEN
from callboard_quota.domain.tenants import ANONYMOUS, SITE, model_tenant
from callboard_quota.domain.windows import LimitName, Metric, limit_metric

Scope = Literal["key", "address", "model", "site"]
LIMIT_NAMES: tuple[LimitName, ...] = tuple(name for name in get_args(LimitName) if name != "kudos")
"""The limits that a tier may set; that of kudos is the balance itself."""
LOWEST_BALANCE = 0
MAX_REMEMBERED = 1_000
"""The limit_set of so many callers are remembered; those of one that is not are made anew, which takes microseconds."""


@dataclass(frozen=True, slots=True)
class Limit:
    """One limit on one tenant; `maximum` is in the metric's own measure, units for tokens."""

    scope: Scope
    tenant: str
    name: LimitName
    maximum: int
    metric: Metric = field(init=False, compare=False)
    """What the limit counts."""

    def __post_init__(self) -> None:
        # Kept, since a decision asks for it some thirty times.
        object.__setattr__(self, "metric", limit_metric(self.name))

    @property
    def label(self) -> str:
        """The limit's name for clients and metrics, from a closed set."""
        return f"{self.scope}.{self.name}"

    @property
    def client_factor(self) -> int:
        """How many of the metric's measure make one of the client's."""
        return UNITS_PER_TOKEN if self.metric == "units" else 1


def kudos_limit(account: str) -> Limit:
    """What an account may have spent more than it has earned."""
    return Limit("key", account, "kudos", -LOWEST_BALANCE)


@dataclass(frozen=True, slots=True)
class Principal:
    """Somebody who answers for a request, and the tiers whose limits apply to them."""

    scope: Scope
    tenant: str
    tiers: tuple[TierSection, ...]

    def limits(self) -> Iterable[Limit]:
        """Every limit that applies to this principal."""
        for tier in self.tiers:
            for name in LIMIT_NAMES:
                maximum: int | None = getattr(tier, name)
                if maximum is not None:
                    factor = UNITS_PER_TOKEN if limit_metric(name) == "units" else 1
                    yield Limit(self.scope, self.tenant, name, maximum * factor)


@dataclass(frozen=True, slots=True)
class LimitSet:
    """What a request is decided by.

    `tenant` is charged; it is an account's where `scope` is "key". `limits` are all that apply, and of several on the
    same counter and of the same kind only the lowest; `counted` are the tenants and metrics that the request counts in.
    """

    tenant: str
    tier: str
    scope: Scope
    limits: tuple[Limit, ...]
    counted: tuple[tuple[str, Metric], ...]


class LimitPolicy:
    """Finds the limits that apply to a request under the site's settings, and caches them."""

    def __init__(self, settings: QuotaSection) -> None:
        self._settings = settings
        self._remembered: dict[tuple[str | None, str | None, str | None], tuple[Account | None, LimitSet]] = {}

    def limit_set(self, account: Account | None, address: str | None, model: str | None = None) -> LimitSet:
        """The limit_set for a caller: an account, or else the tenant of an address; one with neither is anonymous.

        The limits of the model and of the site are among them only if a model is given.
        """
        limited = model if model is None or model in self._settings.model_tiers else ""
        caller = (account.id if account else None, address, limited)
        known = self._remembered.get(caller)
        if known is None or known[0] is not account:
            if len(self._remembered) >= MAX_REMEMBERED:
                self._remembered.clear()
            known = self._remembered[caller] = (account, self._agree(account, address, limited))
        return known[1]

    def extends(self, tenant: str, account: Account | None, address: str | None, model: str) -> LimitSet:
        """The limit_set for more of a hold, which is charged to `tenant` and counts as neither a request nor a job."""
        principals: list[Principal] = []
        if account is not None:
            principals.append(account_principal(self._settings, account))
        if address is not None:
            principals.append(address_principal(self._settings, address, anonymous=address == tenant))
        principals = principals or [Principal("address", tenant, ())]
        limits = _strictest([*principals, *shared_principals(self._settings, model)])
        limits = tuple([limit for limit in limits if limit.metric == "units"])
        return LimitSet(tenant, "", principals[0].scope, limits, _counted(principals[0].tenant, limits))

    def _agree(self, account: Account | None, address: str | None, model: str | None) -> LimitSet:
        principals: list[Principal] = []
        tier = self._settings.anonymous_tier
        if account is not None:
            principals.append(account_principal(self._settings, account))
            tier = account.tier
        if address is not None and (account is None or self._settings.address_tier):
            principals.append(address_principal(self._settings, address, anonymous=account is None))
        if not principals:
            principals.append(address_principal(self._settings, ANONYMOUS, anonymous=True))
        shared = [] if model is None else shared_principals(self._settings, model)
        limits = _strictest([*principals, *shared])
        payer = principals[0]
        return LimitSet(payer.tenant, tier, payer.scope, limits, _counted(payer.tenant, limits))


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
    """Where two tiers limit the same counter in the same way, the lower maximum is enough to look at."""
    chosen: dict[tuple[str, str], Limit] = {}
    for principal in principals:
        for limit in principal.limits():
            known = chosen.get((limit.tenant, limit.name))
            if known is None or limit.maximum < known.maximum:
                chosen[limit.tenant, limit.name] = limit
    return tuple(chosen.values())


def _counted(payer: str, limits: Iterable[Limit]) -> tuple[tuple[str, Metric], ...]:
    counters: dict[tuple[str, Metric], None] = {(payer, "units"): None}
    counters |= {(limit.tenant, limit.metric): None for limit in limits}
    return tuple(counters)
