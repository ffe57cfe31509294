"""What the runs of engines on one reply come to: how often it was begun again, and how long it was written."""

from callboard_chat.domain.ports import Chunk


class ReplyRuns:
    """Counts over all runs of one attempt, and the attempts before it; `begin` comes before each run."""

    def __init__(self, attempt: int) -> None:
        self._before = attempt - 2
        self._run_restarts = 0
        self._run_worked_s = 0.0
        self.worked_s: float | None = None
        """How long the reply was written, where it waited for somebody to write it; None where it did not."""

    @property
    def restarts(self) -> int:
        """How often the reply was begun again."""
        return self._before + self._run_restarts

    def begin(self) -> None:
        """Counts one more run."""
        self._before += 1 + self._run_restarts
        self._run_restarts = 0
        self._run_worked_s = 0.0

    def take(self, chunk: Chunk) -> None:
        """Takes in what a chunk says of its run so far."""
        self._run_restarts = max(self._run_restarts, chunk.restarts)
        if chunk.worked_s is not None:
            self.worked_s = (self.worked_s or 0.0) + max(0.0, chunk.worked_s - self._run_worked_s)
            self._run_worked_s = max(self._run_worked_s, chunk.worked_s)
