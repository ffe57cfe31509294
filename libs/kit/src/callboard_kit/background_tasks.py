"""The owner of tasks that outlive the call that started them."""

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

log = logging.getLogger(__name__)

T = TypeVar("T")


class BackgroundTasks:
    """Runs tasks and sees them through before the process ends; `on_end` is called after each.

    Whoever starts them bounds how many there are.
    """

    def __init__(self, on_end: Callable[[], None] | None = None) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()
        self._on_end = on_end
        self._loop: asyncio.AbstractEventLoop | None = None

    def __len__(self) -> int:
        return len(self._tasks)

    def start(self, work: Coroutine[Any, Any, T], name: str) -> asyncio.Task[T]:
        """Runs a coroutine; an error that nobody awaits is logged by its type."""
        if self._loop is None:
            # Asked once, since asking costs a call of the system each time.
            self._loop = asyncio.get_running_loop()
        task = self._loop.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.debug("background_task_failed", extra={"task": task.get_name(), "error": type(error).__name__})
        if self._on_end is not None:
            self._on_end()

    async def close(self, timeout_s: float) -> None:
        """Waits for the tasks that run; at the timeout they are cancelled."""
        if self._tasks:
            await asyncio.wait(set(self._tasks), timeout=timeout_s)
        rest = list(self._tasks)
        for task in rest:
            task.cancel()
        await asyncio.gather(*rest, return_exceptions=True)
