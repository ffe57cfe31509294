"""An engine that is away is asked again within the deadline; one that failed is not."""

import pytest

from callboard_chat.domain.retries import MAX_BREAKS, Retries, final_error
from callboard_contracts.errors import ErrorCode, ErrorInfo

pytestmark = pytest.mark.unit

AWAY = ErrorInfo(code=ErrorCode.ENGINE_UNAVAILABLE, message="Away.")


def test_the_delays_grow_and_stay_bounded() -> None:
    retries = Retries(can_continue=True)
    delays = [retries.delay_s(AWAY, said=False, left_s=60) for _ in range(20)]
    assert all(delay is not None and 0.03 < delay < 4 for delay in delays)
    assert delays[0] is not None
    assert delays[10] is not None
    assert delays[0] < 0.1 < 2 < delays[10]


def test_a_delay_past_the_deadline_is_the_end() -> None:
    assert Retries(can_continue=True).delay_s(AWAY, said=False, left_s=0.01) is None


def test_the_engines_own_wish_counts() -> None:
    busy = AWAY.model_copy(update={"retry_after_s": 7.0})
    assert Retries(can_continue=True).delay_s(busy, said=False, left_s=60) == 7.0
    assert Retries(can_continue=True).delay_s(busy, said=False, left_s=5) is None


@pytest.mark.parametrize("code", [code for code in ErrorCode if code is not ErrorCode.ENGINE_UNAVAILABLE])
def test_no_other_error_is_tried_again(code: ErrorCode) -> None:
    error = ErrorInfo(code=code, message="No.")
    assert Retries(can_continue=True).delay_s(error, said=False, left_s=60) is None
    assert final_error(error, said=True) == error


def test_in_the_middle_of_a_reply_it_is_tried_a_few_times_and_only_where_it_can_go_on() -> None:
    retries = Retries(can_continue=True)
    delays = [retries.delay_s(AWAY, said=True, left_s=60) for _ in range(MAX_BREAKS + 1)]
    assert [delay is None for delay in delays] == [False] * MAX_BREAKS + [True]
    assert Retries(can_continue=False).delay_s(AWAY, said=True, left_s=60) is None
    assert final_error(AWAY, said=True).code is ErrorCode.ENGINE_FAILED
    assert final_error(AWAY, said=False) == AWAY
