"""The one rule by which what workers send back is put in order: by number, and the newest attempt wins.

A worker that was given up for dead may wake and write on. From the first piece of a newer attempt on, nothing counts
that an older attempt wrote under the same or a later number.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Generic, TypeVar

P = TypeVar("P")


@dataclass(slots=True)
class Ordered(Generic[P]):
    """What one piece changed: the pieces that come next, in order.

    `rewound_to` is set where a newer attempt replaces pieces that were already handed out: those from that number on.
    """

    pieces: tuple[P, ...] = ()
    rewound_to: int | None = None


class AttemptOrder(Generic[P]):
    """Takes the numbered pieces of one reply in any order, from any attempt, and hands them out in order.

    `number` and `attempt` read a piece; `first` is the number to begin with.
    """

    def __init__(self, number: Callable[[P], int], attempt: Callable[[P], int], first: int = 0) -> None:
        self.next_number = first
        self.attempt = 0
        """The newest attempt that was seen or announced."""
        self._number = number
        self._attempt_of = attempt
        self._first = first
        self._floor: int | None = None
        self._held: dict[int, P] = {}
        self._attempts: list[int] = []
        self._again: dict[int, P] = {}
        """What the newest attempt wrote and was handed out, as long as its first piece may still be missing."""

    @property
    def missing(self) -> bool:
        """Whether a later piece is here while an earlier one is not."""
        return bool(self._held)

    def announce(self, attempt: int) -> None:
        """Notes that an attempt has begun, so that what older ones still send is left aside."""
        if attempt > self.attempt:
            self.attempt = attempt
            self._floor = None
            self._again.clear()

    def take(self, piece: P) -> Ordered[P]:
        """Takes one piece and returns what follows from it."""
        number, attempt = self._number(piece), self._attempt_of(piece)
        if attempt < self.attempt:
            if self._floor is None or not self.next_number <= number < self._floor:
                return Ordered()
        elif attempt > self.attempt or self._floor is None or number < self._floor:
            if attempt > self.attempt:
                self._again.clear()
            self.attempt, self._floor = attempt, number
            if self._held:
                for later in [n for n, held in self._held.items() if n >= number and self._attempt_of(held) < attempt]:
                    del self._held[later]
        if number == self.next_number and attempt == self.attempt and self._floor == self._first and not self._held:
            # This is nearly every piece: the next one, of the only attempt so far.
            self._attempts.append(attempt)
            self.next_number += 1
            return Ordered((piece,))
        rewound_to = None
        if self._first <= number < self.next_number and self._attempts[number - self._first] < attempt:
            rewound_to = self.next_number = number
            del self._attempts[number - self._first :]
            self._held.update(self._again)
            self._again.clear()
        if number < self.next_number:
            return Ordered()
        held = self._held.get(number)
        if held is None or self._attempt_of(held) < attempt:
            self._held[number] = piece
        return Ordered(self._next_pieces(), rewound_to)

    def clear(self) -> None:
        """Drops what waits for earlier pieces, since the end is known."""
        self._held.clear()

    def _next_pieces(self) -> tuple[P, ...]:
        pieces: list[P] = []
        while (piece := self._held.pop(self.next_number, None)) is not None:
            attempt = self._attempt_of(piece)
            self._attempts.append(attempt)
            if attempt == self.attempt and (self._floor or 0) > self._first:
                self._again[self.next_number] = piece
            self.next_number += 1
            pieces.append(piece)
        return tuple(pieces)


def newest(order: AttemptOrder[P], pieces: Iterable[P]) -> list[P]:
    """The pieces of a reply as they stand once all of these are taken, up to the first that is missing."""
    first, kept = order.next_number, list[P]()
    for piece in pieces:
        ordered = order.take(piece)
        if ordered.rewound_to is not None:
            del kept[ordered.rewound_to - first :]
        kept += ordered.pieces
    return kept
