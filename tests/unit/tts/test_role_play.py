"""Actions of role-play: which spans of asterisks are some, and what becomes of them."""

import random

import pytest

from callboard_tts.domain.boundaries import Pause
from callboard_tts.domain.pieces import PieceStream, split_text
from callboard_tts.domain.role_play import MAX_ACTION_CHARACTERS, RolePlay

pytestmark = pytest.mark.unit


def spoken(text: str, role_play: RolePlay = "silence") -> str:
    return " ".join(piece.text for piece in split_text(text, "en-us", role_play=role_play))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("*waves* Hello.", "Hello."),
        ("*Smiles warmly.* Hello there.", "Hello there."),
        ("*waves* hello there", "hello there"),
        ("Hello there. *waves*", "Hello there."),
        ("Hello there *waves slowly*", "Hello there"),
        ("Hello there, *sighs*\nI am tired.", "Hello there, I am tired."),
        ('"Hello," *she says* "how are you?"', "“Hello,” “how are you?”"),
        ("Fine. *nods*. And you?", "Fine. And you?"),
        ("Fine. *nods* *smiles* And you?", "Fine. And you?"),
        ("Anna: *waves* Hello.", "Hello."),
        ("Yes.\n*He said **no** there.*\nAnd left.", "Yes. And left."),
    ],
)
def test_action_is_left_out(text: str, expected: str) -> None:
    assert spoken(text).replace('"', "").replace("“", "").replace("”", "") == expected.replace("“", "").replace("”", "")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("*Never* do that.", "Never do that."),
        ("You are *wrong*.", "You are wrong."),
        ("You are *so* wrong.", "You are so wrong."),
        ("Well, *really* nice of you.", "Well, really nice of you."),
        ("*Well*, that is it.", "Well, that is it."),
        ("**Hello** there.", "Hello there."),
        ("***Hello*** there.", "Hello there."),
        ("- *fast* Cars\n- *slow* Cars", "fast Cars slow Cars"),
        ("*x* = 5 is the answer here.", "x equals 5 is the answer here."),
        ("*Hello there", "Hello there"),
        ("It is 3 * 4 * 5 in all.", "It is 3 times 4 times 5 in all."),
    ],
)
def test_emphasis_is_read(text: str, expected: str) -> None:
    assert spoken(text) == expected


def test_pause_stands_in_the_place_of_an_action() -> None:
    text = "I will go to the shop then *nods*\nand I shall come back to you in the evening."
    _, after = split_text(text, "en-us", role_play="pause")
    assert after.pause_before is Pause.SENTENCE
    assert spoken(text, "silence").startswith("I will go to the shop then and I shall")


def test_another_voice_reads_an_action_in_a_piece_of_its_own() -> None:
    pieces = split_text("Hello there. *waves at you* How are you?", "en-us", role_play="voice")
    assert [(piece.text, piece.is_action) for piece in pieces] == [
        ("Hello there.", False),
        ("waves at you", True),
        ("How are you?", False),
    ]
    assert [piece.pause_before for piece in pieces] == [Pause.NONE, Pause.SENTENCE, Pause.SENTENCE]


def test_span_that_never_ends_waits_only_for_so_long() -> None:
    stream = PieceStream("en-us")
    assert not stream.feed("*This begins and")
    assert stream.feed(" and it goes on and on." * (MAX_ACTION_CHARACTERS // 20))


@pytest.mark.parametrize("role_play", ["pause", "silence", "voice"])
def test_pieces_do_not_depend_on_the_chunks(role_play: RolePlay) -> None:
    text = (
        "*Smiles.* Hello there, my friend! *waves* I am *so* glad that you came. **Really** glad *bows*\n"
        "* one *thing*\n* another\n*She looks away.* It was 3 * 4, *not* 5. *sighs deeply*. *nods* "
        '"Well," *he says* "no."'
    )
    whole = split_text(text, "en-us", role_play=role_play)
    generator = random.Random(7)
    for _ in range(200):
        stream = PieceStream("en-us", role_play=role_play)
        pieces = []
        at = 0
        while at < len(text):
            size = generator.randint(1, 9)
            pieces += stream.feed(text[at : at + size])
            at += size
        assert pieces + stream.finish() == whole


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("One. Two is whole. And three is n", "One. Two is whole."),
        ("Only a part of a sent", ""),
        ("It was whole.", "It was whole."),
        ("It was whole. *wav", "It was whole."),
        ("Dr. Smith came at 5 p.m. today. Then he w", "Doctor Smith came at 5 p.m. today."),
    ],
)
def test_sentence_that_broke_off_is_dropped(text: str, expected: str) -> None:
    stream = PieceStream("en-us")
    pieces = stream.feed(text) + stream.finish(whole_sentences=True)
    assert " ".join(piece.text for piece in pieces).replace("P M", "p.m.") == expected
