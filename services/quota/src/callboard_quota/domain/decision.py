"""One try at a reservation: what must be written, and what the values that come back mean."""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass

from callboard_contracts.quota import Hold, HoldEntry, Rates, WorkKind
from callboard_quota.domain.changes import increments
from callboard_quota.domain.limits import Limit
from callboard_quota.domain.ports import Applied, Change, Counter, StoreUnavailable
from callboard_quota.domain.usage_windows import BY_THE_HOUR, UsageWindow
from callboard_quota.domain.windows import (
    HOUR_S,
    Metric,
    bucket_of,
    counts_next_hour,
    earlier_buckets,
    edge_at,
    frees_in_s,
    hour_bucket,
    resets_in_s,
)

ID_BYTES = 6
REQUEST_ID_IN_HOLD = 51
"""So much of a request's id stands in its holds' ids that these are still one token of a subject."""


@dataclass(frozen=True, slots=True)
class HoldRequest:
    """A hold that is wanted: the amounts by tenant and metric, and every limit that they must keep."""

    request_id: str
    tenant: str
    kind: WorkKind
    model: str
    amounts: tuple[tuple[str, Metric, int], ...]
    limits: tuple[Limit, ...]
    rates: Rates
    expires_at: float


@dataclass(frozen=True, slots=True)
class LimitUsage:
    """How full a limit is after a decision, in the metric's own measure."""

    limit: Limit
    used: int
    resets_in_s: float


@dataclass(frozen=True, slots=True)
class Granted:
    """The hold was taken; `limit_usages` is the fullest limit of each metric."""

    hold: Hold
    limit_usages: tuple[LimitUsage, ...]


@dataclass(frozen=True, slots=True)
class Refused:
    """A limit does not allow it; `retry_after_s` is None when waiting will not help."""

    limit_usage: LimitUsage
    retry_after_s: float | None


class Attempt:
    """One try at a reservation: what must be written, and how to read what came back."""

    def __init__(self, ask: HoldRequest, now: float, windows: dict[tuple[str, Metric], UsageWindow]) -> None:
        self.ask = ask
        self.now = now
        self._windows = windows
        self._edge = edge_at(now)
        self._neighbours: list[Counter] = []
        self._values: dict[Counter, int] = {}
        self.hold = Hold(
            id=f"{ask.request_id[:REQUEST_ID_IN_HOLD]}-{secrets.token_hex(ID_BYTES)}",
            request_id=ask.request_id,
            tenant=ask.tenant,
            kind=ask.kind,
            model=ask.model,
            entries=tuple(
                HoldEntry(tenant=tenant, metric=metric, bucket=bucket_of(metric, now), amount=amount)
                for tenant, metric, amount in ask.amounts
            ),
            rates=ask.rates,
            expires_at=ask.expires_at,
            signature="",
        )
        for (tenant, metric), past in windows.items():
            if metric in BY_THE_HOUR:
                if past.previous is None or self._edge.previous:
                    self._neighbours.append(Counter(tenant, metric, hour_bucket(now - HOUR_S)))
                if self._edge.following:
                    self._neighbours.append(Counter(tenant, metric, hour_bucket(now + HOUR_S)))

    def changes(self) -> list[Change]:
        """The increments, and after them the neighbouring hours to read."""
        return increments(self.hold) + [Change(counter, 0, None) for counter in self._neighbours]

    def learn(self, changes: Sequence[Change], applied: Sequence[Applied]) -> list[Change]:
        """Takes in the values; returns what must still be read because a repeat of a write hid its value."""
        unknown: list[Change] = []
        for change, result in zip(changes, applied, strict=True):
            if result.value is None:
                unknown.append(Change(change.counter, 0, None))
            else:
                self._values[change.counter] = result.value
        if self._neighbours and not self._edge.previous:
            for (tenant, metric), past in self._windows.items():
                value = self._values.get(Counter(tenant, metric, hour_bucket(self.now - HOUR_S)))
                if value is not None:
                    past.previous = value
        return unknown

    def earlier(self, limit: Limit) -> int:
        """What is known to count for a limit beside the present bucket."""
        if limit.metric not in BY_THE_HOUR:
            return 0
        past = self._windows[limit.tenant, limit.metric]
        used = past.sums[limit.name]
        if earlier_buckets(limit.name, self.now):
            used += self._neighbour(limit, -HOUR_S, past.previous or 0)
        if self._edge.following and counts_next_hour(limit.name, self.now):
            used += self._neighbour(limit, HOUR_S, 0)
        return used

    def _neighbour(self, limit: Limit, away_s: float, otherwise: int) -> int:
        if not self._neighbours:
            return otherwise
        return self._values.get(Counter(limit.tenant, limit.metric, hour_bucket(self.now + away_s)), otherwise)

    def present(self, limit: Limit) -> int | None:
        """The value of the bucket that this attempt counts in, once it is known."""
        return self._values.get(Counter(limit.tenant, limit.metric, bucket_of(limit.metric, self.now)))

    def limit_usage(self, limit: Limit, used: int) -> LimitUsage:
        """How full a limit is."""
        return LimitUsage(limit, used, resets_in_s(limit.name, self.now, self._oldest_at(limit)))

    def _oldest_at(self, limit: Limit) -> float | None:
        """When the earliest hour began whose use counts, None for the present one."""
        past = self._windows.get((limit.tenant, limit.metric))
        if past is None or limit.metric not in BY_THE_HOUR:
            return None
        oldest_at = past.oldest_at.get(limit.name)
        if oldest_at is None and self._neighbour(limit, -HOUR_S, past.previous or 0):
            oldest_at = (self.now // HOUR_S - 1) * HOUR_S
        return oldest_at

    def refused(self, limit: Limit, used_without: int, amount: int) -> Refused:
        """The refusal of a limit that already holds `used_without`, with the time when enough of it frees."""
        if amount > limit.maximum:
            return Refused(self.limit_usage(limit, used_without), None)
        buckets: dict[str, int] = {}
        if limit.name == "tokens_per_day":
            past = self._windows[limit.tenant, limit.metric]
            buckets = {bucket: past.older.get(bucket, 0) for bucket in earlier_buckets(limit.name, self.now)[1:]}
            buckets[hour_bucket(self.now - HOUR_S)] = self._neighbour(limit, -HOUR_S, past.previous or 0)
            buckets[hour_bucket(self.now)] = max(0, used_without - sum(buckets.values()))
        excess = used_without + amount - limit.maximum
        return Refused(self.limit_usage(limit, used_without), frees_in_s(limit.name, self.now, buckets, excess))


def judge(attempt: Attempt) -> tuple[LimitUsage | None, tuple[LimitUsage, ...]]:
    """The first limit that is exceeded, or None, and the limit of each metric that is fullest."""
    fullest: dict[Metric, tuple[float, Limit, int]] = {}
    for limit in attempt.ask.limits:
        present = attempt.present(limit)
        if present is None:
            raise StoreUnavailable("a counter's value stayed unknown")
        used = present + attempt.earlier(limit)
        if used > limit.maximum:
            return attempt.limit_usage(limit, used), ()
        if limit.name == "kudos":
            continue
        fullness = used / limit.maximum if limit.maximum else 1.0
        if limit.metric not in fullest or fullness > fullest[limit.metric][0]:
            fullest[limit.metric] = (fullness, limit, used)
    return None, tuple([attempt.limit_usage(limit, used) for _fullness, limit, used in fullest.values()])
