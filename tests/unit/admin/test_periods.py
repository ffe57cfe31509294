"""Times as operators write them."""

import pytest

from callboard_admin.periods import parse_end, parse_start, show_time
from callboard_contracts.errors import CallboardError, ErrorCode

pytestmark = pytest.mark.unit

NOW = 1_795_219_200.0
"""2026-11-21 00:00 UTC."""


@pytest.mark.parametrize(
    ("text", "at"),
    [
        ("30m", NOW + 1800),
        ("12h", NOW + 43_200),
        ("90d", NOW + 90 * 86_400),
        ("2w", NOW + 14 * 86_400),
        ("0m", NOW),
        ("2026-11-22", NOW + 86_400),
        ("2026-11-21T00:00:01", NOW + 1),
        ("2026-11-21T02:00:00+01:00", NOW + 3600),
    ],
)
def test_end_is_a_period_from_now_or_a_date(text: str, at: float) -> None:
    assert parse_end(text, NOW, "expires") == at


@pytest.mark.parametrize(
    "text", ["", "soon", "1y", "-1d", "1.5h", "\u0661d", "2026-13-01", "2026-11-20", "999999w", "1e9", "d"]
)
def test_malformed_or_past_end_is_refused_by_its_name(text: str) -> None:
    with pytest.raises(CallboardError) as caught:
        parse_end(text, NOW, "expires")
    assert (caught.value.info.code, caught.value.info.param) == (ErrorCode.INVALID_REQUEST, "expires")


@pytest.mark.parametrize(
    ("text", "at"), [("24h", NOW - 86_400), ("2026-11-20", NOW - 86_400), ("999999w", 0.0), ("0001-01-01", 0.0)]
)
def test_start_is_a_period_until_now_or_a_date(text: str, at: float) -> None:
    assert parse_start(text, NOW, "since") == at


def test_time_is_shown_in_utc() -> None:
    assert show_time(NOW + 0.25) == "2026-11-21T00:00:00.250+00:00"
