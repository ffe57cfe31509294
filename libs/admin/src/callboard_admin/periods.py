"""Times as operators write them: a period such as `90d`, or a date."""

import re
from datetime import UTC, datetime

from callboard_contracts.errors import CallboardError, ErrorCode

_SECONDS = {"m": 60, "h": 3600, "d": 86_400, "w": 7 * 86_400}
LAST_TIME = datetime(9999, 12, 31, tzinfo=UTC).timestamp()
"""The latest time that can be written as a date."""


def parse_end(text: str, now: float, param: str) -> float:
    """Parses a period from now, or a date (its start, UTC), into a Unix time.

    Raises:
        CallboardError: `invalid_request` for `param`: it is neither, or lies in the past.
    """
    seconds = _period_s(text)
    at = _date(text, param) if seconds is None else now + seconds
    if seconds is None and at <= now:
        raise CallboardError(ErrorCode.INVALID_REQUEST, f"{text} is over already", param=param)
    if at > LAST_TIME:
        raise CallboardError(ErrorCode.INVALID_REQUEST, f"{text} is too far away", param=param)
    return at


def parse_start(text: str, now: float, param: str) -> float:
    """Parses a period before now, or a date (its start, UTC), into a Unix time; not before 1970.

    Raises:
        CallboardError: `invalid_request` for `param`: it is neither.
    """
    seconds = _period_s(text)
    return max(0.0, _date(text, param) if seconds is None else now - seconds)


def show_time(at: float) -> str:
    """Formats a Unix time as a date and time in UTC, to the millisecond."""
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds")


def _period_s(text: str) -> int | None:
    period = re.fullmatch(r"([0-9]{1,6})([mhdw])", text)
    return int(period[1]) * _SECONDS[period[2]] if period else None


def _date(text: str, param: str) -> float:
    try:
        date = datetime.fromisoformat(text)
    except ValueError:
        raise CallboardError(
            ErrorCode.INVALID_REQUEST, f"found {text[:40]!r}, allowed are a period such as 30d or a date", param=param
        ) from None
    return (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp()
