"""The time of day as the ledger may use it."""

import time
from collections.abc import Callable

MAX_STEP_S = 1.0
RESOLUTION_S = 0.001
"""The clock stands still for so long, since one decision asks for the time often."""
PACE_AHEAD = 0.5
"""The clock's speed while the followed clock is behind it."""


class SteadyClock:
    """Follows a clock, the bus's, but never goes back.

    When that clock is set back, this one runs on at half its speed until the other has caught up, so an hour that was
    left is never counted in again. `stepped_at` is when the clock last jumped, in either direction, so that no lease is
    ended because of a jump.
    """

    def __init__(self, wall: Callable[[], float] = time.time, pace: Callable[[], float] = time.monotonic) -> None:
        self._wall = wall
        self._pace = pace
        self._last = wall()
        self._last_pace = pace()
        self._offset = self._last - self._last_pace
        self.stepped_at: float | None = None
        self.ahead_s = 0.0
        """How far it was ahead of the followed clock when it last moved."""

    def now(self) -> float:
        """Unix seconds, never less than before."""
        pace = self._pace()
        if 0 <= pace - self._last_pace < RESOLUTION_S:
            return self._last
        wall = self._wall()
        offset = wall - pace
        if abs(offset - self._offset) > MAX_STEP_S:
            self.stepped_at = pace
        self._offset = offset
        self._last = max(wall, self._last + (pace - self._last_pace) * PACE_AHEAD)
        self._last_pace = pace
        self.ahead_s = self._last - wall
        return self._last

    def steady_for_s(self) -> float:
        """How long ago the followed clock last jumped; a large number when it never did."""
        self.now()
        return float("inf") if self.stepped_at is None else self._pace() - self.stepped_at
