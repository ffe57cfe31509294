"""How often one address or key may ask, in the Horde's own measures."""

import time
from collections.abc import Callable

from cachetools import LRUCache

from callboard_contracts.config import HordeSection
from callboard_contracts.errors import CallboardError, ErrorCode
from callboard_edge.http.call import Call

SECOND_S, MINUTE_S = 1, 60
MAX_COUNTED = 50_000
"""So many addresses, keys and paths are counted; beyond that those that have rested longest are forgotten."""


class RateLimits:
    """Counts what each address and key does in each second and minute; `clock` is monotonic.

    Every method raises CallboardError (`quota_exceeded`) with the time to return.
    """

    def __init__(self, settings: HordeSection, clock: Callable[[], float] = time.monotonic) -> None:
        self._settings = settings
        self._clock = clock
        self._counts: LRUCache[tuple[str, int, str], tuple[int, int]] = LRUCache(MAX_COUNTED)

    def submit(self, call: Call) -> None:
        """Counts a request for text."""
        address = call.caller.address or ""
        self._count("submit", address, self._settings.submits_per_minute, MINUTE_S)
        self._count("submit", address, self._settings.submits_per_s, SECOND_S)
        if call.caller.key_digest is not None:
            self._count("key", call.caller.key_digest, self._settings.submits_per_s, SECOND_S)

    def poll(self, call: Call, request_id: str) -> None:
        """Counts a question for one request."""
        self._count("poll", f"{call.caller.address} {request_id[:64]}", self._settings.polls_per_minute, MINUTE_S)

    def worker(self, call: Call) -> None:
        """Counts what a volunteer asks or says."""
        self._count("worker", call.caller.address or "", self._settings.worker_calls_per_s, SECOND_S)

    def other(self, call: Call) -> None:
        """Counts anything else."""
        self._count("other", call.caller.address or "", self._settings.others_per_minute, MINUTE_S)

    def _count(self, what: str, who: str, most: int, window_s: int) -> None:
        if not most:
            return
        now = self._clock()
        window = int(now) // window_s
        key = what, window_s, who
        known, count = self._counts.get(key, (window, 0))
        if known != window:
            count = 0
        if count >= most:
            unit = "second" if window_s == SECOND_S else "minute"
            retry_after_s = (window + 1) * window_s - now
            raise CallboardError(ErrorCode.QUOTA_EXCEEDED, f"{most} per 1 {unit}", retry_after_s=retry_after_s)
        self._counts[key] = window, count + 1
