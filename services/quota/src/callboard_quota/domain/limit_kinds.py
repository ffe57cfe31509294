"""Every kind of limit: what it counts, over which window, and what a client is told.

A new kind is an entry here and a field of the same name in `LimitsSection`; docs/contributing/add-a-limit.md shows one.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from callboard_contracts.kudos import KUDOS_METRIC, KUDOS_SCALE
from callboard_contracts.quota import HEARD_METRIC, UNITS_PER_TOKEN, WorkKind
from callboard_quota.domain.amounts import MS_PER_S, Cost
from callboard_quota.domain.windows import (
    DAY_HOURS,
    LIFETIME_BUCKET,
    CalendarMinute,
    CalendarMonth,
    Lifetime,
    OpenHolds,
    SlidingHours,
    Window,
    hour_bucket,
    minute_bucket,
)

Charge = Literal["cost", "heard", "kudos", "all", "nothing"]
"""What remains of a hold's entry when it is settled: the cost of the work in units, the milliseconds of sound that were
heard, the kudos that were spent, all, or nothing."""
METRICS: dict[str, "Metric"] = {}
"""By the name that stands in subjects and holds."""
LIMIT_KINDS: dict[str, "LimitKind"] = {}


@dataclass(frozen=True, slots=True, eq=False)
class Metric:
    """What is counted, in which buckets of time, and what a settled hold leaves of it."""

    name: str
    bucket: Callable[[float], str]
    charge: Charge
    client_factor: int = 1
    """How many of the counter's measure make one of the client's."""
    is_brief: bool = False
    """Whether its counters are dropped when their hour is closed, since no limit looks back that far."""
    only: WorkKind | None = None
    """The one kind of work that is counted; left out, every kind."""

    @property
    def is_hourly(self) -> bool:
        """Whether a limit on it may count earlier hours too."""
        return self.bucket is hour_bucket

    @property
    def is_measured(self) -> bool:
        """Whether its amounts come from the work that was done, and so are the same as usage events say."""
        return self.charge in {"cost", "heard"}

    def counts(self, kind: WorkKind) -> bool:
        """Whether work of that kind raises the counter."""
        return self.only in {None, kind}

    def held(self, cost: Cost) -> int:
        """What a request that may cost so much raises the counter by."""
        if self.charge == "cost":
            return cost.units
        return cost.heard_ms if self.charge == "heard" else 1


@dataclass(frozen=True, slots=True, eq=False)
class LimitKind:
    """One kind of limit; `text` says to a client what is limited."""

    name: str
    metric: Metric
    window: Window
    text: str
    is_balance: bool = False
    """Whether the limit is what an account owns, and no setting of a tier; such a counter may be below zero."""
    waits: bool = False
    """Whether a request over the limit waits a moment for an open hold to end."""

    def refusal(self, owner: str, allowed: int, used: int, *, may_fit_later: bool) -> str:
        """What a client is told that is over the limit; `used` is in the counter's measure."""
        if self.is_balance:
            # What others hold at the same moment may be more than there is, until some of them are refused too.
            return (
                f"The account has {max(0, -used) / self.metric.client_factor:g} {self.text}, fewer than this may cost."
            )
        state = "reached" if may_fit_later else "lower than what this request may need"
        return f"The limit of {owner} for {self.text} ({allowed}) is {state}."


def register(kind: LimitKind) -> LimitKind:
    """Makes a kind, and its metric, known to every decision."""
    METRICS[kind.metric.name] = kind.metric
    LIMIT_KINDS[kind.name] = kind
    return kind


def measured(charge: Charge, cost: Cost) -> int:
    """What of a cost a charge by measured work is."""
    return cost.heard_ms if charge == "heard" else cost.units


def is_measured(metric: str) -> bool:
    """Whether a metric is charged what usage events say."""
    return metric in METRICS and METRICS[metric].is_measured


def charge_of(metric: str) -> Charge:
    """What a metric is charged; nothing for a credit, and for the metric of a kind that is gone."""
    known = METRICS.get(metric)
    return known.charge if known else "nothing"


UNITS = Metric("units", hour_bucket, "cost", client_factor=UNITS_PER_TOKEN)
HEARD = Metric(HEARD_METRIC, hour_bucket, "heard", client_factor=MS_PER_S, only="transcription")
JOBS = Metric("jobs", hour_bucket, "nothing", is_brief=True)
REQUESTS = Metric("requests", minute_bucket, "all", is_brief=True)
KUDOS = Metric(KUDOS_METRIC, lambda _at: LIFETIME_BUCKET, "kudos", client_factor=KUDOS_SCALE)

TOKENS_PER_DAY = register(LimitKind("tokens_per_day", UNITS, SlidingHours(DAY_HOURS), "the tokens of 24 hours"))
TOKENS_PER_MONTH = register(LimitKind("tokens_per_month", UNITS, CalendarMonth(), "the tokens of the month"))
HEARD_SECONDS_PER_DAY = register(
    LimitKind("heard_seconds_per_day", HEARD, SlidingHours(DAY_HOURS), "the seconds of sound heard in 24 hours")
)
HEARD_SECONDS_PER_MONTH = register(
    LimitKind("heard_seconds_per_month", HEARD, CalendarMonth(), "the seconds of sound heard in the month")
)
REQUESTS_PER_MINUTE = register(LimitKind("requests_per_minute", REQUESTS, CalendarMinute(), "the requests of a minute"))
JOBS_AT_ONCE = register(LimitKind("jobs_at_once", JOBS, OpenHolds(), "the jobs at one time", waits=True))
BALANCE = register(LimitKind("kudos", KUDOS, Lifetime(), "kudos", is_balance=True))
