"""Runs an engine's blocking work on threads of its own, and stops it when its waiter is cancelled."""

import asyncio
import logging
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

log = logging.getLogger(__name__)

T = TypeVar("T")
STOP_TIMEOUT_S = 5.0
"""How long work may take to stop before its engine counts as stuck."""


class Cancelled(Exception):  # noqa: N818 - a state
    """Raised by blocking work that was told to stop."""


class StopSignal:
    """Tells blocking work to stop: a flag to poll, and callbacks for engines that can be interrupted."""

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
        """Calls back once when the signal is set, at once if it is set already."""
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
    """A pool of one thread for each slot of an engine.

    Work that ignores the order to stop for `stop_timeout_s` marks the engine as broken.
    """

    def __init__(self, name: str, slots: int, stop_timeout_s: float = STOP_TIMEOUT_S) -> None:
        self._stop_timeout_s = stop_timeout_s
        self._executor = ThreadPoolExecutor(max_workers=slots, thread_name_prefix=name)
        self._name = name
        self.broken: str | None = None
        self.active = 0

    async def run(self, work: Callable[[StopSignal], T]) -> T:
        """Runs blocking work; a cancelled caller tells the work to stop and waits for its end."""
        stop = StopSignal()
        future = asyncio.get_running_loop().run_in_executor(self._executor, work, stop)
        self.active += 1
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            stop.set()
            _done, pending = await asyncio.wait({future}, timeout=self._stop_timeout_s)
            if pending:
                self.broken = "the engine does not stop"
                log.error("engine_stuck", extra={"engine": self._name})  # noqa: TRY400 - no error to show
            elif not future.cancelled():
                # Retrieves the error, so that asyncio does not report it as never retrieved.
                future.exception()
            raise
        finally:
            self.active -= 1

    def close(self) -> None:
        """Ends the threads without waiting for running work."""
        self._executor.shutdown(wait=False, cancel_futures=True)
