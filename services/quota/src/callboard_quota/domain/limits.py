"""Which limits apply to a request, from the tiers of everyone who is to answer for it."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal, get_args

from callboard_contracts.accounts import Account
from callboard_contracts.config import QuotaSection, TierSection
from callboard_contracts.quota import UNITS_PER_TOKEN
from callboard_quota.domain.tenants import SITE, model_tenant
from callboard_quota.domain.windows import LimitName, Metric, limit_metric

Scope = Literal["key", "address", "model", "site"]
LIMIT_NAMES: tuple[LimitName, ...] = tuple(name for name in get_args(LimitName) if name != "kudos")
"""The limits that a tier may set; that of kudos is the balance itself."""
LOWEST_BALANCE = 0


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
class Party:
    """Somebody who answers for a request, and the tiers whose limits apply to them."""

    scope: Scope
    tenant: str
    tiers: tuple[TierSection, ...]

    def limits(self) -> Iterable[Limit]:
        """Every limit that applies to this party."""
        for tier in self.tiers:
            for name in LIMIT_NAMES:
                maximum: int | None = getattr(tier, name)
                if maximum is not None:
                    factor = UNITS_PER_TOKEN if limit_metric(name) == "units" else 1
                    yield Limit(self.scope, self.tenant, name, maximum * factor)


def account_party(settings: QuotaSection, account: Account) -> Party:
    """The holder of a key; a tier that no longer exists counts as the default one."""
    tier = settings.tiers.get(account.tier) or settings.tiers[settings.default_tier]
    overrides = {name: value for name, value in account.limits if value is not None}
    return Party("key", account.id, (tier.model_copy(update=overrides) if overrides else tier,))


def address_party(settings: QuotaSection, tenant: str, *, anonymous: bool) -> Party:
    """The address that a request came from; without a key it carries the anonymous tier as well."""
    names = ([settings.anonymous_tier] if anonymous else []) + (
        [settings.address_tier] if settings.address_tier else []
    )
    return Party("address", tenant, tuple(settings.tiers[name] for name in dict.fromkeys(names)))


def shared_parties(settings: QuotaSection, model: str) -> list[Party]:
    """The model and the site, where they have limits."""
    parties: list[Party] = []
    if model in settings.model_tiers:
        parties.append(Party("model", model_tenant(model), (settings.tiers[settings.model_tiers[model]],)))
    if settings.site_tier:
        parties.append(Party("site", SITE, (settings.tiers[settings.site_tier],)))
    return parties
