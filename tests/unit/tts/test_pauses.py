"""The pauses inside a piece: as long as their kind says, wherever the engine's own silence lies."""

import numpy as np
import pytest

from callboard_contracts.speech import SAMPLE_RATE_HZ
from callboard_tts.domain.boundaries import Pause
from callboard_tts.domain.pauses import Mark, even_pauses
from callboard_tts.domain.ports import Samples

pytestmark = pytest.mark.unit

MS = SAMPLE_RATE_HZ // 1000
PAUSES_MS = {Pause.NONE: 0, Pause.CLAUSE: 300, Pause.SENTENCE: 600}


def tone(duration_ms: int) -> Samples:
    moments = np.arange(duration_ms * MS, dtype=np.float32) / SAMPLE_RATE_HZ
    return (0.3 * np.sin(2 * np.pi * 300 * moments)).astype(np.float32)


def quiet(duration_ms: int) -> Samples:
    return np.random.default_rng(3).normal(0, 0.001, duration_ms * MS).astype(np.float32)


def silences_ms(sound: Samples) -> list[float]:
    loud = np.flatnonzero(np.abs(sound) > 0.01)
    gaps = np.diff(loud) / MS
    return [float(gap) for gap in gaps if gap > 20]


@pytest.mark.parametrize("own_ms", [60, 300, 900])
def test_pause_gets_the_length_of_its_kind(own_ms: int) -> None:
    sound = np.concatenate([tone(400), quiet(own_ms), tone(400), quiet(own_ms), tone(400)])
    first, second = 400 * MS, (800 + own_ms) * MS
    marks = [Mark(first, first + own_ms * MS, Pause.CLAUSE), Mark(second, second + own_ms * MS, Pause.SENTENCE)]
    assert silences_ms(even_pauses(sound, marks, PAUSES_MS)[0]) == pytest.approx([300, 600], abs=10)


def test_silence_beside_the_time_of_its_mark_is_found() -> None:
    sound = np.concatenate([tone(400), quiet(200), tone(400)])
    mark = Mark(320 * MS, 380 * MS, Pause.CLAUSE)
    assert silences_ms(even_pauses(sound, [mark], PAUSES_MS)[0]) == pytest.approx([300], abs=10)


def test_silence_without_a_mark_and_a_mark_without_silence_stay() -> None:
    sound = np.concatenate([tone(400), quiet(150), tone(800)])
    mark = Mark(1000 * MS, 1040 * MS, Pause.CLAUSE)
    assert np.array_equal(even_pauses(sound, [mark], PAUSES_MS)[0], sound)


def test_end_of_a_sentence_that_the_engine_ran_over_gets_its_pause() -> None:
    sound = tone(1000)
    sound[495 * MS : 505 * MS] *= 0.2
    out, _cuts = even_pauses(sound, [Mark(480 * MS, 530 * MS, Pause.SENTENCE)], PAUSES_MS)
    assert silences_ms(out) == pytest.approx([600], abs=10)
    assert out.size == sound.size + 600 * MS


def test_seams_do_not_click() -> None:
    sound = np.concatenate([tone(400), quiet(200), tone(400)])
    out, _cuts = even_pauses(sound, [Mark(400 * MS, 600 * MS, Pause.CLAUSE)], PAUSES_MS)
    assert float(np.max(np.abs(np.diff(out)))) < 0.05
