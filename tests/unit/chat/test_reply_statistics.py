"""How fast a model writes, as a worker tells those who wait."""

import pytest

from callboard_chat.domain.reply_statistics import ReplyStatistics
from callboard_contracts.workers import Throughput

pytestmark = pytest.mark.unit


def test_nothing_is_told_before_the_first_reply() -> None:
    statistics = ReplyStatistics()
    statistics.learn(0, 1.0)
    assert statistics.throughput is None


def test_speed_and_length_are_means_and_older_replies_fade() -> None:
    statistics = ReplyStatistics()
    statistics.learn(40, 10.0)
    statistics.learn(80, 10.0)
    assert statistics.throughput == Throughput(tokens_per_s=6.0, tokens_per_reply=60.0, tokens_last_minute=120)
    for _ in range(200):
        statistics.learn(100, 5.0)
    found = statistics.throughput
    assert found is not None
    assert (found.tokens_per_s, found.tokens_per_reply) == (pytest.approx(20, 0.01), pytest.approx(100, 0.01))


def test_tokens_of_the_last_minute_are_forgotten_after_it() -> None:
    now = [100.0]
    statistics = ReplyStatistics(lambda: now[0])
    statistics.learn(10, 1.0)
    now[0] += 30
    statistics.learn(20, 1.0)
    found = statistics.throughput
    assert found is not None
    assert found.tokens_last_minute == 30
    now[0] += 40
    found = statistics.throughput
    assert found is not None
    assert found.tokens_last_minute == 20
