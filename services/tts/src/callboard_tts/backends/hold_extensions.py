"""Requests further holds for work that is under way, over the bus."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from callboard_contracts.errors import ErrorInfo
from callboard_contracts.quota import Hold, ReserveReply, ReserveRequest, Work
from callboard_kit.bus import Bus
from callboard_kit.quota_rpc import UNAVAILABLE, QuotaRpc

T = TypeVar("T")


class BusHoldExtensions:
    """Asks whichever quota process answers; it owns each request until its reply, even if the caller was cancelled."""

    def __init__(self, bus: Bus, timeout_s: float) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()
        self._rpc = QuotaRpc(bus, timeout_s, self._start)

    async def ask(self, hold: Hold, audio_ms: int, life_s: float) -> Hold | ErrorInfo:
        """Asks once; see `HoldExtensions`."""
        request = ReserveRequest(
            request_id=hold.request_id,
            kind=hold.kind,
            model=hold.model,
            work=Work(audio_ms=audio_ms),
            life_s=life_s,
            extends=hold,
        )
        asking = self._start(self._ask(request), "extension")
        try:
            return await asyncio.shield(asking)
        except asyncio.CancelledError:
            asking.add_done_callback(self._give_back_result)
            raise

    def give_back(self, hold: Hold) -> None:
        """Releases a hold in the background."""
        self._start(self._rpc.release(hold), "give-back")

    async def close(self, timeout_s: float) -> None:
        """Waits for what is under way, then ends the rest."""
        until = asyncio.get_running_loop().time() + timeout_s
        # A reply that comes in this time may start a release.
        while self._tasks and (left_s := until - asyncio.get_running_loop().time()) > 0:
            await asyncio.wait(set(self._tasks), timeout=left_s)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _ask(self, request: ReserveRequest) -> Hold | ErrorInfo:
        reply = await self._rpc.reserve(request) or ReserveReply()
        return reply.hold or reply.error or UNAVAILABLE

    def _give_back_result(self, asking: asyncio.Task[Hold | ErrorInfo]) -> None:
        if not asking.cancelled() and asking.exception() is None and isinstance(hold := asking.result(), Hold):
            self.give_back(hold)

    def _start(self, work: Coroutine[Any, Any, T], name: str) -> asyncio.Task[T]:
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task
