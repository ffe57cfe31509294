from dataclasses import dataclass, field

import pytest

from callboard_contracts.config import SpeechModelSection, SpeechPoolSection
from callboard_contracts.errors import CallboardError, ErrorCode
from callboard_contracts.voices import KOKORO_VOICES
from callboard_edge.domain.voices import listed_voices, offered_voices, resolve_voice

pytestmark = pytest.mark.unit


@dataclass
class VoiceCatalog:
    """A model with a few voices."""

    voices: tuple[str, ...] = ("af_bella", "af_sky", "odd name(1)")
    voice_aliases: dict[str, str] = field(
        default_factory=lambda: {"alloy": "af_sky", "duet": "af_bella(2)+af_sky", "af_bella+x": "af_bella"}
    )
    default_voice: str = "af_bella"


@pytest.mark.parametrize(
    ("asked", "meant"),
    [
        (None, "af_bella"),
        ("af_sky", "af_sky"),
        (" af_sky ", "af_sky"),
        ("alloy", "af_sky"),
        ("odd name(1)", "odd name(1)"),
        ("af_bella(2)+af_sky(1)", "af_bella(2)+af_sky(1)"),
        ("af_bella + alloy(0.5)", "af_bella(1)+af_sky(0.5)"),
        ("duet", "af_bella(2)+af_sky(1)"),
        ("af_bella(3)", "af_bella"),
        ("af_bella+x", "af_bella"),
    ],
)
def test_wish_becomes_the_engines_voice(asked: str | None, meant: str) -> None:
    assert resolve_voice(VoiceCatalog(), asked) == meant


@pytest.mark.parametrize("asked", ["", "nobody", "AF_SKY", "af_sky+nobody", "af_sky(0)", "af_sky(1", "+", "\ud800"])
def test_unknown_voice_lists_what_is_offered(asked: str) -> None:
    with pytest.raises(CallboardError) as caught:
        resolve_voice(VoiceCatalog(), asked)
    info = caught.value.info
    assert info.code is ErrorCode.UNKNOWN_VOICE
    assert info.param == "voice"
    assert info.offered == listed_voices(VoiceCatalog())
    assert "af_bella, af_sky" in info.message
    info.message.encode()


def test_voices_on_offer_depend_on_the_backend() -> None:
    kokoro = SpeechPoolSection(backend="kokoro_onnx")
    fake = SpeechPoolSection(backend="fake")
    assert offered_voices(SpeechModelSection(pool="p"), kokoro) == KOKORO_VOICES
    assert offered_voices(SpeechModelSection(pool="p", voices=("x", "y")), kokoro) == ("x", "y")
    assert offered_voices(SpeechModelSection(pool="p", default_voice="x"), fake) == ("x",)
