"""Conversion of text to phonemes in every language, and splitting of those over the limit."""

import pytest
from kokoro_onnx.config import DEFAULT_VOCAB

from callboard_tts.backends.phonemes import MAX_PHONEMES, Phonemizer, split_phonemes
from callboard_worker.engine import EngineFailed

pytestmark = [
    pytest.mark.unit,
    pytest.mark.timeout(400),
    # misaki opens its second Japanese dictionary with a deprecated call when a word first needs it.
    pytest.mark.filterwarnings("ignore:Dictionary.create:DeprecationWarning"),
]

PHONEMIZER = Phonemizer(DEFAULT_VOCAB)


@pytest.mark.parametrize(
    ("text", "language", "phonemes"),
    [
        ("Hello there, my name is Anna.", "en-us", "həlˈO ðˈɛɹ, mI nˈAm ɪz ˈænə."),
        ("The weather is mild.", "en-us", "ðə wˈɛðəɹ ɪz mˈIld."),
        ("Go home now!", "en-gb", "ɡˌQ hˈQm nˈW!"),
        ("Bonjour, je m'appelle Anna.", "fr-fr", "bɔ̃ʒˈuʁ, ʒə mapˈɛl anˈa."),
        ("¿Cómo estás?", "es", "kˈomo estˈas?"),
    ],
)
def test_alphabets_use_the_phonemes_of_the_model(text: str, language: str, phonemes: str) -> None:
    assert PHONEMIZER.phonemes(text, language) == phonemes


def test_chinese_has_tones_and_pauses_and_reads_latin_words() -> None:
    phonemes = PHONEMIZER.phonemes("你好，我住在海边。Hello！", "zh")
    assert phonemes.startswith("ni↓xau↓, wo↓")
    assert "həlˈO" in phonemes
    assert phonemes.endswith("!")


def test_japanese_reads_its_characters_as_words() -> None:
    phonemes = PHONEMIZER.phonemes("今日は、三月十五日です。", "ja")
    assert phonemes.startswith("kʲoː")
    assert "saɴɡaʦu" in phonemes
    assert "," in phonemes


def test_foreign_words_leave_no_language_marks() -> None:
    assert "(" not in PHONEMIZER.phonemes("Le week-end du computer engineer", "fr-fr")


def test_tokens_are_the_models_ids() -> None:
    assert PHONEMIZER.tokens("həlˈO") == [DEFAULT_VOCAB[sound] for sound in "həlˈO"]


def test_language_without_phonemes_fails_the_piece() -> None:
    with pytest.raises(EngineFailed):
        PHONEMIZER.phonemes("Hallo", "de")


@pytest.mark.parametrize(
    "phonemes",
    ["a" * 1200, "abc " * 400, "abc, " * 300, "abcdef. " * 200, "a" * 600 + " " + "b" * 20, "a, " + "b" * 700],
)
def test_long_phonemes_are_cut_without_loss(phonemes: str) -> None:
    parts = split_phonemes(phonemes.strip())
    assert all(0 < len(part) <= MAX_PHONEMES for part in parts)
    assert "".join(parts).replace(" ", "") == phonemes.replace(" ", "")


def test_short_phonemes_stay_whole() -> None:
    assert split_phonemes("həlˈO") == ["həlˈO"]
    assert split_phonemes("") == []
