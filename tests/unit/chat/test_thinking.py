"""Reasoning is kept apart from the reply however the text is cut."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from callboard_chat.domain.thinking import ThinkingSplitter

pytestmark = pytest.mark.unit


def split(pieces: list[str], splitter: ThinkingSplitter | None = None) -> tuple[str, str]:
    splitter = splitter or ThinkingSplitter()
    parts = [splitter.feed(piece) for piece in pieces] + [splitter.flush()]
    return "".join(reply for reply, _ in parts), "".join(thinking for _, thinking in parts)


@pytest.mark.parametrize(
    ("text", "reply", "thinking"),
    [
        ("Hello.", "Hello.", ""),
        ("<think>hm</think>Hello.", "Hello.", "hm"),
        ("\n<think>\nhm\n</think>\n\nHello.", "Hello.", "\nhm\n"),
        ("<think></think>\n\nHello.", "Hello.", ""),
        ("Well, <think>hm</think> hello.", "Well,  hello.", "hm"),
        ("<think>never closed", "", "never closed"),
        ("a < b and <thin air", "a < b and <thin air", ""),
        ("<think>a</think> <think>b</think> c", "c", "ab"),
        ("  Indented.", "  Indented.", ""),
        ("ends with <thi", "ends with <thi", ""),
        ("<think>a </thi", "", "a </thi"),
        ("", "", ""),
    ],
)
def test_a_block_is_taken_out_whatever_the_cuts(text: str, reply: str, thinking: str) -> None:
    assert split([text]) == (reply, thinking)
    assert split(list(text)) == (reply, thinking)


@given(
    st.lists(st.sampled_from(["<think>", "</think>", "<", "th", "ink>", " ", "a", "\n", "</"]), max_size=12), st.data()
)
def test_any_cut_gives_the_same_split(words: list[str], data: st.DataObject) -> None:
    text = "".join(words)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=6)))
    pieces = [text[start:end] for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    assert split(pieces) == split([text])


def test_text_goes_out_at_once_when_it_cannot_become_a_tag() -> None:
    splitter = ThinkingSplitter()
    assert splitter.feed("Hi") == ("Hi", "")
    assert splitter.feed(" there <") == (" there ", "")
    assert splitter.feed("b>") == ("<b>", "")


def test_in_json_only_a_leading_block_counts() -> None:
    text = '<think>plan</think>{"tag": "<think>"}'
    for pieces in ([text], list(text)):
        assert split(pieces, ThinkingSplitter(leading_only=True)) == ('{"tag": "<think>"}', "plan")


def test_a_reply_that_stopped_in_its_thinking_goes_on_there() -> None:
    assert split(["more</think>\n", "Yes."], ThinkingSplitter(inside=True)) == ("Yes.", "more")


def test_an_engine_that_splits_by_itself_ends_the_block() -> None:
    splitter = ThinkingSplitter(inside=True)
    splitter.leave()
    assert splitter.feed("Yes.") == ("Yes.", "")
