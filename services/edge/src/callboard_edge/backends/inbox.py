"""The bounded box in which the messages for one request wait for its reader."""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

from callboard_contracts.errors import ErrorInfo

R = TypeVar("R")
T = TypeVar("T")


class RequestInbox(Generic[R, T]):
    """Takes raw messages without waiting and hands them out decoded.

    A reader that is slower than its worker makes the box overflow: what does not fit is dropped, and the reader learns
    that it must read them back from the bus. `loop` is the running one where it is left out.
    """

    def __init__(
        self,
        decode: Callable[[R], T | None],
        max_messages: int,
        max_bytes: int,
        loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        self._decode = decode
        self._loop = loop
        self._max_messages = max_messages
        self._max_bytes = max_bytes
        self._messages: deque[R] = deque()
        self._bytes = 0
        self._waiter: asyncio.Future[None] | None = None
        self.lost = False
        self.failure: ErrorInfo | None = None

    def put_nowait(self, message: R, size: int) -> bool:
        """Adds a message; false when it was dropped because the box is full."""
        fits = len(self._messages) < self._max_messages and self._bytes + size <= self._max_bytes
        if fits:
            self._messages.append(message)
            self._bytes += size
        else:
            self.lost = True
        if self._waiter is not None:
            self.wake()
        return fits

    def mark_lost(self) -> None:
        """Tells the reader that messages may have passed unseen."""
        self.lost = True
        self.wake()

    def fail(self, error: ErrorInfo) -> None:
        """Ends the reader's waiting with an error."""
        self.failure = error
        self.wake()

    def drain(self) -> list[T]:
        """Takes what has arrived, and forgets that something was lost; what cannot be decoded is left out."""
        self.lost = False
        if not self._messages:
            return []
        self._bytes = 0
        found = [item for item in map(self._decode, self._messages) if item is not None]
        self._messages.clear()
        return found

    async def wait(self, timeout_s: float) -> None:
        """Returns when something has arrived or was lost, when the inbox is failed, or after the timeout."""
        if self._messages or self.lost or self.failure is not None or timeout_s <= 0:
            return
        loop = self._loop or asyncio.get_running_loop()
        self._waiter = waiter = loop.create_future()
        timer = loop.call_later(timeout_s, self.wake)
        try:
            await waiter
        finally:
            timer.cancel()
            self._waiter = None

    def wake(self) -> None:
        """Ends the reader's waiting."""
        waiter, self._waiter = self._waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_result(None)
