"""One attempt at a reservation: what must be written, and what the values that come back mean."""

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from callboard_contracts.quota import Hold, HoldEntry, Rates, WorkKind
from callboard_quota.domain.changes import increments
from callboard_quota.domain.limit_kinds import UNITS, LimitKind, Metric
from callboard_quota.domain.limits import Limit
from callboard_quota.domain.ports import Applied, Change, Counter, StoreUnavailable
from callboard_quota.domain.usage_windows import UsageWindow
from callboard_quota.domain.windows import DECISION_LIFE_S, HOUR_S, hour_bucket, is_after_turn, is_before_turn

ID_BYTES = 6
REQUEST_ID_IN_HOLD = 51
"""So much of a request's id stands in its holds' ids that these are still one token of a subject."""


@dataclass(frozen=True, slots=True)
class HoldRequest:
    """A hold that is wanted: the amounts by tenant and metric, and every limit that they must keep.

    `hourly` are the kinds of limit among them that count earlier hours, by tenant and metric.
    """

    request_id: str
    tenant: str
    kind: WorkKind
    model: str
    amounts: Mapping[tuple[str, Metric], int]
    limits: tuple[Limit, ...]
    hourly: Mapping[tuple[str, Metric], frozenset[LimitKind]]
    rates: Rates
    expires_at: float
    confirm_timeout_s: float = DECISION_LIFE_S
    """How long the store may take to confirm; what is confirmed later than a decision lives is undone."""
    repeat: int = 0

    @property
    def units(self) -> int:
        """What the work may cost; all that count units count the same."""
        for (_tenant, metric), amount in self.amounts.items():
            if metric is UNITS:
                return amount
        return 0


@dataclass(frozen=True, slots=True)
class LimitUsage:
    """How much of a limit is used after a decision, in the counter's measure."""

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
    """One attempt at a reservation; `usage` is the use of earlier hours by tenant and hourly metric."""

    def __init__(self, request: HoldRequest, now: float, usage: dict[tuple[str, Metric], UsageWindow]) -> None:
        self.request = request
        self.now = now
        self._usage = usage
        self._buckets: dict[Metric, str] = {}
        for _tenant, metric in request.amounts:
            if metric not in self._buckets:
                self._buckets[metric] = metric.bucket(now)
        self._is_after_turn, self._is_before_turn = is_after_turn(now), is_before_turn(now)
        self._neighbours: list[Counter] = []
        self._values: dict[Counter, int] = {}
        self.hold = Hold(
            id=f"{request.request_id[:REQUEST_ID_IN_HOLD]}-{secrets.token_bytes(ID_BYTES).hex()}",
            request_id=request.request_id,
            tenant=request.tenant,
            kind=request.kind,
            model=request.model,
            entries=tuple(
                [
                    HoldEntry(tenant=tenant, metric=metric.name, bucket=self._buckets[metric], amount=amount)
                    for (tenant, metric), amount in request.amounts.items()
                ]
            ),
            rates=request.rates,
            expires_at=request.expires_at,
            repeat=request.repeat,
            signature="",
        )
        self._increments = increments(self.hold)
        self._present = dict(zip(request.amounts, [change.counter for change in self._increments], strict=True))
        for (tenant, metric), window in usage.items():
            if window.previous is None or self._is_after_turn:
                self._neighbours.append(Counter(tenant, metric.name, hour_bucket(now - HOUR_S)))
            if self._is_before_turn:
                self._neighbours.append(Counter(tenant, metric.name, hour_bucket(now + HOUR_S)))

    def present_counter(self, limit: Limit) -> Counter:
        """The counter of a limit that this attempt raises."""
        return self._present[limit.tenant, limit.kind.metric]

    def changes(self) -> list[Change]:
        """The increments, and after them the reads of neighbouring hours."""
        return self._increments + [Change(counter, 0, None) for counter in self._neighbours]

    def learn(self, changes: Sequence[Change], applied: Sequence[Applied]) -> list[Change]:
        """Takes in the values; returns what must still be read because a repeat of a write hid its value."""
        unknown: list[Change] = []
        for change, result in zip(changes, applied, strict=True):
            if result.value is None:
                unknown.append(Change(change.counter, 0, None))
            else:
                self._values[change.counter] = result.value
        if self._neighbours and not self._is_after_turn:
            for (tenant, metric), usage in self._usage.items():
                usage.previous = self._neighbour(tenant, metric, -HOUR_S, usage.previous)
        return unknown

    def earlier(self, limit: Limit) -> int:
        """What is known to count for a limit beside the present bucket."""
        usage = self._usage.get((limit.tenant, limit.kind.metric))
        if usage is None:
            return 0
        used = usage.sums[limit.kind]
        if limit.kind in usage.counting_previous:
            used += self._previous(limit, usage) or 0
        if self._is_before_turn and limit.kind.window.counts_next_hour(self.now):
            used += self._neighbour(limit.tenant, limit.kind.metric, HOUR_S, None) or 0
        return used

    def _previous(self, limit: Limit, usage: UsageWindow) -> int | None:
        """The use of the hour just over, if it is known."""
        if not self._neighbours:
            return usage.previous
        return self._neighbour(limit.tenant, limit.kind.metric, -HOUR_S, usage.previous)

    def _neighbour(self, tenant: str, metric: Metric, away_s: float, otherwise: int | None) -> int | None:
        """The value of the hour before or after, if it was read."""
        return self._values.get(Counter(tenant, metric.name, hour_bucket(self.now + away_s)), otherwise)

    def check(self) -> tuple[LimitUsage | None, tuple[LimitUsage, ...]]:
        """The first limit that is exceeded, or None, and the fullest limit of each metric.

        Raises:
            StoreUnavailable: the value of a counter is not known.
        """
        fullest: dict[Metric, tuple[float, Limit, int]] = {}
        for limit in self.request.limits:
            present = self._values.get(self._present[limit.tenant, limit.kind.metric])
            if present is None:
                raise StoreUnavailable("a counter's value stayed unknown")
            used = present + self.earlier(limit)
            if used > limit.maximum:
                return self.limit_usage(limit, used), ()
            if limit.kind.is_balance:
                continue
            fullness = used / limit.maximum if limit.maximum else 1.0
            if limit.kind.metric not in fullest or fullness > fullest[limit.kind.metric][0]:
                fullest[limit.kind.metric] = (fullness, limit, used)
        return None, tuple([self.limit_usage(limit, used) for _fullness, limit, used in fullest.values()])

    def limit_usage(self, limit: Limit, used: int) -> LimitUsage:
        """How much of a limit is used."""
        return LimitUsage(limit, used, limit.kind.window.resets_in_s(self.now, self._oldest_at(limit)))

    def _oldest_at(self, limit: Limit) -> float | None:
        """When the earliest hour with use began, None for the present one."""
        usage = self._usage.get((limit.tenant, limit.kind.metric))
        if usage is None:
            return None
        oldest_at = usage.oldest_at.get(limit.kind)
        if oldest_at is None and self._previous(limit, usage):
            oldest_at = (self.now // HOUR_S - 1) * HOUR_S
        return oldest_at

    def refused(self, limit: Limit, used_without: int, amount: int) -> Refused:
        """The refusal of a limit that already holds `used_without`, with the time when enough of it frees."""
        if amount > limit.maximum:
            return Refused(self.limit_usage(limit, used_without), None)
        used: dict[str, int] = {}
        usage = self._usage.get((limit.tenant, limit.kind.metric))
        if usage is not None:
            previous = self._previous(limit, usage) or 0
            present = max(0, used_without - usage.sums[limit.kind] - previous)
            used = {**usage.older, hour_bucket(self.now - HOUR_S): previous, self._buckets[limit.kind.metric]: present}
        excess = used_without + amount - limit.maximum
        frees_in_s = limit.kind.window.frees_in_s(self.now, used, excess)
        return Refused(self.limit_usage(limit, used_without), frees_in_s)
