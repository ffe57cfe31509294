"""A stop sequence never appears, and nothing is held that cannot become one."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from callboard_chat.domain.stopping import StopCutter

pytestmark = pytest.mark.unit


def cut(pieces: list[str], stops: list[str]) -> tuple[str, str | None]:
    cutter = StopCutter(stops)
    text = "".join(cutter.feed(piece) for piece in pieces) + cutter.flush()
    return text, cutter.hit


@pytest.mark.parametrize(
    ("text", "stops", "expected", "hit"),
    [
        ("one two", [], "one two", None),
        ("one two", ["two"], "one ", "two"),
        ("one tw", ["two"], "one tw", None),
        ("User: hi", ["\nUser:", "User:"], "", "User:"),
        ("aab", ["ab"], "a", "ab"),
        ("abcd", ["abcd", "c"], "ab", "c"),
        ("a\n\nb", ["\n\n"], "a", "\n\n"),
        ("anything", [""], "anything", None),
    ],
)
def test_the_text_ends_before_the_first_stop(text: str, stops: list[str], expected: str, hit: str | None) -> None:
    assert cut([text], stops) == (expected, hit)
    assert cut(list(text), stops) == (expected, hit)


@given(
    st.text("ab\n", max_size=20),
    st.lists(st.text("ab\n", min_size=1, max_size=4), min_size=1, max_size=3),
    st.data(),
)
def test_any_cut_gives_the_same_text_without_a_stop(text: str, stops: list[str], data: st.DataObject) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=6)))
    pieces = [text[start:end] for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    result = cut(pieces, stops)
    assert result == cut([text], stops)
    assert not any(stop in result[0] for stop in stops)


def test_text_is_held_only_while_it_may_begin_a_stop() -> None:
    cutter = StopCutter(["\nUser:"])
    assert cutter.feed("Hi.") == "Hi."
    assert cutter.feed("\nUs") == ""
    assert cutter.feed("ually") == "\nUsually"
