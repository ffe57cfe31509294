"""Silence at the ends of a piece goes, silence inside it stays."""

import numpy as np
import pytest

from callboard_contracts.speech import SAMPLE_RATE_HZ
from callboard_tts.domain.ports import Samples
from callboard_tts.domain.sound import Trimmer, from_pcm, silence, sound_end, to_pcm

pytestmark = pytest.mark.unit

MS = SAMPLE_RATE_HZ // 1000


def tone(duration_ms: int, loudness: float = 0.3) -> Samples:
    moments = np.arange(duration_ms * MS, dtype=np.float32) / SAMPLE_RATE_HZ
    return (loudness * np.sin(2 * np.pi * 300 * moments)).astype(np.float32)


def quiet(duration_ms: int, seed: int = 0) -> Samples:
    noise = np.random.default_rng(seed).normal(0, 0.001, duration_ms * MS)
    return noise.astype(np.float32)


def trimmed(parts: list[Samples]) -> Samples:
    trimmer = Trimmer()
    return np.concatenate([*(trimmer.feed(part) for part in parts), trimmer.finish()])


def test_ends_are_trimmed_to_within_five_milliseconds() -> None:
    out = trimmed([np.concatenate([quiet(313), tone(500), quiet(287)])])
    assert 495 <= out.size / MS <= 506
    assert abs(out[0]) < 0.01
    assert abs(out[-1]) < 0.01


def test_silence_between_words_stays() -> None:
    out = trimmed([np.concatenate([quiet(300), tone(200), quiet(400), tone(200), quiet(300)])])
    assert 795 <= out.size / MS <= 806


@pytest.mark.parametrize("size", [1, 37, 240, 5000, 100_000])
def test_parts_do_not_change_what_comes_out(size: int) -> None:
    sound = np.concatenate([quiet(313), tone(200), quiet(401, 1), tone(77), quiet(287, 2)])
    parts = [sound[at : at + size] for at in range(0, sound.size, size)]
    if size == 1:
        parts = [sound[at : at + 1] for at in range(2000)] + [sound[2000:]]
    assert np.array_equal(trimmed(parts), trimmed([sound]))


def test_silent_piece_becomes_nothing() -> None:
    assert trimmed([quiet(500), quiet(100)]).size == 0
    assert trimmed([]).size == 0


def test_sound_to_the_very_end_is_kept() -> None:
    assert trimmed([tone(101)]).size == 101 * MS


def test_end_of_a_sound_is_where_a_trimmer_ends_it() -> None:
    for sound in (tone(101), np.concatenate([tone(50), quiet(20)]), trimmed([np.concatenate([tone(30), quiet(9)])])):
        assert sound_end(sound) == trimmed([sound]).size
    assert sound_end(quiet(50)) == sound_end(quiet(0)) == 0


def test_trimmer_can_be_used_again() -> None:
    trimmer = Trimmer()
    trimmer.feed(tone(50))
    trimmer.finish()
    assert trimmer.feed(quiet(50)).size == 0


def test_pcm_is_held_at_full_scale_and_comes_back() -> None:
    pcm = to_pcm(np.array([0.0, 0.5, 2.0, -2.0], dtype=np.float32))
    assert np.frombuffer(pcm, "<i2").tolist() == [0, 16383, 32767, -32767]
    np.testing.assert_allclose(from_pcm(pcm + b"x"), [0, 0.5, 1, -1], atol=1e-3)


def test_silence_has_the_asked_length() -> None:
    assert silence(600) == bytes(600 * MS * 2)
