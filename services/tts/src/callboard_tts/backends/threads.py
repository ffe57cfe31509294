"""Runs an engine's blocking work on threads of its own and stops it when nobody waits any more."""

import asyncio
import logging
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

log = logging.getLogger(__name__)

T = TypeVar("T")
STOP_TIMEOUT_S = 5.0
"""An engine that has not stopped this long after it was told to never will."""


class Cancelled(Exception):  # noqa: N818 - a state
    """Raised by blocking work that noticed that it is no longer wanted."""


class StopSignal:
    """Tells blocking work to stop: a flag to look at, and callbacks for engines that have a switch of their own."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._callbacks: list[Callable[[], None]] = []
        self._set = False

    def is_set(self) -> bool:
        """Whether the work is to stop."""
        return self._set

    def check(self) -> None:
        """Raises Cancelled when the work is to stop."""
        if self._set:
            raise Cancelled

    def on_set(self, callback: Callable[[], None]) -> None:
        """Calls back once when the work is to stop, at once if that has happened already."""
        with self._lock:
            if not self._set:
                self._callbacks.append(callback)
                return
        callback()

    def set(self) -> None:
        """Tells the work to stop."""
        with self._lock:
            self._set = True
            callbacks, self._callbacks = self._callbacks, []
        for callback in callbacks:
            callback()


class EngineThreads:
    """One thread for each slot of an engine."""

    def __init__(self, name: str, slots: int) -> None:
        self._executor = ThreadPoolExecutor(max_workers=slots, thread_name_prefix=name)
        self._name = name
        self.broken: str | None = None
        self.active = 0

    async def run(self, work: Callable[[StopSignal], T]) -> T:
        """Runs blocking work; when the waiting task is cancelled the work is told to stop and waited for.

        Work that ignores the signal for 5 s marks the engine as broken.
        """
        stop = StopSignal()
        future = asyncio.get_running_loop().run_in_executor(self._executor, work, stop)
        self.active += 1
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            stop.set()
            _done, pending = await asyncio.wait({future}, timeout=STOP_TIMEOUT_S)
            if pending:
                self.broken = "the engine does not stop"
                log.error("engine_stuck", extra={"engine": self._name})  # noqa: TRY400 - a cancellation tells nothing
            elif not future.cancelled():
                # The outcome of unwanted work is looked at, so that asyncio does not report it as forgotten.
                future.exception()
            raise
        finally:
            self.active -= 1

    def close(self) -> None:
        """Lets the threads end; work that runs is not waited for."""
        self._executor.shutdown(wait=False, cancel_futures=True)
