"""Waits a moment for one of a limited number of places, which the end of an earlier job is about to free.

A client that may run one job at a time sends its next request right after the last answer, while the settlement of the
job behind that answer is still some milliseconds away. So a refusal by `jobs_at_once` stands only once a place has not
become free for a short time. What waits here holds nothing; a place is taken by an ordinary reservation.
"""

from collections.abc import Awaitable, Callable
from typing import Literal

from callboard_quota.domain.decision import Granted, HoldRequest, Refused
from callboard_quota.domain.ledger import Ledger
from callboard_quota.domain.limits import Limit
from callboard_quota.domain.ports import StoreUnavailable

LOOKS_AFTER_S = (0.01, 0.02, 0.04, 0.08, 0.12)
"""The pauses before each look, 0.27 s in all: longer than figures of earlier hours are taken as fresh."""
MAX_WAITING = 256
"""So many requests wait at once in one process; those on top are refused at once."""
MAX_WAITING_FOR_LIMIT = 16
"""Of them so many for one limit, and never more than it has places, so that one caller cannot fill the room."""

Waited = Literal["freed", "refused", "full"]


class ConcurrencyWait:
    """Gives refusals by `jobs_at_once` a short second chance; `on_wait` learns how each ended."""

    def __init__(
        self,
        ledger: Ledger,
        pause: Callable[[float], Awaitable[None]],
        on_wait: Callable[[Waited], None] = lambda _waited: None,
    ) -> None:
        self._ledger = ledger
        self._pause = pause
        self._on_wait = on_wait
        self._waiting: dict[tuple[str, str], int] = {}

    async def wait(self, ask: HoldRequest, refused: Refused) -> Granted | Refused:
        """The refusal as it is, or what came of trying again; raises StoreUnavailable."""
        limit = refused.limit_usage.limit
        if limit.name != "jobs_at_once" or refused.retry_after_s is None:
            return refused
        key = (limit.tenant, limit.name)
        before = self._waiting.get(key, 0)
        if sum(self._waiting.values()) >= MAX_WAITING or before >= min(limit.maximum, MAX_WAITING_FOR_LIMIT):
            self._on_wait("full")
            return refused
        self._waiting[key] = before + 1
        try:
            outcome = await self._try_again(ask, refused)
        finally:
            self._waiting[key] -= 1
            if not self._waiting[key]:
                del self._waiting[key]
        self._on_wait("freed" if isinstance(outcome, Granted) else "refused")
        return outcome

    async def _try_again(self, ask: HoldRequest, refused: Refused) -> Granted | Refused:
        for pause_s in LOOKS_AFTER_S:
            await self._pause(pause_s)
            # A look costs far less than an attempt that has to be taken back.
            if not await self._has_room(refused.limit_usage.limit):
                continue
            outcome = await self._ledger.reserve(ask)
            if isinstance(outcome, Granted) or outcome.limit_usage.limit.name != "jobs_at_once":
                return outcome
            refused = outcome
        return refused

    async def _has_room(self, limit: Limit) -> bool:
        try:
            return (await self._ledger.limit_usages([limit]))[0].used < limit.maximum
        except StoreUnavailable:
            # The refusal is certain; only the second chance is not.
            return False
