"""Jobs that an own engine and volunteers share: who comes first, and who of those that wait gets an own slot next."""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class SharingRule:
    """When a job may go to those who come second, `after_s` and `after_jobs` as the pool is configured."""

    own_first: bool
    after_jobs: int
    after_s: float

    def second_may(self, *, first_is_there: bool, waiting: int, waited_s: float) -> bool:
        """Whether they may have a job that has waited for so long, with `waiting` jobs up to it in line."""
        return not first_is_there or waiting > self.after_jobs or waited_s >= self.after_s


@dataclass(eq=False, slots=True)
class Turn:
    """A job in line for a slot; `may_begin` says whether it would begin now, `begin` is called when it does."""

    may_begin: Callable[[], bool]
    begin: Callable[[], None]
    has_slot: bool = False


class OwnSlots:
    """The slots of an own engine, and the jobs that wait for one: live ones first, each class in the order it came."""

    def __init__(self, slots: int) -> None:
        self._slots = slots
        self._taken = 0
        self._live: list[Turn] = []
        self._batch: list[Turn] = []

    @property
    def free(self) -> int:
        """How many slots nobody has."""
        return self._slots - self._taken

    def enter(self, turn: Turn, *, batch: bool) -> None:
        """Puts a job in line; it may get a slot at once."""
        (self._batch if batch else self._live).append(turn)
        self.serve()

    def leave(self, turn: Turn) -> None:
        """Takes a job out of line, or takes back its slot."""
        if turn.has_slot:
            turn.has_slot = False
            self._taken -= 1
            self.serve()
            return
        for line in (self._live, self._batch):
            if turn in line:
                line.remove(turn)

    def place(self, turn: Turn) -> int:
        """Which in line a job is among those that would begin now, from 1; 0 for one that is not in line."""
        line = [*self._live, *self._batch]
        if turn not in line:
            return 0
        return sum(one.may_begin() for one in line[: line.index(turn)]) + 1

    def serve(self) -> None:
        """Gives free slots to jobs in line that would begin now."""
        for line in (self._live, self._batch):
            for turn in list(line):
                if self.free <= 0:
                    return
                if turn.may_begin():
                    line.remove(turn)
                    self._taken += 1
                    turn.has_slot = True
                    turn.begin()
