"""Languages by the names that people give them, and their voices."""

import pytest

from callboard_contracts.workers import OfferedVoice
from callboard_edge.domain.languages import english_name, language_tag, voice_for_language

pytestmark = pytest.mark.unit

VOICES = [
    OfferedVoice(name="af_sky", language="en-us"),
    OfferedVoice(name="bf_emma", language="en-gb"),
    OfferedVoice(name="ef_dora", language="es"),
    OfferedVoice(name="pf_dora", language="pt-br"),
]


@pytest.mark.parametrize(
    ("name", "tag"),
    [
        ("German", "de"),
        (" deutsch ", "de"),
        ("de", "de"),
        ("pt_BR", "pt-br"),
        ("Brazilian Portuguese", "pt"),
        ("Portuguese (Brazil)", "pt"),
        ("日本語", "ja"),
        ("no", "nb"),
        ("Klingon", "klingon"),
    ],
)
def test_language_is_known_by_name_and_tag(name: str, tag: str) -> None:
    assert language_tag(name) == tag


@pytest.mark.parametrize(
    ("language", "preferred", "voice"),
    [
        ("Spanish", None, "ef_dora"),
        ("English", "bf_emma", "bf_emma"),
        ("English", "ef_dora", "af_sky"),
        ("en-gb", None, "bf_emma"),
        ("en-au", None, "af_sky"),
        ("Portuguese", "af_sky", "pf_dora"),
        ("German", "af_sky", None),
        ("Klingon", None, None),
    ],
)
def test_voice_of_a_language(language: str, preferred: str | None, voice: str | None) -> None:
    assert voice_for_language(VOICES, language, preferred) == voice


def test_voice_whose_languages_are_not_known_is_taken_for_any() -> None:
    voices = [OfferedVoice(name="nova"), OfferedVoice(name="onyx")]
    assert voice_for_language(voices, "Swedish", "onyx") == "onyx"
    assert voice_for_language(voices, "Swedish") == "nova"


@pytest.mark.parametrize(
    ("name", "english"), [("français", "French"), ("de-AT", "German"), ("日本語", "Japanese"), ("Klingon ", "Klingon")]
)
def test_language_is_told_by_its_english_name(name: str, english: str) -> None:
    assert english_name(name) == english
