"""What holds pay for, and when how much more is asked for."""

import pytest

from callboard_contracts.quota import Hold
from callboard_tts.domain.hold_limits import Allowance, allowed_ms, most_ms, usual_ms
from tests.unit.tts.fake_bus import hold_for

pytestmark = pytest.mark.unit

SLICE_MS = 15_000


def allowance(*lengths_ms: int) -> Allowance:
    return Allowance([hold_for(length) for length in lengths_ms], SLICE_MS)


@pytest.mark.parametrize("rate", [1, 7, 999, 1000, 100_000, 333_333])
@pytest.mark.parametrize("length_ms", [1, 999, 15_000, 123_457])
def test_hold_pays_for_at_least_what_was_asked_and_never_for_more_than_its_units(rate: int, length_ms: int) -> None:
    holds = [hold_for(length_ms, "a", rate), hold_for(length_ms, "b", rate)]
    allowed = allowed_ms(holds)
    assert allowed is not None
    assert allowed >= 2 * length_ms
    assert -(-allowed * rate // 1000) <= sum(hold.units or 0 for hold in holds)


@pytest.mark.parametrize(
    "holds",
    [
        [],
        [hold_for(1000, rate=0)],
        [hold_for(1000).model_copy(update={"entries": ()})],
    ],
    ids=["admitted without quota", "sound is free", "no units are counted"],
)
def test_nothing_bounds_sound(holds: list[Hold]) -> None:
    assert allowed_ms(holds) is None
    free = Allowance(holds, SLICE_MS)
    assert free.lacks_ms(10**9) == 0
    assert free.ahead_ms(10**9, 10**6, 10**6) == 0
    assert free.needed_ms(10**9, 10**6) == 0


def test_slice_is_asked_for_ahead_once_the_next_piece_may_not_fit() -> None:
    held = allowance(15_000)
    assert held.ahead_ms(5_000, 9_000, 60_000) == 0
    assert held.ahead_ms(8_000, 9_000, 60_000) == SLICE_MS


def test_no_more_is_asked_for_than_the_rest_of_the_text_can_need() -> None:
    held = allowance(15_000)
    assert held.ahead_ms(14_000, 2_000, 4_000) == 3_000
    assert held.needed_ms(16_000, 500) == 1_500
    assert held.needed_ms(16_000, 0) == 1_000


def test_piece_longer_than_a_slice_is_asked_for_whole() -> None:
    held = allowance(15_000)
    assert held.ahead_ms(10_000, 40_000, 90_000) == 35_000
    assert held.needed_ms(50_000, 90_000) == 35_000


def test_after_a_refusal_only_what_is_missing_is_asked_for() -> None:
    held = allowance(15_000)
    assert held.needed_ms(16_000, 90_000) == SLICE_MS
    held.refuse()
    assert held.ahead_ms(14_000, 9_000, 90_000) == 0
    assert held.needed_ms(16_000, 90_000) == 1_000


def test_granted_and_unheld_sound_add_up() -> None:
    held = allowance(1_000)
    held.add(hold_for(2_000))
    held.add_unheld(500)
    assert held.lacks_ms(3_500) == 0
    assert held.lacks_ms(3_501) == 1


@pytest.mark.parametrize("text", ["An ordinary sentence of several words.", "NASA and ESA", "你好，世界", "ありがとう"])
@pytest.mark.parametrize("speed", [0.25, 1.0, 4.0])
def test_longest_is_longer_than_usual(text: str, speed: float) -> None:
    assert most_ms(text, speed) > usual_ms(text, speed) > 0
    assert usual_ms(text, speed) == pytest.approx(usual_ms(text, 1.0) / speed, abs=1)
