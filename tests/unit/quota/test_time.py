"""Buckets, windows and the clock that never goes back."""

from datetime import UTC, datetime
from pathlib import Path

import pytest

from callboard_contracts.config import Config
from callboard_contracts.streams import DEDUPLICATION_WINDOW_S, LEASE_LIFE_S
from callboard_kit.lifecycle import StartError
from callboard_quota import settings
from callboard_quota.backends.clock import SteadyClock
from callboard_quota.domain.limit_kinds import REQUESTS_PER_MINUTE, TOKENS_PER_DAY, TOKENS_PER_MONTH
from callboard_quota.domain.windows import (
    DAY_HOURS,
    SETTLE_GRACE_S,
    hour_bucket,
    hour_start,
    is_after_turn,
    is_before_turn,
    minute_bucket,
    month_end,
    month_start,
)

pytestmark = pytest.mark.unit


def at(*parts: int) -> float:
    return datetime(*parts, tzinfo=UTC).timestamp()  # pyright: ignore[reportArgumentType]


def test_ids_are_remembered_longer_than_any_is_used() -> None:
    assert LEASE_LIFE_S + SETTLE_GRACE_S < DEDUPLICATION_WINDOW_S


def test_buckets_are_named_in_utc() -> None:
    moment = at(2026, 2, 28, 23, 59, 59)
    assert hour_bucket(moment) == "h2026022823"
    assert hour_bucket(moment + 1) == "h2026030100"
    assert minute_bucket(moment) == "t202602282359"
    assert hour_start("h2026022823") == at(2026, 2, 28, 23)


def test_windows_reach_as_far_as_they_should() -> None:
    moment = at(2026, 3, 1, 1, 30)
    assert TOKENS_PER_MONTH.window.earlier_buckets(moment) == ("h2026030100",)
    assert REQUESTS_PER_MINUTE.window.earlier_buckets(moment) == ()
    day = TOKENS_PER_DAY.window.earlier_buckets(moment)
    assert (len(day), day[0], day[-1]) == (DAY_HOURS, "h2026030100", "h2026022801")
    assert len(TOKENS_PER_MONTH.window.earlier_buckets(at(2026, 1, 31, 23, 59))) == 31 * 24 - 1


@pytest.mark.parametrize(("month", "days"), [((2026, 2), 28), ((2028, 2), 29), ((2026, 12), 31), ((2026, 4), 30)])
def test_months_have_their_length(month: tuple[int, int], days: int) -> None:
    middle = at(*month, 15, 12)
    assert month_end(middle) - month_start(middle) == days * 86_400


def test_neighbouring_hours_are_read_only_around_the_turn() -> None:
    turn = at(2026, 11, 20, 13)
    assert is_before_turn(turn - 3)
    assert is_after_turn(turn + 3)
    assert not is_before_turn(turn + 30)
    assert not is_after_turn(turn + 30)


def test_clock_that_is_set_back_runs_on() -> None:
    wall, pace = [1000.0], [0.0]
    clock = SteadyClock(lambda: wall[0], lambda: pace[0])
    pace[0], wall[0] = 1.0, 1001.0
    assert clock.now() == 1001.0
    pace[0], wall[0] = 3.0, 901.0
    assert clock.now() == 1002.0
    assert clock.steady_for_s() == 0.0
    pace[0], wall[0] = 103.0, 1001.0
    assert clock.now() == 1052.0
    pace[0], wall[0] = 300.0, 1198.0
    assert clock.now() == 1198.0


def test_clock_notes_a_jump_ahead() -> None:
    wall, pace = [1000.0], [0.0]
    clock = SteadyClock(lambda: wall[0], lambda: pace[0])
    assert clock.steady_for_s() == float("inf")
    pace[0], wall[0] = 1.0, 5000.0
    assert clock.now() == 5000.0
    pace[0], wall[0] = 11.0, 5010.0
    assert clock.steady_for_s() == 10.0


def test_requests_that_outlive_any_lease_stop_the_start() -> None:
    settings.check(Config())
    with pytest.raises(StartError, match=r"edge\.request_timeout_s"):
        settings.check(Config.model_validate({"edge": {"request_timeout_s": 3590}}))


def test_changed_file_is_adopted_and_a_wrong_one_ignored(tmp_path: Path) -> None:
    file = tmp_path / "callboard.toml"
    file.write_text("[quota]\nrequire_key = false\n", encoding="utf-8")
    adopted: list[Config] = []
    live = settings.LiveSettings(file, Config(), adopted.append)
    live.reload()
    assert adopted == []
    file.write_text("[quota]\nrequire_key = true\n", encoding="utf-8")
    live.reload()
    file.write_text("[quota]\nrequire_key = maybe\n", encoding="utf-8")
    live.reload()
    file.unlink()
    live.reload()
    assert [config.quota.require_key for config in adopted] == [True]
