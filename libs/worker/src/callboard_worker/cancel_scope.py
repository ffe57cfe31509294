"""Stops work in progress from the outside, and says why."""

import asyncio
import time
from types import TracebackType
from typing import Literal, Self

Reason = Literal["cancelled", "superseded", "deadline", "stalled"]


class CancelScope:
    """A context whose body ends early when `cancel` is called; the first reason counts.

    It works as `asyncio.timeout` does: the task's current wait is cancelled, and the context takes that cancellation
    back. A cancellation from elsewhere passes through.
    """

    def __init__(self) -> None:
        self.reason: Reason | None = None
        self.at_s: float | None = None
        """When the body was told to end, by the monotonic clock."""
        self._task: asyncio.Task[object] | None = None

    def cancel(self, reason: Reason) -> None:
        """Ends the body while it runs; before and after, only the reason is kept."""
        if self.reason is not None:
            return
        self.reason = reason
        if self._task is not None:
            self.at_s = time.monotonic()
            self._task.cancel()

    def ignored_since(self, time_s: float) -> bool:
        """Whether the body was told to end before a time of the monotonic clock, and runs on."""
        return self._task is not None and self.at_s is not None and self.at_s < time_s

    def __enter__(self) -> Self:
        self._task = asyncio.current_task()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        task, self._task = self._task, None
        if self.at_s is None or task is None:
            return False
        # The cancellation was asked for here, so it is taken back whatever the body made of it.
        others = task.uncancel()
        return kind is not None and issubclass(kind, asyncio.CancelledError) and others == 0
