"""Long sounds are cut where it is quiet, and nothing is lost."""

import numpy as np
import pytest

from callboard_stt.domain.ports import SAMPLE_RATE_HZ
from callboard_stt.domain.stretches import STRETCH_S, stretches
from tests.support.sounds import noise, silence, tone

pytestmark = pytest.mark.unit


def test_short_sound_is_one_stretch() -> None:
    assert list(stretches(tone(300, 2))) == [(0, 2 * SAMPLE_RATE_HZ)]
    assert list(stretches(silence(0))) == []


def test_stretches_follow_one_another_and_end_where_it_is_quiet() -> None:
    quiet_at = STRETCH_S - 10
    sound = np.concatenate([noise(quiet_at), silence(1), noise(STRETCH_S)])
    cut = list(stretches(sound))
    assert [begin for begin, _ in cut[1:]] == [end for _, end in cut[:-1]]
    assert (cut[0][0], cut[-1][1]) == (0, sound.size)
    assert quiet_at <= cut[0][1] / SAMPLE_RATE_HZ <= quiet_at + 1


def test_takeover_begins_in_the_middle() -> None:
    sound = tone(300, 4)
    assert list(stretches(sound, SAMPLE_RATE_HZ)) == [(SAMPLE_RATE_HZ, 4 * SAMPLE_RATE_HZ)]
