"""How fast a model writes, and how much it has lately written, for those who wait in its queue."""

import time
from collections import deque
from collections.abc import Callable

from callboard_contracts.workers import Throughput

MEMORY_REPLIES = 20
"""About so many replies count in the means; older ones fade."""
BUCKET_S = 5
BUCKETS_PER_MINUTE = 60 // BUCKET_S


class ReplyStatistics:
    """The replies of one model; `clock` is monotonic."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._replies = 0.0
        self._tokens = 0.0
        self._seconds = 0.0
        self._lately: deque[tuple[int, int]] = deque(maxlen=BUCKETS_PER_MINUTE + 1)
        """Tokens by the stretch of time in which their replies ended."""

    def learn(self, tokens: int, seconds: float) -> None:
        """Takes in a reply; one without a token counts for nothing."""
        if tokens < 1 or seconds <= 0:
            return
        fading = min(1.0, MEMORY_REPLIES / (self._replies + 1))
        self._replies = (self._replies + 1) * fading
        self._tokens = (self._tokens + tokens) * fading
        self._seconds = (self._seconds + seconds) * fading
        bucket = int(self._clock()) // BUCKET_S
        if self._lately and self._lately[-1][0] == bucket:
            tokens += self._lately.pop()[1]
        self._lately.append((bucket, tokens))

    @property
    def throughput(self) -> Throughput | None:
        """The figures as they are announced; None before the first reply."""
        if not self._replies:
            return None
        oldest = int(self._clock()) // BUCKET_S - BUCKETS_PER_MINUTE
        return Throughput(
            tokens_per_s=round(self._tokens / self._seconds, 3) or 0.001,
            tokens_per_reply=round(self._tokens / self._replies, 1),
            tokens_last_minute=sum(tokens for bucket, tokens in self._lately if bucket > oldest),
        )
