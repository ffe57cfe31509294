"""The use of earlier hours by tenant and metric, cached between decisions.

An hour that is over mostly falls, by settlement, so a cached sum may refuse too early; a refusal is therefore always
checked against fresh values. Where such an hour grows after all, by work that cost more than was held or that was
reported after its hold's end, the process that raises it invalidates the tenant in the caches of all processes. The
hour just over is left out for a few seconds: a process may still count in it, so it is read with each decision.
"""

from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass
from functools import lru_cache

from cachetools import LRUCache

from callboard_quota.domain.limit_kinds import METRICS, LimitKind, Metric
from callboard_quota.domain.ports import Counter, LedgerStore
from callboard_quota.domain.windows import HOUR_S, hour_start

MAX_CACHED = 6_000
FRESH_S = 0.25
"""Values younger than this are not read again before a refusal."""


@dataclass(slots=True)
class UsageWindow:
    """The use of one tenant's metric in the hours before `hour`.

    `older` are those before the one just over, and `sums` what they add to each kind of limit. `counting_previous` are
    the kinds of limit that count the one just over, and `previous` is its use, None while that is not known.
    `oldest_at` is when the earliest hour with use began, for each kind that has one.
    """

    hour: float
    counting_previous: frozenset[LimitKind]
    older: Mapping[str, int]
    sums: Mapping[LimitKind, int]
    oldest_at: Mapping[LimitKind, float]
    read_at: float
    previous: int | None = None


class WindowCache:
    """Reads the earlier hours of a tenant, and keeps those of tenants that were active lately."""

    def __init__(self, store: LedgerStore, max_cached: int = MAX_CACHED) -> None:
        self._store = store
        self._cached: LRUCache[tuple[str, Metric], UsageWindow] = LRUCache(max_cached)
        self._invalidations = 0
        """Counted, since what is being read at that moment may be stale."""

    async def get(self, tenant: str, metric: Metric, kinds: Set[LimitKind], at: float) -> UsageWindow:
        """The earlier hours that these kinds of limit count; raises StoreUnavailable."""
        try:
            usage = self._cached[tenant, metric]
        except KeyError:
            pass
        else:
            if usage.hour == at // HOUR_S:
                if kinds <= usage.sums.keys():
                    return usage
                kinds |= usage.sums.keys()
        before = self._invalidations
        usage = await self._read(tenant, metric, kinds, at)
        if before == self._invalidations:
            self._cached[tenant, metric] = usage
        return usage

    async def _read(self, tenant: str, metric: Metric, kinds: Iterable[LimitKind], at: float) -> UsageWindow:
        earlier = {kind: kind.window.earlier_buckets(at) for kind in kinds}
        counting_previous = frozenset(kind for kind, names in earlier.items() if names)
        buckets = {kind: names[1:] for kind, names in earlier.items()}
        counters = [Counter(tenant, metric.name, bucket) for bucket in max(buckets.values(), key=len)]
        found = await self._store.read(counters) if counters else {}
        older = {counter.bucket: value for counter, value in found.items() if value}
        if not older:
            return UsageWindow(at // HOUR_S, *_unused(frozenset(buckets), counting_previous), at)
        sums = {kind: sum(older.get(bucket, 0) for bucket in names) for kind, names in buckets.items()}
        oldest_at = {
            kind: hour_start(min(used)) for kind, names in buckets.items() if (used := older.keys() & set(names))
        }
        return UsageWindow(at // HOUR_S, counting_previous, older, sums, oldest_at, at)

    def refresh(self, tenant: str, metric: Metric, at: float) -> bool:
        """Has a window read anew next time unless it was read just now; says whether it will be."""
        usage = self._cached.get((tenant, metric))
        if usage is None or at - usage.read_at < FRESH_S:
            return False
        del self._cached[tenant, metric]
        return True

    def invalidate(self, tenant: str) -> None:
        """Has a tenant's windows read anew."""
        self._invalidations += 1
        for metric in METRICS.values():
            self._cached.pop((tenant, metric), None)

    def invalidate_all(self) -> None:
        """Has all windows read anew."""
        self._invalidations += 1
        self._cached.clear()


@lru_cache(64)
def _unused(
    kinds: frozenset[LimitKind], counting_previous: frozenset[LimitKind]
) -> tuple[frozenset[LimitKind], Mapping[str, int], Mapping[LimitKind, int], Mapping[LimitKind, float]]:
    """What a window says of a tenant without use; most have none, so that it is in memory once."""
    return counting_previous, {}, dict.fromkeys(kinds, 0), {}
