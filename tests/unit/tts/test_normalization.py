"""What holds for every text: nothing raises, no word is lost, and given pronunciations stay."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kokoro_onnx.config import DEFAULT_VOCAB

from callboard_contracts.pools import TtsSection
from callboard_tts.backends.phonemes import Phonemizer
from callboard_tts.domain.characters import decoded_entities, plain_characters
from callboard_tts.domain.markup import without_markup
from callboard_tts.domain.normalization import normalize_text
from callboard_tts.domain.pieces import PieceStream, split_text
from callboard_tts.domain.pronunciation import WordList, WordLists, without_pronunciations

pytestmark = pytest.mark.unit

LANGUAGES = ("en-us", "en-gb", "es", "fr-fr", "hi", "it", "ja", "pt-br", "zh", "")
MARKS = "0123456789IVXLCDM.,:;-–/$€£¥%°'\"()[]{}<>=+*&#@^~²½№Ⅳ‰\u00a0 \nabkmgT"
WORDS = ("lamp", "harbour", "keeper", "evening", "stairs", "window")
PHONEMIZER = Phonemizer(DEFAULT_VOCAB)


@given(st.text(max_size=200), st.sampled_from(LANGUAGES))
@settings(max_examples=200, deadline=None)
def test_no_text_raises(text: str, language: str) -> None:
    assert isinstance(normalize_text(without_markup(text), language), str)


@given(st.text(alphabet=MARKS, max_size=120), st.sampled_from(LANGUAGES))
@settings(max_examples=300, deadline=None)
def test_no_text_of_numbers_and_marks_raises_or_falls_silent(text: str, language: str) -> None:
    spoken = normalize_text(text, language)
    if re.search(r"\d", text):
        assert any(character.isalnum() for character in spoken)


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize(
    "form", ["{n} km", "{n} USD", "${n}", "{n}.{n} €", "{n}%", "{n}/{n}", "{n}th", "1.{n}", "{n}:30"]
)
def test_endless_number_is_read(form: str, language: str) -> None:
    assert len(normalize_text(form.format(n="1" * 400), language)) > 400


def test_word_of_the_list_in_odd_letters_raises_nothing() -> None:
    assert normalize_text("ſ İ s i", "en-us", WordList({"s": "es", "i": "ee"})) == "es İ es ee"


@given(
    st.lists(st.sampled_from(WORDS), min_size=1, max_size=8),
    st.lists(st.text(alphabet=MARKS, max_size=8), min_size=8, max_size=8),
    st.sampled_from(LANGUAGES),
)
@settings(max_examples=200, deadline=None)
def test_no_word_is_lost(words: list[str], between: list[str], language: str) -> None:
    text = "".join(f"{word} {marks} " for word, marks in zip(words, between, strict=False))
    assert re.findall("|".join(WORDS), normalize_text(text, language)) == words


@pytest.mark.parametrize("size", [1, 2, 5, 1000])
def test_readings_do_not_depend_on_tokens(size: int) -> None:
    text = (
        "On Feb. 10, 2021 Gov. Adams &amp; Henry VIII paid $1,234.56 for [tomatoes](/təmˈɑːtOz/) at 10:30 p.m. in St. "
        "Louis; call (555) 010-4567 &lt;3 or write to anna@example.com, then read chapter IV. 𝐇𝐞𝐥𝐥𝐨 again, 5 km away!"
    )
    stream = PieceStream("en-us")
    pieces = [piece for at in range(0, len(text), size) for piece in stream.feed(text[at : at + size])]
    assert pieces + stream.finish() == split_text(text, "en-us")


def test_entity_makes_no_pause() -> None:
    text = "The old keeper of the lamp and the sea called Tom &amp; Jerry in the evening"
    assert [piece.text for piece in split_text(text, "en-us")] == [text.replace("&amp;", "and")]


@pytest.mark.parametrize(
    ("written", "plain"),
    [
        ("𝓗𝓮𝓵𝓵𝓸 𝔀𝓸𝓻𝓵𝓭", "Hello world"),
        ("Ｆｕｌｌ ｗｉｄｔｈ １２", "Full width 12"),
        ("ʜᴇʟʟᴏ", "hello"),
        ("Ⓗⓘ ﬂag ℃ ㎏", "Hi flag °C kg"),
        ("x² ½ 你好，世界", "x² ½ 你好，世界"),
    ],
)
def test_styled_letters_become_plain(written: str, plain: str) -> None:
    assert plain_characters(written) == plain


def test_entities_are_decoded_once_and_only_with_their_mark() -> None:
    assert decoded_entities("&lt;b&gt; &#65;&#x42; &amp;amp; &copy &unknown;") == "<b> AB &amp; &copy &unknown;"


def test_list_of_words_stands_over_every_rule() -> None:
    words = WordList({"gif": "jif", "SQL": "sequel", "Dr. No": "doctor no", "anna": "/ˈɑnə/"})
    spoken = normalize_text("A GIF of Dr. No, by SQL and Anna; sql and gifs.", "en-us", words)
    assert spoken == "A jif of doctor no, by sequel and [Anna](/ˈɑnə/); sql and gifs."


def test_list_of_a_voice_stands_over_the_list_for_all() -> None:
    lists = WordLists({"gif": "jif", "nginx": "engine x"}, {"af_heart": {"gif": "ghif"}})
    assert normalize_text("gif nginx", "en-us", lists.of("af_heart")) == "ghif engine x"
    assert normalize_text("gif nginx", "en-us", lists.of("am_adam")) == "jif engine x"


def test_given_pronunciations_are_spoken_by_kokoro_and_written_for_others() -> None:
    text = normalize_text(without_markup("Say [tomato](/təmˈɑːtO/), [docs](/docs/) and **go**."), "en-us")
    assert text == "Say [tomato](/təmˈɑːtO/), docs and go."
    assert PHONEMIZER.phonemes(text, "en-us") == "sˈA təmˈɑːtO, dˈɑks ænd ɡˈO."
    assert without_pronunciations(text) == "Say tomato, docs and go."


@pytest.mark.parametrize("words", [{"[x]": "y"}, {"x": "/y"}, {"x": ""}, {"": "y"}, {"x" * 81: "y"}])
def test_word_that_cannot_be_spoken_is_refused(words: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="words"):
        TtsSection.model_validate({"words": words})
