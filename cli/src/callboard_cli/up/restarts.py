"""When a process that ended is started again, and when no longer."""

import time
from collections import deque
from collections.abc import Callable

WINDOW_S = 300.0
MAX_DEATHS = 5
FIRST_PAUSE_S = 1.0
LONGEST_PAUSE_S = 30.0


class Restarts:
    """The restarts of one process: exponential backoff, and an end after `MAX_DEATHS` within `WINDOW_S`."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.count = 0
        """How often the process was started again."""
        self._clock = clock
        self._deaths: deque[float] = deque(maxlen=MAX_DEATHS)

    def pause_s(self) -> float | None:
        """Counts a death; returns the pause before the next start, or None if the process died too often."""
        now = self._clock()
        self._deaths.append(now)
        recent = sum(now - death < WINDOW_S for death in self._deaths)
        if recent >= MAX_DEATHS:
            return None
        self.count += 1
        return min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2.0 ** (recent - 1))
