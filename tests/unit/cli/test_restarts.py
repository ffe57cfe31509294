"""The pauses between restarts, and their end."""

import pytest

from callboard_cli.up.restarts import LONGEST_PAUSE_S, MAX_DEATHS, WINDOW_S, Restarts

pytestmark = pytest.mark.unit


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_pauses_grow_until_the_process_is_given_up() -> None:
    restarts = Restarts(Clock())
    assert [restarts.pause_s() for _ in range(MAX_DEATHS)] == [1.0, 2.0, 4.0, 8.0, None]
    assert restarts.count == MAX_DEATHS - 1


def test_a_process_that_dies_now_and_then_is_started_again_for_ever() -> None:
    clock = Clock()
    restarts = Restarts(clock)
    for _ in range(50):
        assert restarts.pause_s() == 1.0
        clock.now += WINDOW_S
    for _ in range(50):
        pause_s = restarts.pause_s()
        assert pause_s is not None
        assert pause_s <= LONGEST_PAUSE_S
        clock.now += WINDOW_S / 3
    assert restarts.count == 100
