import pytest
from hypothesis import given
from hypothesis import strategies as st

from callboard_contracts.speech_duration import max_audio_ms, usual_audio_ms

pytestmark = pytest.mark.unit


def bound(text: str, speed: float = 1.0) -> int:
    return max_audio_ms(text, speed, 300, 600)


# Lengths that a real voice needs, slow ones among them: the bound stays above each.
@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("Hello there.", 1.6),
        ("WWW", 2.4),
        ("7777", 2.8),
        ("100%", 1.4),
        ("The quick brown fox jumps over the lazy dog.", 3.4),
        ("今天天气很好，我们去公园散步吧。", 4.5),
        ("No. Yes. No. Yes.", 5.0),
    ],
)
def test_bound_lies_above_real_speech(text: str, seconds: float) -> None:
    assert bound(text) >= seconds * 1000
    assert bound(text, 0.25) >= seconds * 4000
    assert bound(text, 4.0) >= seconds * 250


def test_bound_of_usual_prose_stays_within_reason() -> None:
    prose = "It was a bright cold day in April, and the clocks were striking thirteen. " * 10
    usual_ms = len(prose) / 14 * 1000
    assert usual_ms < bound(prose) < 4 * usual_ms


@given(st.text(max_size=200), st.text(max_size=50), st.floats(0.25, 4.0))
def test_bound_grows_with_the_text_and_falls_with_the_speed(text: str, more: str, speed: float) -> None:
    assert bound(text + "a" + more, speed) >= bound(text, speed)
    assert bound(text, speed) >= bound(text, min(4.0, speed * 1.5))


@given(st.text(max_size=300), st.floats(0.25, 4.0), st.integers(0, 1000), st.integers(0, 1000))
def test_bound_is_never_below_the_usual_length(text: str, speed: float, comma_ms: int, sentence_ms: int) -> None:
    assert 0 <= usual_audio_ms(text, speed) <= max_audio_ms(text, speed, comma_ms, sentence_ms)


@pytest.mark.parametrize("text", ["7", "a", "A", "你", "か", "한", "न", "ñ", "²", "Ⅷ", "％", "😀", "\u0301", "\n", "—"])
def test_bound_holds_for_any_length_of_one_character(text: str) -> None:
    assert usual_audio_ms(text * 4096, 1.0) <= max_audio_ms(text * 4096, 1.0)


# Trimmed lengths of Kokoro's voices: the estimate lies near each and stays within a factor of 1.6.
@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("The lighthouse keeper climbed the spiral stairs each evening, counting every step aloud.", 4.4),
        ("Le hibou est sur le toit ce soir, et personne ne sait pourquoi.", 2.9),
        ("नमस्ते, मेरा नाम अन्ना है। मैं समुद्र के किनारे रहती हूँ।", 4.2),
        ("吾輩は猫である。名前はまだ無い。", 2.7),
        ("你好，我叫安娜，我住在海边。今天天气很好，我们去公园走走吧！", 6.0),
    ],
)
def test_estimate_is_near_real_speech(text: str, seconds: float) -> None:
    assert 0.8 * seconds <= usual_audio_ms(text, 1.0) / 1000 <= 1.6 * seconds
    assert usual_audio_ms(text, 2.0) == pytest.approx(usual_audio_ms(text, 1.0) / 2, abs=1)
