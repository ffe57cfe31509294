import pytest
from hypothesis import given
from hypothesis import strategies as st

from callboard_contracts.errors import CallboardError, ErrorCode
from callboard_contracts.voices import (
    KOKORO_LANGUAGES,
    KOKORO_VOICES,
    BlendPart,
    kokoro_language,
    parse_blend,
)

pytestmark = pytest.mark.unit


def test_kokoro_voices_are_54_in_nine_languages() -> None:
    assert len(KOKORO_VOICES) == len(set(KOKORO_VOICES)) == 54
    assert {kokoro_language(voice) for voice in KOKORO_VOICES} == set(KOKORO_LANGUAGES.values())


def test_language_of_a_foreign_name_is_unknown() -> None:
    assert kokoro_language("alloy") is None
    assert kokoro_language("af_heart") == "en-us"


def test_blend_reads_names_and_weights() -> None:
    assert parse_blend("af_bella(2)+af_sky(1)") == (BlendPart("af_bella", 2.0), BlendPart("af_sky", 1.0))
    assert parse_blend(" af_bella + af_sky( 0.5 ) ") == (BlendPart("af_bella"), BlendPart("af_sky", 0.5))
    assert parse_blend("my voice") == (BlendPart("my voice"),)


@pytest.mark.parametrize("text", ["", "+", "a+", "+a", "a(0)", "a()", "a(-1)", "a(2", "(2)", "a(101)", "a(nan)"])
def test_malformed_blend_is_an_unknown_voice(text: str) -> None:
    with pytest.raises(CallboardError) as caught:
        parse_blend(text)
    assert caught.value.info.code is ErrorCode.UNKNOWN_VOICE
    assert caught.value.info.param == "voice"


def test_blend_of_too_many_voices_is_refused() -> None:
    with pytest.raises(CallboardError):
        parse_blend("+".join(["af_sky"] * 9))


@given(st.text(max_size=60))
def test_any_text_is_a_blend_or_a_clear_error(text: str) -> None:
    try:
        parts = parse_blend(text)
    except CallboardError:
        return
    assert parts
    assert all(part.voice and part.weight > 0 for part in parts)
