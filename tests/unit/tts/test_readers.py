"""Which reader speaks which part of a text that mixes scripts."""

import re
import unicodedata
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kokoro_onnx.config import DEFAULT_VOCAB
from prometheus_client import REGISTRY

from callboard_tts.backends import phonemes
from callboard_tts.backends.phonemes import Phonemizer
from callboard_tts.backends.readers import SCRIPTS, split_runs
from callboard_tts.domain.script import script_of

pytestmark = [
    pytest.mark.unit,
    pytest.mark.timeout(400),
    # misaki opens its second Japanese dictionary with a deprecated call when a word first needs it.
    pytest.mark.filterwarnings("ignore:Dictionary.create:DeprecationWarning"),
]
PHONEMIZER = Phonemizer(DEFAULT_VOCAB)


def left_out(script: str) -> float:
    return REGISTRY.get_sample_value("callboard_tts_left_out_characters_total", {"script": script}) or 0.0


@pytest.mark.parametrize(
    ("text", "language", "readers"),
    [
        ("The word 你好 means hello.", "en-us", [("The word ", "en-us"), ("你好", "zh"), (" means hello.", "en-us")]),
        ("спасибо большое, Анна!", "en-us", [("спасибо большое, Анна", "ru"), ("!", "en-us")]),
        ("їжак", "en-us", [("їжак", "uk")]),
        ("آج موسم ہے", "en-us", [("آج موسم ہے", "ur")]),
        ("بچے", "en-us", [("بچے", "ur")]),
        ("امروز هوا خوب است پس", "en-us", [("امروز هوا خوب است پس", "fa")]),
        ("مرحبا بكم", "en-us", [("مرحبا بكم", "ar")]),
        ("東京は寒い。", "en-us", [("東京は寒い", "ja"), ("。", "en-us")]),
        ("北京 is cold", "en-us", [("北京", "zh"), (" is cold", "en-us")]),
        ("东京は", "zh", [("东京", "zh"), ("は", "ja")]),
        ("价格 iPhone 5 好", "zh", [("价格 ", "zh"), ("iPhone", "en-us"), (" 5 好", "zh")]),
        ("今日はOKです", "ja", [("今日は", "ja"), ("OK", "en-us"), ("です", "ja")]),
        ("नमस्ते world", "hi", [("नमस्ते ", "hi"), ("world", "en-us")]),
        ("Ça va, señor?", "fr-fr", [("Ça va, señor?", "fr-fr")]),
        ("the angle π is", "en-us", [("the angle π is", "en-us")]),
        ("Αθήνα is old", "en-us", [("Αθήνα", "el"), (" is old", "en-us")]),
        ("한국어 words", "es", [("한국어", "ko"), (" words", "es")]),
        ("[lead](/lɛθ/) pipes", "en-us", [("[lead](/lɛθ/) pipes", "en-us")]),
        ("a ភាសា b", "en-us", [("a ", "en-us"), ("ភាសា", None), (" b", "en-us")]),
        ("12, 34!", "ja", [("12, 34!", "ja")]),
    ],
)
def test_each_script_has_its_reader(text: str, language: str, readers: list[tuple[str, str | None]]) -> None:
    assert [(run.text, run.language) for run in split_runs(text, language)] == readers


@given(st.text(alphabet="ab 你か한спθβ٣, .ភ[](/)\u0301é5", max_size=40), st.sampled_from(["en-us", "zh", "ja", "hi"]))
def test_runs_hold_all_words_in_order(text: str, language: str) -> None:
    runs = split_runs(text, language)
    assert "".join("".join(run.text for run in runs).split()) == "".join(text.split())
    assert {run.script for run in runs} <= {"", *SCRIPTS}


def test_foreign_words_are_read_by_their_sound() -> None:
    read = PHONEMIZER.phonemes("The word 你好 means hello, and спасибо means thanks.", "en-us")
    assert "ni↓" in read
    assert "spas" in read
    assert read.startswith("ðə wˈɜɹd ")
    assert "lˈɛɾɚ" not in read
    assert "həlˈO, ænd" in read


@pytest.mark.parametrize("mark", ["۔", "؟", "،", "؛"])
def test_marks_of_other_scripts_are_pauses_and_not_words(mark: str) -> None:
    read = PHONEMIZER.phonemes(f"یہ گھر ہے{mark} وہ گھر ہے", "en-us")
    first, second = (PHONEMIZER.phonemes(text, "en-us") for text in ("یہ گھر ہے", "وہ گھر ہے"))
    assert re.fullmatch(rf"{first}[.?,;] {second}", read)


@pytest.mark.parametrize("text", ["你好", "ありがとう", "спасибо", "Αθήνα", "مرحبا", "안녕하세요", "नमस्ते", "வணக்கம்"])
def test_no_script_is_spelled_letter_by_letter(text: str) -> None:
    read = PHONEMIZER.phonemes(text, "en-us")
    assert 2 <= len(read) <= 4 * len(text) + 6
    for name in ("lˈɛTəɹ", "ʧˌInˈiz", "ʤˌæpənˈiz"):
        assert name not in read


def test_scripts_without_a_reader_are_left_out_and_counted() -> None:
    before = left_out("other")
    assert PHONEMIZER.phonemes("Before ភាសា after.", "en-us").replace("ˌ", "ˈ") == "bᵻfˈɔɹ ˈæftəɹ."
    assert left_out("other") == before + 4


def test_reader_that_fails_leaves_its_words_out(monkeypatch: pytest.MonkeyPatch) -> None:
    phonemizer = Phonemizer(DEFAULT_VOCAB)
    phonemizer.prepare({"en-us"})

    def fail(_language: str) -> Callable[[str], str]:
        raise ImportError

    monkeypatch.setattr(phonemes, "_load_converter", fail)
    assert phonemizer.phonemes("One спасибо two.", "en-us").replace("ˌ", "ˈ") == "wˈʌn tˈu."


@pytest.mark.parametrize(
    ("character", "script"),
    [
        *(
            ("a", "latin"),
            ("é", "latin"),
            ("Ａ", "latin"),
            ("你", "han"),
            ("々", "han"),
            ("か", "kana"),
            ("ー", "kana"),
        ),
        *(
            ("ｱ", "kana"),
            ("ж", "cyrillic"),
            ("θ", "greek"),
            ("٣", "arabic"),
            ("5", ""),
            ("²", ""),
            (" ", ""),
            ("।", ""),
        ),
    ],
)
def test_script_of_a_character(character: str, script: str) -> None:
    assert script_of(character) == script, unicodedata.name(character)
