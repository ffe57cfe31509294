"""Time-stretching: the length changes, the pitch, the first and the last sound do not."""

import numpy as np
import pytest

from callboard_contracts.speech import SAMPLE_RATE_HZ
from callboard_tts.domain.ports import Samples
from callboard_tts.domain.tempo import FASTEST, SLOWEST, Stretcher, engine_speed

pytestmark = pytest.mark.unit


def tone(duration_s: float, pitch_hz: float = 300.0) -> Samples:
    moments = np.arange(int(duration_s * SAMPLE_RATE_HZ), dtype=np.float32) / SAMPLE_RATE_HZ
    return (0.3 * np.sin(2 * np.pi * pitch_hz * moments)).astype(np.float32)


def stretched(sound: Samples, factor: float, size: int = 10**9) -> Samples:
    stretcher = Stretcher(factor)
    parts = [stretcher.feed(sound[at : at + size]) for at in range(0, sound.size, size)]
    return np.concatenate([*parts, stretcher.feed(sound[:0], final=True)])


def pitch_hz(sound: Samples) -> float:
    spectrum = np.abs(np.fft.rfft(sound * np.hanning(sound.size)))
    return float(np.argmax(spectrum)) * SAMPLE_RATE_HZ / sound.size


@pytest.mark.parametrize("speed", [0.25, 0.5, 0.69, 0.7, 1.0, 1.5, 1.51, 2.0, 4.0])
def test_engine_speaks_at_natural_speeds_only(speed: float) -> None:
    assert SLOWEST <= engine_speed(speed) <= FASTEST
    assert engine_speed(speed) == speed or not SLOWEST <= speed <= FASTEST


@pytest.mark.parametrize("factor", [0.25 / SLOWEST, 0.6, 0.9, 1.2, 2.0, 4 / FASTEST])
def test_length_changes_and_pitch_does_not(factor: float) -> None:
    out = stretched(tone(3.0), factor)
    assert out.size / SAMPLE_RATE_HZ == pytest.approx(3.0 / factor, abs=0.06)
    assert pitch_hz(out[out.size // 4 : out.size // 2]) == pytest.approx(300, abs=4)


@pytest.mark.parametrize("factor", [0.25 / SLOWEST, 4 / FASTEST])
def test_first_and_last_sounds_are_kept(factor: float) -> None:
    sound = np.concatenate([tone(0.2, 400), np.zeros(SAMPLE_RATE_HZ, np.float32), tone(0.2, 800)])
    out = stretched(sound, factor)
    length = int(0.2 * SAMPLE_RATE_HZ / factor)
    assert pitch_hz(out[: int(length * 0.8)]) == pytest.approx(400, abs=25)
    assert pitch_hz(out[-int(length * 0.8) :]) == pytest.approx(800, abs=25)


@pytest.mark.parametrize("size", [37, 1000, 24_000])
def test_chunks_do_not_change_what_comes_out(size: int) -> None:
    sound = np.concatenate([tone(0.5, 200), tone(0.5, 500)])
    whole = stretched(sound, 1.7)
    parts = stretched(sound, 1.7, size)
    assert parts.size == whole.size
    np.testing.assert_allclose(parts, whole, atol=1e-4)


def test_nothing_stays_nothing() -> None:
    assert stretched(np.zeros(0, np.float32), 2.0).size == 0
