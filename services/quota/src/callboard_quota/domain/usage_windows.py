"""What was used in earlier hours, remembered between decisions.

An hour that is over mostly falls, by settlement, so a remembered sum may refuse too early; a refusal is therefore
always checked against fresh figures. Where such an hour grows after all, by work that cost more than was held or that
was reported after its hold's end, whoever raises it has every process forget the tenant. The hour just over is the
exception for a few seconds: a process may still be counting in it, so there it is read anew with each decision.
"""

from collections import OrderedDict
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass

from callboard_quota.domain.ports import Counter, LedgerStore
from callboard_quota.domain.windows import HOUR_S, LimitName, Metric, earlier_buckets, hour_start

MAX_REMEMBERED = 6_000
BY_THE_HOUR: tuple[Metric, ...] = ("units", "jobs")
"""The metrics whose limits look at earlier hours too."""
FRESH_S = 0.25
"""Figures younger than this are not read again before a refusal."""


@dataclass(slots=True)
class UsageWindow:
    """The earlier hours of one tenant's metric.

    `older` are those before the one just over, and `sums` what they add to each limit that looks at them. `previous`
    is the hour just over, None while it is not known. `oldest_at` is when the earliest hour with use began, for each
    limit that has one.
    """

    hour: float
    older: Mapping[str, int]
    sums: Mapping[LimitName, int]
    oldest_at: Mapping[LimitName, float]
    read_at: float
    previous: int | None = None


class WindowCache:
    """Reads and remembers the past of the tenants that were lately active."""

    def __init__(self, store: LedgerStore, max_remembered: int = MAX_REMEMBERED) -> None:
        self._store = store
        self._max_remembered = max_remembered
        self._remembered: OrderedDict[tuple[str, Metric], UsageWindow] = OrderedDict()
        self._forgotten = 0
        """Counts what was forgotten, since a past that is being read at that moment may be an old one."""

    async def of(self, tenant: str, metric: Metric, limits: Sequence[LimitName], at: float) -> UsageWindow:
        """The past that these limits look at; raises StoreUnavailable."""
        past = self._remembered.get((tenant, metric))
        wanted = set(limits)
        if past is not None and past.hour == at // HOUR_S:
            if wanted <= past.sums.keys():
                self._remembered.move_to_end((tenant, metric))
                return past
            wanted |= past.sums.keys()
        forgotten = self._forgotten
        past = await self._read(tenant, metric, wanted, at)
        if forgotten == self._forgotten:
            self._remembered[tenant, metric] = past
            self._remembered.move_to_end((tenant, metric))
            while len(self._remembered) > self._max_remembered:
                self._remembered.popitem(last=False)
        return past

    async def _read(self, tenant: str, metric: Metric, limits: Set[LimitName], at: float) -> UsageWindow:
        buckets: dict[LimitName, Sequence[str]]
        buckets = {limit: earlier_buckets(limit, at)[1:] for limit in limits}
        counters = [Counter(tenant, metric, bucket) for bucket in max(buckets.values(), key=len)]
        found = await self._store.read(counters) if counters else {}
        older = {counter.bucket: value for counter, value in found.items() if value}
        sums: dict[LimitName, int] = {
            limit: sum(older.get(bucket, 0) for bucket in names) for limit, names in buckets.items()
        }
        oldest_at: dict[LimitName, float] = {
            limit: hour_start(min(used)) for limit, names in buckets.items() if (used := older.keys() & set(names))
        }
        return UsageWindow(at // HOUR_S, older, sums, oldest_at, at)

    def refresh(self, tenant: str, metric: Metric, at: float) -> bool:
        """Has the past read anew next time, unless it was read just now; says whether it will be."""
        past = self._remembered.get((tenant, metric))
        if past is None or at - past.read_at < FRESH_S:
            return False
        del self._remembered[tenant, metric]
        return True

    def forget(self, tenant: str) -> None:
        """Has a tenant's past read anew, because it grew."""
        self._forgotten += 1
        for metric in BY_THE_HOUR:
            self._remembered.pop((tenant, metric), None)

    def forget_all(self) -> None:
        """Has everything read anew."""
        self._forgotten += 1
        self._remembered.clear()
