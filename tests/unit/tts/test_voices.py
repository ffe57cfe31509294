"""Which voice a request means, and the language it reads in."""

import pytest

from callboard_contracts.errors import CallboardError, ErrorCode
from callboard_contracts.speech import SpeechRequest
from callboard_tts.domain.boundaries import Pause
from callboard_tts.domain.utterance import SpeechDefaults, plan_utterance, whole_text
from callboard_tts.domain.voices import Voice, choose_voice

pytestmark = pytest.mark.unit

KNOWN = [Voice("af_bella", "en-us"), Voice("af_sky", "en-us"), Voice("zf_xiaobei", "zh")]


def code_of(error: pytest.ExceptionInfo[CallboardError]) -> ErrorCode:
    return error.value.info.code


def test_voice_speaks_its_own_language() -> None:
    choice = choose_voice("zf_xiaobei", None, KNOWN)
    assert (choice.parts, choice.language) == ((("zf_xiaobei", 1.0),), "zh")


@pytest.mark.parametrize("spec", ["af_bella(2)+af_sky(1)", "af_bella (2) + af_sky"])
def test_blend_has_shares_that_sum_to_one(spec: str) -> None:
    parts = dict(choose_voice(spec, None, KNOWN).parts)
    assert parts == {"af_bella": pytest.approx(2 / 3), "af_sky": pytest.approx(1 / 3)}


def test_list_of_voices_is_their_mean() -> None:
    assert choose_voice("af_bella,af_sky", None, KNOWN).parts == (("af_bella", 0.5), ("af_sky", 0.5))


def test_voice_named_twice_adds_up() -> None:
    parts = dict(choose_voice("af_bella+af_bella+af_sky", None, KNOWN).parts)
    assert parts == {"af_bella": pytest.approx(2 / 3), "af_sky": pytest.approx(1 / 3)}


def test_alias_is_followed() -> None:
    assert choose_voice("alloy", None, KNOWN, {"alloy": "af_sky"}).spec == "af_sky"


def test_unknown_voice_is_refused_with_those_on_offer() -> None:
    with pytest.raises(CallboardError) as error:
        choose_voice("af_bella+nobody", None, KNOWN)
    assert code_of(error) is ErrorCode.UNKNOWN_VOICE
    assert error.value.info.offered == ("af_bella", "af_sky", "zf_xiaobei")


@pytest.mark.parametrize("spec", ["", "+", "a(", "af_bella(0)", "+".join(["af_sky"] * 9)])
def test_malformed_blend_is_refused(spec: str) -> None:
    with pytest.raises(CallboardError) as error:
        choose_voice(spec, None, KNOWN)
    assert code_of(error) is ErrorCode.UNKNOWN_VOICE


@pytest.mark.parametrize(("wanted", "language"), [("en", "en-us"), ("zh-CN", "zh"), ("z", "zh"), ("en_US", "en-us")])
def test_language_may_be_named_in_several_ways(wanted: str, language: str) -> None:
    assert choose_voice("af_sky", wanted, KNOWN).language == language


def test_language_without_a_voice_is_refused() -> None:
    with pytest.raises(CallboardError) as error:
        choose_voice("af_sky", "de", KNOWN)
    assert code_of(error) is ErrorCode.UNSUPPORTED
    assert error.value.info.offered == ("en-us", "zh")


def test_engine_without_a_list_gets_the_name_and_the_language_as_they_came() -> None:
    choice = choose_voice("anybody", "de", [])
    assert (choice.spec, choice.language) == ("anybody", "de")


def request(text: str, speed: float = 1.0) -> SpeechRequest:
    return SpeechRequest(model="kokoro", text=text, voice="af_sky", speed=speed)


def test_utterance_has_pieces_and_pauses_that_follow_the_speed() -> None:
    text = "The first sentence is this one here. The second sentence comes right after it, as they do."
    utterance = plan_utterance(request(text, 2.0), SpeechDefaults(), KNOWN)
    first, second = whole_text(utterance, text)
    assert [piece.pause_before for piece in (first, second)] == [Pause.NONE, Pause.SENTENCE]
    assert utterance.pause_ms(second) == 300
    assert utterance.pause_ms(first) == 0


def test_voice_of_actions_is_used_where_the_model_offers_it() -> None:
    text = "Hello. *waves*"
    for name, voices in (("zf_xiaobei", ["af_sky", "zf_xiaobei"]), ("nobody", ["af_sky"])):
        defaults = SpeechDefaults(role_play="voice", role_play_voice=name)
        utterance = plan_utterance(request(text), defaults, KNOWN)
        assert [utterance.voice_of(piece).spec for piece in whole_text(utterance, text)] == voices


@pytest.mark.parametrize(
    ("text", "code"), [("x" * 4097, ErrorCode.TEXT_TOO_LONG), ("🙂 ...", ErrorCode.INVALID_REQUEST)]
)
def test_text_that_cannot_be_spoken_is_refused(text: str, code: ErrorCode) -> None:
    with pytest.raises(CallboardError) as error:
        whole_text(plan_utterance(request(text), SpeechDefaults(), KNOWN), text)
    assert code_of(error) is code
    assert error.value.info.param == "text"
