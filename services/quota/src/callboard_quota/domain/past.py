"""What was used in earlier hours, remembered between decisions.

An hour that is over only falls, by settlement, so a remembered sum can refuse too early but never admit too much; a
refusal is therefore always checked against fresh figures. The hour just over is the exception for a few seconds: a
process may still be counting in it, so there it is read anew with each decision.
"""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from callboard_quota.domain.ports import Counter, LedgerStore
from callboard_quota.domain.windows import HOUR_S, LimitName, Metric, earlier_buckets

MAX_REMEMBERED = 6_000
FRESH_S = 0.25
"""Figures younger than this are not read again before a refusal."""


@dataclass(slots=True)
class Past:
    """The earlier hours of one tenant's metric. `previous` is the hour just over, None while it is not known."""

    hour: float
    reach: int
    older: Mapping[str, int]
    read_at: float
    previous: int | None = None
    sums: dict[LimitName, int] = field(default_factory=dict[LimitName, int])

    def older_sum(self, limit: LimitName, at: float) -> int:
        """What the hours before the one just over add to a limit."""
        if limit not in self.sums:
            buckets = earlier_buckets(limit, at)[1:]
            self.sums[limit] = sum(self.older.get(bucket, 0) for bucket in buckets)
        return self.sums[limit]


class PastReader:
    """Reads and remembers the past of the tenants that were lately active."""

    def __init__(self, store: LedgerStore, max_remembered: int = MAX_REMEMBERED) -> None:
        self._store = store
        self._max_remembered = max_remembered
        self._remembered: OrderedDict[tuple[str, Metric], Past] = OrderedDict()

    async def of(self, tenant: str, metric: Metric, limits: Sequence[LimitName], at: float) -> Past:
        """The past that these limits look at; raises StoreUnavailable."""
        hour = at // HOUR_S
        longest = max((earlier_buckets(limit, at) for limit in limits), key=len)
        past = self._remembered.get((tenant, metric))
        if past is None or past.hour != hour or past.reach < len(longest):
            counters = [Counter(tenant, metric, bucket) for bucket in longest[1:]]
            found = await self._store.read(counters) if counters else {}
            older = {counter.bucket: value for counter, value in found.items() if value}
            past = Past(hour, len(longest), older, at)
            self._remembered[tenant, metric] = past
        self._remembered.move_to_end((tenant, metric))
        while len(self._remembered) > self._max_remembered:
            self._remembered.popitem(last=False)
        return past

    def forget(self, tenant: str, metric: Metric, at: float) -> bool:
        """Has the past read anew next time, unless it was read just now; says whether it will be."""
        past = self._remembered.get((tenant, metric))
        if past is None or at - past.read_at < FRESH_S:
            return False
        del self._remembered[tenant, metric]
        return True

    def forget_all(self) -> None:
        """Has everything read anew, for instance because counters were corrected."""
        self._remembered.clear()
