"""Buckets of time and the windows of buckets that limits count. All times are Unix seconds, all calendars UTC.

Use is counted in hour buckets, so that one counter serves the day, the month and the open holds; requests are counted
in minute buckets. A window is the present bucket and the earlier ones that still count.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache

from callboard_contracts.streams import LEASE_LIFE_S

LIFETIME_BUCKET = "ever"
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
OPEN_HOLD_HOURS = -(-(LEASE_LIFE_S + int(SETTLE_GRACE_S)) // HOUR_S)
RETRY_SOON_S = 1.0
"""When to look again at what does not free by the passing of time."""


def hour_bucket(at: float) -> str:
    """The bucket of the hour that a time lies in."""
    return _hour_name(int(at // HOUR_S))


@lru_cache(maxsize=2048)
def _hour_name(hour: int) -> str:
    # Cached, since the window of a month names up to 743 hours and formatting is slow.
    return time.strftime("h%Y%m%d%H", time.gmtime(hour * HOUR_S))


def minute_bucket(at: float) -> str:
    """The bucket of the minute that a time lies in."""
    return time.strftime("t%Y%m%d%H%M", time.gmtime(at))


def hour_start(bucket: str) -> float:
    """The time at which an hour's bucket begins; raises ValueError for the name of anything else."""
    return datetime.strptime(bucket, "h%Y%m%d%H").replace(tzinfo=UTC).timestamp()


def minutes_of(bucket: str) -> tuple[str, ...]:
    """The minute buckets of an hour."""
    began = hour_start(bucket)
    return tuple(minute_bucket(began + n * MINUTE_S) for n in range(HOUR_S // MINUTE_S))


def month_start(at: float) -> float:
    """The time at which the calendar month of a time begins."""
    return datetime.fromtimestamp(at, UTC).replace(day=1, hour=0, minute=0, second=0, microsecond=0).timestamp()


def month_end(at: float) -> float:
    """The time at which the next calendar month begins."""
    return month_start(month_start(at) + timedelta(days=32).total_seconds())


def is_after_turn(at: float) -> bool:
    """Whether another process, by its clock, may still count in the hour before.

    Around the turn of an hour the neighbouring bucket is read after one's own increment, so that of two processes that
    count across the turn at least one sees the other.
    """
    return at % HOUR_S < DECISION_LIFE_S + 2 * CLOCK_SKEW_S


def is_before_turn(at: float) -> bool:
    """Whether another process, by its clock, may already count in the hour to come."""
    return HOUR_S - at % HOUR_S <= DECISION_LIFE_S + CLOCK_SKEW_S


class Window:
    """Which buckets a limit counts, and when they free; by default the present bucket alone.

    A window of several buckets is one of hours.
    """

    def earlier_hours(self, at: float) -> int:
        """How many hours before the present one count."""
        return 0

    def earlier_buckets(self, at: float) -> tuple[str, ...]:
        """The buckets before the present one that count, the newest first."""
        return tuple([hour_bucket(at - n * HOUR_S) for n in range(1, self.earlier_hours(at) + 1)])

    def counts_next_hour(self, at: float) -> bool:
        """Whether use in the hour to come falls into the same window."""
        return self.earlier_hours(at + HOUR_S) > 0

    def frees_in_s(self, at: float, used: Mapping[str, int], excess: int) -> float | None:
        """How long until at least `excess` has left the window by the passing of time; None when it never will.

        `used` is the use by hour, of which some may lie before the window; it is empty where hours are not counted.
        """
        return self.resets_in_s(at)

    def resets_in_s(self, at: float, oldest_at: float | None = None) -> float:
        """How long until the window next frees something by the passing of time.

        `oldest_at` is when the earliest hour with use began, the present one unless it is given.
        """
        return RETRY_SOON_S


@dataclass(frozen=True, slots=True)
class SlidingHours(Window):
    """The present hour and so many before it, so that no span of that length at any position holds more.

    The price is that use is forgotten up to an hour late.
    """

    hours: int

    def earlier_hours(self, at: float) -> int:
        """Always the same number."""
        return self.hours

    def frees_in_s(self, at: float, used: Mapping[str, int], excess: int) -> float | None:
        """When the hours with the excess have left, the earliest first."""
        first, freed = hour_bucket(at - self.hours * HOUR_S), 0
        for bucket in sorted(bucket for bucket in used if bucket >= first):
            freed += used[bucket]
            if freed >= excess:
                return max(RETRY_SOON_S, self.resets_in_s(at, hour_start(bucket)))
        return None

    def resets_in_s(self, at: float, oldest_at: float | None = None) -> float:
        """When the earliest hour with use leaves."""
        began = at // HOUR_S * HOUR_S if oldest_at is None else oldest_at
        return began + (self.hours + 1) * HOUR_S - at


class CalendarMonth(Window):
    """The hours of the calendar month."""

    def earlier_hours(self, at: float) -> int:
        """Those since the month began."""
        return int((at - month_start(at)) // HOUR_S)

    def resets_in_s(self, at: float, oldest_at: float | None = None) -> float:
        """When the month ends."""
        return month_end(at) - at


class CalendarMinute(Window):
    """The calendar minute."""

    def resets_in_s(self, at: float, oldest_at: float | None = None) -> float:
        """When the minute ends."""
        return MINUTE_S - at % MINUTE_S


class OpenHolds(Window):
    """What is held now, in whichever hour it was taken.

    It looks back longer than any lease lives, so a count that was lost in a crash heals by itself.
    """

    def earlier_hours(self, at: float) -> int:
        """As many as a lease and its settlement can span."""
        return OPEN_HOLD_HOURS


class Lifetime(Window):
    """The one bucket of all time."""

    def frees_in_s(self, at: float, used: Mapping[str, int], excess: int) -> float | None:
        """Never."""
        return None
