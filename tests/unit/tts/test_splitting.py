"""Where a text is split, and that the places do not depend on the chunks."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from callboard_tts.domain.boundaries import Pause
from callboard_tts.domain.pieces import PieceStream, split_text
from callboard_tts.domain.script import sound_units
from callboard_tts.domain.splitting import Fragment, Limits, Splitter

pytestmark = pytest.mark.unit

ENGLISH = (
    "The lighthouse keeper climbed the spiral stairs each evening, counting every step aloud. At the top she lit the "
    "great lamp! Mr. Brown, who lived at No. 5 in the U.S. colony, paid $3.50 for a ticket; he said it was worth it. "
    'Was it? "Yes," he said. "Of course it was..." And so on.\n\nA new paragraph begins here\nwith a wrapped line, '
    "and it ends. 1. One thing\n2. Another thing\n- A bullet\n- And another one. Bye."
)
CHINESE = "你好，我叫安娜，我住在海边。今天天气很好，我们去公园走走吧！你觉得怎么样？我觉得很好。「好的。」她说。"
JAPANESE = "吾輩は猫である。名前はまだ無い。どこで生れたかとんと見当がつかぬ。何でも薄暗いじめじめした所で泣いていた。"
HINDI = "नमस्ते, मेरा नाम अन्ना है। मैं समुद्र के किनारे रहती हूँ। आज मौसम बहुत अच्छा है। क्या आप चलेंगे?"
TEXTS = [ENGLISH, CHINESE * 4, JAPANESE * 4, HINDI * 4, "word " * 300, "a" * 2000, "。" * 50, "?! ... — " * 40]


def cut_up(text: str, sizes: list[int]) -> list[str]:
    tokens: list[str] = []
    at = 0
    for size in sizes:
        tokens.append(text[at : at + size])
        at += size
    return [*tokens, text[at:]]


def split(tokens: list[str], limits: Limits | None = None) -> list[Fragment]:
    splitter = Splitter(limits)
    fragments = [fragment for token in tokens for fragment in splitter.feed(token)]
    return fragments + splitter.finish()


@pytest.mark.parametrize("text", TEXTS, ids=range(len(TEXTS)))
def test_fragments_hold_the_whole_text_in_order(text: str) -> None:
    assert "".join(fragment.text for fragment in split([text])).strip() == text.strip()


@pytest.mark.parametrize("text", TEXTS, ids=range(len(TEXTS)))
def test_fragments_are_the_same_character_by_character(text: str) -> None:
    assert split(list(text)) == split([text])


@given(st.integers(0, 2**32), st.sampled_from(TEXTS))
@settings(max_examples=40, deadline=None)
def test_fragments_are_the_same_for_any_tokens(seed: int, text: str) -> None:
    chance = random.Random(seed)
    sizes = [chance.randint(0, 12) for _ in range(len(text) // 4)]
    assert split(cut_up(text, sizes)) == split([text])


@given(st.text(alphabet="ab I.,!?…。，\n \"'*-1你か́🙂", max_size=400), st.lists(st.integers(0, 9), max_size=80))
@settings(max_examples=150, deadline=None)
def test_fragments_of_odd_text_lose_nothing_and_do_not_depend_on_tokens(text: str, sizes: list[int]) -> None:
    limits = Limits(targets=(0, 10, 20), bounds=(30, 40, 50))
    whole = split([text], limits)
    assert split(cut_up(text, sizes), limits) == whole
    assert "".join(fragment.text for fragment in whole).strip() == text.strip()


@given(st.text(alphabet="ab .<>think/`~\nAnna:*🙂。", max_size=300), st.lists(st.integers(0, 9), max_size=60))
@settings(max_examples=150, deadline=None)
def test_pieces_do_not_depend_on_tokens(text: str, sizes: list[int]) -> None:
    stream = PieceStream("en-us")
    pieces = [piece for token in cut_up(text, sizes) for piece in stream.feed(token)]
    assert pieces + stream.finish() == split_text(text, "en-us")


@pytest.mark.parametrize("text", TEXTS, ids=range(len(TEXTS)))
def test_fragments_stay_under_their_bounds(text: str) -> None:
    limits = Limits()
    for count, fragment in enumerate(split([text])):
        assert sum(map(sound_units, fragment.text)) <= limits.bound(count) + limits.bound(0)
        assert sum(map(sound_units, fragment.text.strip())) <= limits.bound(count) + 4


def test_first_piece_ends_at_a_clause_of_four_words() -> None:
    first, second, *_ = split(
        ["When the morning came, over the grey sea, she put out the lamp and went down. She slept."]
    )
    assert first == Fragment("When the morning came,", Pause.CLAUSE)
    assert second.text.startswith(" over the grey sea, she put out")
    first, *_ = split(["In the end, she put out the lamp, took her coat from the door and went down the stairs."])
    assert first == Fragment("In the end, she put out the lamp,", Pause.CLAUSE)


def test_first_piece_ends_at_a_clause_only_where_words_follow_with_it() -> None:
    first, *_ = split(["When the morning came, she slept."])
    assert first == Fragment("When the morning came, she slept.", Pause.SENTENCE)


def test_first_piece_ends_at_a_sentence_before_a_long_clause_ends() -> None:
    first, *_ = split(["The morning came at last. She put out the lamp and went down the stairs, then she slept."])
    assert first == Fragment("The morning came at last.", Pause.SENTENCE)


def test_first_piece_is_returned_while_the_text_still_arrives() -> None:
    splitter = Splitter()
    assert not splitter.feed("The morning came at last. She put")
    assert splitter.feed(" out the") == [Fragment("The morning came at last.", Pause.SENTENCE)]


def test_short_sentences_are_joined_with_what_follows() -> None:
    first, second = split(["Oh. Yes. I see. The lamp has been out all night long. Nobody lit it in this dark storm."])
    assert first.text == "Oh. Yes. I see. The lamp has been out all night long."
    assert second.text.strip() == "Nobody lit it in this dark storm."


def test_last_words_are_joined_with_what_came_before() -> None:
    assert len(split(["The lamp has been out all night. Good night."])) == 1


def test_short_text_alone_is_spoken() -> None:
    assert split(["Hi!"]) == [Fragment("Hi!", Pause.SENTENCE)]


@pytest.mark.parametrize(
    "text",
    [
        "I met Dr. Miller and Mrs. Brown near the old harbour today",
        "She works for the U.S. Navy in a small town by the sea",
        "The value of pi is about 3.14159 and that is all of it",
        "J. R. R. Tolkien wrote a very long book about a small ring",
        "We went to many places, e.g. the harbour and also the old market hall",
        "Version 1.2.3 of it came out and everybody was happy again",
    ],
)
def test_full_stop_inside_a_sentence_does_not_end_it(text: str) -> None:
    sentences = [fragment for fragment in split([f"{text}."]) if fragment.pause is Pause.SENTENCE]
    assert len(sentences) == 1


def test_pieces_grow_slowly_to_two_sentences_or_three() -> None:
    text = " ".join(f"Sentence number {n} is about the lamp and the sea." for n in range(60))
    lengths = [len(fragment.text) for fragment in split([text])]
    assert lengths[0] < 60
    assert all(60 <= length < 120 for length in lengths[1:6])
    assert all(130 <= length <= 240 for length in lengths[7:-1])


def test_chinese_is_cut_at_its_own_marks() -> None:
    fragments = split([CHINESE * 6])
    assert len(fragments) > 3
    assert all(fragment.text.rstrip()[-1] in "。！？」" for fragment in fragments)


def test_endless_word_is_cut_between_letters_not_between_a_letter_and_its_accent() -> None:
    fragments = split(["e\u0301" * 600])
    assert len(fragments) > 1
    assert all(fragment.text.startswith("e") and fragment.text.endswith("\u0301") for fragment in fragments)


def test_empty_line_is_the_end_of_a_sentence() -> None:
    first, *_ = split(["A heading of at least five words\n\nThe text under it goes on for quite a while here."])
    assert first == Fragment("A heading of at least five words\n", Pause.SENTENCE)


def test_reasoning_that_only_ends_is_not_spoken() -> None:
    (piece,) = split_text("Plan it first.</think>The answer is four.", "en-us")
    assert piece.text == "The answer is four."


def test_reasoning_that_only_ends_drops_what_waits_and_keeps_what_was_returned() -> None:
    stream = PieceStream("en-us")
    tokens = list("I plan the answer at some length first. Then I think about it again, and again.</think>It is four.")
    pieces = [piece for token in tokens for piece in stream.feed(token)] + stream.finish()
    assert [piece.text for piece in pieces] == ["I plan the answer at some length first.", "It is four."]
    assert [piece.index for piece in pieces] == [0, 1]
