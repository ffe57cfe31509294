import pytest

from callboard_contracts.errors import CallboardError, ErrorCode
from callboard_edge.domain.speech_text import check_text

pytestmark = pytest.mark.unit


def refusal(text: str, most: int = 4096) -> ErrorCode:
    with pytest.raises(CallboardError) as caught:
        check_text(text, most)
    assert caught.value.info.param == "input"
    return caught.value.info.code


@pytest.mark.parametrize("text", ["Hello.", "7", "你好", "é", "a" * 4096, "नमस्ते", "👋 hi"])
def test_text_with_a_sound_passes(text: str) -> None:
    check_text(text, len(text))
    assert refusal(text, most=len(text) - 1) is ErrorCode.TEXT_TOO_LONG


@pytest.mark.parametrize("text", ["", "   ", "...", "!?", "👋", "\n\t", "--- *** ---", "\u200b"])
def test_text_without_a_sound_is_refused(text: str) -> None:
    assert refusal(text) is ErrorCode.INVALID_REQUEST


def test_text_over_the_limit_is_refused_with_the_limit() -> None:
    assert refusal("a" * 4097) is ErrorCode.TEXT_TOO_LONG
    assert refusal("abcd", most=3) is ErrorCode.TEXT_TOO_LONG


def test_half_a_surrogate_pair_is_refused_and_not_passed_on() -> None:
    assert refusal("hello \ud800") is ErrorCode.INVALID_REQUEST
