"""The tasks of requests and events that are being handled."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any


class InFlight:
    """Owns tasks until they end; `on_end` is called after each."""

    def __init__(self, on_end: Callable[[], None] = lambda: None) -> None:
        self._tasks: set[asyncio.Task[None]] = set()
        self._on_end = on_end

    def __len__(self) -> int:
        return len(self._tasks)

    def start(self, work: Coroutine[Any, Any, None], name: str) -> None:
        """Runs a coroutine that handles its own errors."""
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._on_end()

    async def drain(self, timeout_s: float) -> None:
        """Waits for the tasks that run; at the timeout they are cancelled."""
        if self._tasks:
            await asyncio.wait(set(self._tasks), timeout=timeout_s)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
