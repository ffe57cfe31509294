"""What the runs of engines on one reply come to: how often it was begun again, and how long it was written."""

from collections.abc import Callable

from callboard_chat.domain.ports import Chunk

TELL_AGAIN_S = 60.0
"""How often it is told again that a reply is begun again; the bus forgets frames after twice that."""


class ReplyRuns:
    """Counts over all runs of one attempt, and the attempts before it; `begin` comes before each run.

    `clock` is monotonic.
    """

    def __init__(self, attempt: int, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._told = 0
        self._tell_again_at = 0.0
        self._before = attempt - 2
        self._run_restarts = 0
        self._run_worked_s = 0.0
        self.restarts = self._before
        """How often the reply was begun again."""
        self.worked_s: float | None = None
        """How long the reply was written, where it waited for somebody to write it; None where it did not."""

    @property
    def is_to_tell(self) -> bool:
        """Whether it was not told lately how often the reply was begun again."""
        return self.restarts > self._told or (self.restarts > 0 and self._clock() >= self._tell_again_at)

    def tell(self) -> int:
        """How often the reply was begun again, which is told now."""
        self._told = self.restarts
        if self._told > 0:
            self._tell_again_at = self._clock() + TELL_AGAIN_S
        return self._told

    def begin(self) -> None:
        """Counts one more run."""
        self._before += 1 + self._run_restarts
        self.restarts = self._before
        self._run_restarts = 0
        self._run_worked_s = 0.0

    def take(self, chunk: Chunk) -> None:
        """Takes in what a chunk says of its run so far."""
        self._run_restarts = max(self._run_restarts, chunk.restarts)
        self.restarts = self._before + self._run_restarts
        if chunk.worked_s is not None:
            self.worked_s = (self.worked_s or 0.0) + max(0.0, chunk.worked_s - self._run_worked_s)
            self._run_worked_s = max(self._run_worked_s, chunk.worked_s)
