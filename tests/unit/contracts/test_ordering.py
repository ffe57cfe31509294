"""Whatever the order in which two workers' pieces arrive, the newest attempt's reply comes out whole."""

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from callboard_contracts.ordering import AttemptOrder, newest

pytestmark = pytest.mark.unit


@dataclass(frozen=True)
class Piece:
    number: int
    attempt: int


def order(first: int = 0) -> AttemptOrder[Piece]:
    return AttemptOrder(lambda piece: piece.number, lambda piece: piece.attempt, first)


@st.composite
def two_attempts(draw: st.DrawFn) -> tuple[list[Piece], list[Piece]]:
    """All pieces of two attempts in any order, and the reply that they make.

    The second goes on anywhere in what the first wrote; the first, given up for dead, may write on.
    """
    first = draw(st.integers(0, 3))
    written = draw(st.integers(1, 8))
    begins_at = draw(st.integers(first, first + written))
    older = [Piece(first + n, 1) for n in range(written)]
    newer = [Piece(begins_at + n, 2) for n in range(draw(st.integers(1, 8)))]
    reply = [piece for piece in older if piece.number < begins_at] + newer
    return draw(st.permutations(older + newer)), reply


@given(two_attempts())
def test_any_order_of_two_attempts_gives_the_newest_ones_reply(case: tuple[list[Piece], list[Piece]]) -> None:
    pieces, reply = case
    assert newest(order(reply[0].number), pieces) == reply


@given(two_attempts(), st.data())
def test_pieces_that_come_twice_change_nothing(case: tuple[list[Piece], list[Piece]], data: st.DataObject) -> None:
    pieces, reply = case
    again = data.draw(st.lists(st.sampled_from(pieces), max_size=10))
    assert newest(order(reply[0].number), pieces + again) == reply


def test_reply_ends_before_the_first_piece_that_is_missing() -> None:
    taken = order()
    assert newest(taken, [Piece(0, 1), Piece(2, 1), Piece(3, 1)]) == [Piece(0, 1)]
    assert taken.missing
    assert taken.take(Piece(1, 1)).pieces == (Piece(1, 1), Piece(2, 1), Piece(3, 1))
    assert not taken.missing


def test_receiver_is_told_from_where_a_newer_attempt_replaces_what_it_has() -> None:
    taken = order()
    assert newest(taken, [Piece(n, 1) for n in range(4)]) == [Piece(n, 1) for n in range(4)]
    ordered = taken.take(Piece(2, 2))
    assert (ordered.rewound_to, ordered.pieces) == (2, (Piece(2, 2),))
    assert taken.take(Piece(3, 1)).pieces == ()


def test_attempt_that_is_announced_leaves_older_pieces_aside() -> None:
    taken = order()
    taken.take(Piece(0, 1))
    taken.announce(2)
    assert taken.take(Piece(1, 1)).pieces == ()
    assert taken.take(Piece(1, 2)).pieces == (Piece(1, 2),)
