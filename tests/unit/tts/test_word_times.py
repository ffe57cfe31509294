"""When words sound: named as the text writes them, whatever becomes of them on the way to the sound."""

import numpy as np
import pytest

from callboard_contracts.speech import BYTES_PER_MS, SpokenWord
from callboard_tts.backends.fake import FakeEngine, word_times
from callboard_tts.domain.alignment import word_spans
from callboard_tts.domain.pauses import Cut, moved
from callboard_tts.domain.pieces import split_text
from callboard_tts.domain.ports import PieceRequest
from callboard_tts.domain.pronunciation import NO_WORDS
from callboard_tts.domain.segments import PieceCutter, Segment
from callboard_tts.domain.sound import Trimmer
from callboard_tts.domain.voices import choose_voice
from callboard_tts.domain.words import piece_words

pytestmark = pytest.mark.unit


def named(text: str, language: str = "en-us") -> list[tuple[str, str]]:
    """The words of a text, and what is spoken in the place of each."""
    found: list[tuple[str, str]] = []
    for piece in split_text(text, language):
        words = piece_words(piece, language, NO_WORDS)
        spans = word_spans(piece.text, [spoken for _name, spoken in words])
        found += [
            (name, piece.text[slice(*span)] if span else "") for (name, _), span in zip(words, spans, strict=True)
        ]
    return found


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Dr. No paid $5.50.", {"Dr.": "Doctor", "No": "No", "paid": "paid", "$5.50.": "5 dollars and 50 cents"}),
        ("It took 3 km at 10:30 p.m.", {"3": "3", "km": "kilometers", "at": "at", "10:30": "10 30", "p.m.": "P M"}),
        ("**Stop** it, see [the docs](http://a.b/c).", {"Stop": "Stop", "it,": "it", "the": "the", "docs": "docs"}),
        ("She didn’t say “no” to AT&amp;T.", {"didn’t": "didn't", "“no”": "no", "AT&amp;T.": "AT and T"}),
        ("𝐁𝐨𝐥𝐝 cafe\u0301 — now.", {"𝐁𝐨𝐥𝐝": "Bold", "cafe\u0301": "café", "now.": "now"}),
        ("One\nTwo 😀 https://a.b/c three", {"One": "One", "Two": "Two", "three": "three"}),
        ("Say [New York](/nuː jɔːk/), 100% & more.", {"100%": "100 percent", "&": "and", "more.": "more"}),
    ],
)
def test_words_are_named_as_they_are_written(text: str, expected: dict[str, str]) -> None:
    found = dict(named(text))
    assert {name: found.get(name) for name in expected} == expected


def test_every_word_of_a_text_is_named_once() -> None:
    text = "Mr. Ray sold 1,250 owls for $3 million on 3/4/2021, i.e. at 7% off; the 2nd cost £20."
    assert [name for name, _spoken in named(text)] == text.split()
    assert all(spoken for _name, spoken in named(text))


def test_word_with_a_given_pronunciation_is_one() -> None:
    assert [name for name, _ in named("Say [New York](/nuː jɔːk/), now.")] == ["Say", "New York,", "now."]


def test_characters_are_the_words_of_text_without_spaces() -> None:
    assert [name for name, _ in named("梟は、OKです。", "ja")] == ["梟", "は、", "OK", "で", "す。"]


def test_words_that_run_together_share_their_sound() -> None:
    assert word_spans("ʌvðə mˈæn", ["ʌv", "ðə", "mˈæn"]) == [(0, 2), (2, 4), (5, 9)]
    assert word_spans("wˈʌn", ["wˈʌn", "tˈuː"]) == [(0, 2), (2, 4)]
    assert word_spans("a", ["", "—", "a"]) == [None, None, (0, 1)]
    assert word_spans("", ["a"]) == [(0, 0)]
    assert word_spans("a", []) == []


def test_position_after_a_cut_is_moved_by_its_length() -> None:
    cuts = [Cut(100, 200, 50), Cut(300, 300, 10)]
    assert [moved(at, cuts, after=False) for at in (50, 100, 150, 200, 250, 300, 301)] == [
        50,
        100,
        100,
        100,
        200,
        250,
        261,
    ]
    assert [moved(at, cuts, after=True) for at in (50, 100, 150, 200, 300)] == [50, 150, 150, 150, 260]


def test_fake_engine_says_when_each_tone_sounds() -> None:
    piece = PieceRequest(
        0, "one three", choose_voice("af_heart", None, FakeEngine().voices()), 2.0, "", words=["one", "three"]
    )
    edge = 7200
    assert [(time.begin - edge, time.end - edge) for time in word_times(piece)] == [(0, 2160), (2160, 5760)]


def test_trimmer_says_what_it_took_off_the_beginning() -> None:
    sound = np.concatenate([np.zeros(2400), np.full(4800, 0.5), np.zeros(2400)]).astype(np.float32)
    for size in (1, 7, 60, 61, 9600):
        trimmer = Trimmer()
        for begin in range(0, sound.size, size):
            trimmer.feed(sound[begin : begin + size])
        trimmer.finish()
        assert trimmer.trimmed == 2400


def cut(skip_ms: int, size_ms: int) -> list[Segment]:
    cutter = PieceCutter(0, skip_ms * BYTES_PER_MS)
    cutter.expect(SpokenWord(word=str(at), start_ms=at, end_ms=at + 100) for at in (0, 300, 999, 1000))
    segments: list[Segment] = []
    for _ in range(1000 // size_ms):
        segments += cutter.feed(bytes(size_ms * BYTES_PER_MS))
    return segments + cutter.finish(b"")


def test_word_goes_with_the_segment_in_which_it_begins() -> None:
    assert [[word.word for word in segment.words] for segment in cut(0, 500)] == [["0", "300"], ["999"], ["1000"]]
    # Another worker goes on in the middle of the piece.
    assert [[word.word for word in segment.words] for segment in cut(300, 500)] == [["300"], ["999"], ["1000"]]
    assert [[word.word for word in segment.words] for segment in cut(301, 1000)] == [["999"], ["1000"]]
