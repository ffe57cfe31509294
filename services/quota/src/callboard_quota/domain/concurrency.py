"""A short wait of requests over a concurrency limit, since an open hold may be about to end.

A client that may run one job at a time sends its next request right after the last answer, while the settlement of the
job behind that answer is still some milliseconds away. So such a refusal stands only once no hold has ended for a short
time. A waiting request holds nothing; it is reserved as any other.
"""

from collections.abc import Awaitable, Callable
from typing import Literal

from callboard_quota.domain.decision import Granted, HoldRequest, Refused
from callboard_quota.domain.ledger import Ledger
from callboard_quota.domain.limit_kinds import LimitKind
from callboard_quota.domain.limits import Limit
from callboard_quota.domain.ports import StoreUnavailable

RETRY_AFTER_S = (0.01, 0.02, 0.04, 0.08, 0.12)
"""The pauses before each retry, 0.27 s in all: longer than values of earlier hours are taken as fresh."""
MAX_WAITING = 256
"""So many requests wait at once in one process; more are refused at once."""
MAX_WAITING_FOR_LIMIT = 16
"""Of them so many for one limit, and never more than its maximum, so that one caller cannot take all places."""

WaitResult = Literal["admitted", "refused", "full"]


class ConcurrencyWait:
    """Retries refusals by limits that free with the end of a hold; `on_wait` learns how each wait ended."""

    def __init__(
        self,
        ledger: Ledger,
        pause: Callable[[float], Awaitable[None]],
        on_wait: Callable[[WaitResult], None] = lambda _result: None,
    ) -> None:
        self._ledger = ledger
        self._pause = pause
        self._on_wait = on_wait
        self._waiting: dict[tuple[str, LimitKind], int] = {}

    async def wait(self, request: HoldRequest, refused: Refused) -> Granted | Refused:
        """The refusal as it is, or what came of the retries; raises StoreUnavailable."""
        limit = refused.limit_usage.limit
        if not limit.kind.waits or refused.retry_after_s is None:
            return refused
        key = (limit.tenant, limit.kind)
        before = self._waiting.get(key, 0)
        if sum(self._waiting.values()) >= MAX_WAITING or before >= min(limit.maximum, MAX_WAITING_FOR_LIMIT):
            self._on_wait("full")
            return refused
        self._waiting[key] = before + 1
        try:
            outcome = await self._retry(request, refused)
        finally:
            self._waiting[key] -= 1
            if not self._waiting[key]:
                del self._waiting[key]
        self._on_wait("admitted" if isinstance(outcome, Granted) else "refused")
        return outcome

    async def _retry(self, request: HoldRequest, refused: Refused) -> Granted | Refused:
        for pause_s in RETRY_AFTER_S:
            await self._pause(pause_s)
            # A read costs far less than an attempt that has to be taken back.
            if not await self._has_room(refused.limit_usage.limit):
                continue
            outcome = await self._ledger.reserve(request)
            if isinstance(outcome, Granted) or not outcome.limit_usage.limit.kind.waits:
                return outcome
            refused = outcome
        return refused

    async def _has_room(self, limit: Limit) -> bool:
        try:
            return (await self._ledger.limit_usages([limit]))[0].used < limit.maximum
        except StoreUnavailable:
            # The refusal is certain; only the retry is not.
            return False
