"""`[word](/ipa/)` in a text: well-formed ones stay whole, bad ones leave the word, and links stay links."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from callboard_tts.domain.pieces import PieceStream, split_text
from callboard_tts.domain.pronunciation import PRONUNCIATION

pytestmark = pytest.mark.unit


def spoken(text: str) -> str:
    return " ".join(piece.text for piece in split_text(text, "en-us"))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Say [owl](/ˈaʊl/) now.", "Say [owl](/ˈaʊl/) now."),
        ("The [docs](/docs/) are [here](http://a.b/c).", "The docs are here."),
        ("[docs](/docs/ü) page", "docs page"),
        ("[word](/ˈɪpə and it goes on.", "word and it goes on."),
        ("[word](/ˈɪpə", "word"),
        ("[word](/ˈɪpə\nThen more.", "word, Then more."),
        (f"[word](/{'ˈɪpə' * 900}/) then go.", "word then go."),
        (f"[New York](/{'nuː jɔːk ' * 90}/) is big.", "New York is big."),
        ("[paren](/tə(ɹ)ə/) ok.", "paren ok."),
        ("[w](//) x.", "w x."),
        (f"[{'long ' * 20}](/ˈɪpə/) x.", f"{'long ' * 19}long x."),
    ],
)
def test_text_is_spoken_as_expected(text: str, expected: str) -> None:
    assert spoken(text) == expected


@pytest.mark.parametrize(
    "text", ["[[word]](/ˈɪpə/) x.", "[a [b](/ˈɪpə( c](/d/ x.", "](/ˈɪpə/) x", "[](/ˈɪpə/) x", "[x](/ˈɪ](/ˈɪ/) x"]
)
def test_bad_phonemes_are_never_read(text: str) -> None:
    rest = PRONUNCIATION.sub("", spoken(text))
    assert "ɪ" not in rest
    assert "(" not in rest


def test_pronunciation_is_never_cut() -> None:
    for count in range(60):
        pieces = split_text("word " * count + "[New York City](/nuː jɔːk sɪti, juː ɛs eɪ/) " * 8, "en-us")
        assert sum(len(PRONUNCIATION.findall(piece.text)) for piece in pieces) == 8
        assert not any("](" in PRONUNCIATION.sub("", piece.text) for piece in pieces)


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.sampled_from(["[", "]", "(", ")", "/", "](/", "/)", " ", "\n", "ˈɪ", "word", ". ", "x" * 90, "ə" * 130])
    ),
    st.integers(1, 9),
)
def test_pieces_do_not_depend_on_the_chunks(parts: list[str], size: int) -> None:
    text = "".join(parts)
    stream = PieceStream("en-us")
    pieces = [piece for begin in range(0, len(text), size) for piece in stream.feed(text[begin : begin + size])]
    assert pieces + stream.finish() == split_text(text, "en-us")
