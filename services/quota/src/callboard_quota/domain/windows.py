"""Buckets of time, and the windows of buckets that limits look at. All times are UTC.

Use is counted in hour buckets, so that one counter serves the day, the month and the jobs that run; requests are
counted in minute buckets. A window is the bucket of this moment and the earlier ones that still count.

The sliding day looks at this hour and the 24 before it, so that no 24 hours of any position hold more than the limit;
the price is that use is forgotten up to an hour late. Jobs look two hours back, which is longer than any lease lives,
so a count that was lost in a crash heals by itself.
"""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Literal

from callboard_contracts.streams import LEASE_LIFE_S

Metric = Literal["units", "jobs", "requests", "kudos", "kudos_credit"]
LimitName = Literal["tokens_per_day", "tokens_per_month", "requests_per_minute", "jobs_at_once", "kudos"]

EVER = "ever"
"""The one bucket of what is counted without regard to time."""
HOUR_S = 3600
MINUTE_S = 60
DAY_HOURS = 24
CLOCK_SKEW_S = 2.0
"""How far the clocks of two quota processes may differ; checked against the bus's clock."""
DECISION_LIFE_S = 2.0
"""An increment that is not confirmed within this time grants nothing."""
SETTLE_GRACE_S = 600.0
"""How long after its expiry a hold can still be settled; later its usage event is left to the reconciler."""
CLOSING_S = LEASE_LIFE_S + SETTLE_GRACE_S + 60.0
"""How long after its end an hour's bucket may still change by settlement."""
JOB_HOURS = -(-(LEASE_LIFE_S + int(SETTLE_GRACE_S)) // HOUR_S)

_LIMIT_METRICS: dict[LimitName, Metric] = {
    "tokens_per_day": "units",
    "tokens_per_month": "units",
    "requests_per_minute": "requests",
    "jobs_at_once": "jobs",
    "kudos": "kudos",
}


def hour_bucket(at: float) -> str:
    """The hour that a time lies in."""
    return _hour_name(int(at // HOUR_S))


def minute_bucket(at: float) -> str:
    """The minute that a time lies in."""
    return _minute_name(int(at // MINUTE_S))


def hour_start(bucket: str) -> float:
    """The Unix time at which an hour's bucket begins; raises ValueError for the name of anything else."""
    return datetime.strptime(bucket, "h%Y%m%d%H").replace(tzinfo=UTC).timestamp()


def minutes_of(bucket: str) -> tuple[str, ...]:
    """The minute buckets of an hour."""
    began = hour_start(bucket)
    return tuple(minute_bucket(began + n * MINUTE_S) for n in range(HOUR_S // MINUTE_S))


def month_start(at: float) -> float:
    """The Unix time at which the calendar month of a time begins."""
    return datetime.fromtimestamp(at, UTC).replace(day=1, hour=0, minute=0, second=0, microsecond=0).timestamp()


def month_end(at: float) -> float:
    """The Unix time at which the next calendar month begins."""
    return month_start(month_start(at) + timedelta(days=32).total_seconds())


def bucket_of(metric: Metric, at: float) -> str:
    """The bucket in which a metric is counted at a time."""
    if metric in {"kudos", "kudos_credit"}:
        return EVER
    return minute_bucket(at) if metric == "requests" else hour_bucket(at)


def limit_metric(limit: LimitName) -> Metric:
    """Which metric a limit looks at."""
    return _LIMIT_METRICS[limit]


def earlier_buckets(limit: LimitName, at: float) -> tuple[str, ...]:
    """The buckets before the present one that a limit counts, the newest first."""
    return _earlier_hours(limit, int(at // HOUR_S))


def counts_next_hour(limit: LimitName, at: float) -> bool:
    """Whether use in the hour to come falls into the same window."""
    match limit:
        case "requests_per_minute" | "kudos":
            return False
        case "tokens_per_month":
            return month_start(at) == month_start(at + HOUR_S)
        case "jobs_at_once" | "tokens_per_day":
            return True


@lru_cache(maxsize=2048)
def _hour_name(hour: int) -> str:
    return datetime.fromtimestamp(hour * HOUR_S, UTC).strftime("h%Y%m%d%H")


@lru_cache(maxsize=8)
def _minute_name(minute: int) -> str:
    return datetime.fromtimestamp(minute * MINUTE_S, UTC).strftime("t%Y%m%d%H%M")


@lru_cache(maxsize=32)
def _earlier_hours(limit: LimitName, hour: int) -> tuple[str, ...]:
    match limit:
        case "requests_per_minute" | "kudos":
            hours = 0
        case "jobs_at_once":
            hours = JOB_HOURS
        case "tokens_per_day":
            hours = DAY_HOURS
        case "tokens_per_month":
            hours = hour - int(month_start(hour * HOUR_S) // HOUR_S)
    return tuple(_hour_name(hour - n) for n in range(1, hours + 1))


@dataclass(frozen=True, slots=True)
class Edge:
    """Where a moment stands between two hours.

    Close to the turn of the hour another process may already, or still, count in the neighbouring bucket. `previous`
    and `following` say which neighbour must be read after one's own increment, so that of two processes that count
    across the turn at least one sees the other.
    """

    previous: bool
    following: bool


def edge_at(at: float) -> Edge:
    """Says whether a time is close to the start or the end of its hour."""
    into_s = at % HOUR_S
    return Edge(
        previous=into_s < DECISION_LIFE_S + 2 * CLOCK_SKEW_S,
        following=HOUR_S - into_s <= DECISION_LIFE_S + CLOCK_SKEW_S,
    )


def frees_in_s(limit: LimitName, at: float, buckets: dict[str, int], excess: int) -> float | None:
    """How long until at least `excess` of what the buckets hold has left the window; None when it never will."""
    match limit:
        case "requests_per_minute":
            return MINUTE_S - at % MINUTE_S
        case "jobs_at_once":
            return 1.0
        case "kudos":
            return None
        case "tokens_per_month":
            return month_end(at) - at
        case "tokens_per_day":
            freed = 0
            for bucket in sorted(buckets):
                freed += buckets[bucket]
                if freed >= excess:
                    return max(1.0, hour_start(bucket) + (DAY_HOURS + 1) * HOUR_S - at)
            return None


def resets_in_s(limit: LimitName, at: float, oldest_at: float | None = None) -> float:
    """How long until the limit next frees something by the passing of time.

    `oldest_at` is the start of the earliest hour whose use counts, the present one unless it is given.
    """
    match limit:
        case "requests_per_minute":
            return MINUTE_S - at % MINUTE_S
        case "jobs_at_once" | "kudos":
            return 1.0
        case "tokens_per_month":
            return month_end(at) - at
        case "tokens_per_day":
            return (at // HOUR_S * HOUR_S if oldest_at is None else oldest_at) + (DAY_HOURS + 1) * HOUR_S - at
