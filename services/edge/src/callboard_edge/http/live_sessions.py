"""Counts the sessions that clients hold open, and tells them when the edge stops."""

import asyncio
from collections import Counter
from collections.abc import Generator
from contextlib import contextmanager

from callboard_contracts.config import RealtimeSection
from callboard_contracts.errors import CallboardError, ErrorCode
from callboard_edge.domain.caller import Caller
from callboard_edge.metrics import EdgeMetrics

RETRY_S = 5.0


class LiveSessions:
    """The open sessions of an edge, of which there are at most so many, and so many for each caller."""

    def __init__(self, limits: RealtimeSection, metrics: EdgeMetrics) -> None:
        self.limits = limits
        self.stopping = asyncio.Event()
        """Set when the edge stops: each session then ends after the answer that is being given."""
        self._metrics = metrics
        self._of_callers = Counter[str]()

    @contextmanager
    def entered(self, caller: Caller) -> Generator[None]:
        """Counts one more session while it is open.

        Raises:
            CallboardError: `overloaded`, or `queue_full` where the caller has too many.
        """
        name = caller.key_digest or caller.address or ""
        if self.stopping.is_set() or self._of_callers.total() >= self.limits.max_sessions:
            self._metrics.realtime_refused.labels("site").inc()
            raise CallboardError(
                ErrorCode.OVERLOADED, "Too many sessions are open here; try again shortly.", retry_after_s=RETRY_S
            )
        if self._of_callers[name] >= self.limits.max_sessions_per_caller:
            self._metrics.realtime_refused.labels("caller").inc()
            raise CallboardError(
                ErrorCode.QUEUE_FULL, "You have too many sessions open; close one first.", retry_after_s=RETRY_S
            )
        self._of_callers[name] += 1
        try:
            with self._metrics.realtime_sessions.track_inprogress():
                yield
        finally:
            self._of_callers[name] -= 1
            if not self._of_callers[name]:
                del self._of_callers[name]
