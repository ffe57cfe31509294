import pytest
from hypothesis import given
from hypothesis import strategies as st

from callboard_contracts.errors import CallboardError, ErrorCode
from callboard_edge.domain.speech_text import audio_ms_bound, check_text

pytestmark = pytest.mark.unit


def bound(text: str, speed: float = 1.0) -> int:
    return audio_ms_bound(text, speed, 300, 600)


def refusal(text: str, most: int = 4096) -> ErrorCode:
    with pytest.raises(CallboardError) as caught:
        check_text(text, most)
    assert caught.value.info.param == "input"
    return caught.value.info.code


@pytest.mark.parametrize("text", ["Hello.", "7", "你好", "é", "a" * 4096, "नमस्ते", "👋 hi"])
def test_text_with_a_sound_passes(text: str) -> None:
    check_text(text, 4096)
    assert bound(text) > 2000


@pytest.mark.parametrize("text", ["", "   ", "...", "!?", "👋", "\n\t", "--- *** ---", "\u200b"])
def test_text_without_a_sound_is_refused(text: str) -> None:
    assert refusal(text) is ErrorCode.INVALID_REQUEST


def test_text_over_the_limit_is_refused_with_the_limit() -> None:
    assert refusal("a" * 4097) is ErrorCode.TEXT_TOO_LONG
    assert refusal("abcd", most=3) is ErrorCode.TEXT_TOO_LONG


def test_half_a_surrogate_pair_is_refused_and_not_passed_on() -> None:
    assert refusal("hello \ud800") is ErrorCode.INVALID_REQUEST


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
