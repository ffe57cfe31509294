"""The one time of day that all processes of an installation share: the bus's."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable

log = logging.getLogger(__name__)

MEASURE_INTERVAL_S = 30.0
CHECK_INTERVAL_S = 1.0
RETRY_INTERVAL_S = 0.1
MAX_ROUND_TRIP_S = 1.0
"""An answer that took longer tells the time too inexactly."""
GOOD_ROUND_TRIP_S = 0.1
MAX_STEP_S = 0.5
"""A larger step of the machine's clock against its monotonic clock may mean that the machine slept."""
NOTICEABLE_SKEW_S = 2.0


class BusClock:
    """Reckons the bus's time by this process's monotonic clock, measured anew from time to time.

    The machine's own clock is only reported: a wrong one changes neither a deadline nor a limit. Before the first
    measurement it stands in for the bus's. `read` asks the bus for its Unix time.
    """

    def __init__(
        self,
        read: Callable[[], Awaitable[float]],
        wall: Callable[[], float] = time.time,
        pace: Callable[[], float] = time.monotonic,
    ) -> None:
        self._read = read
        self._wall = wall
        self._pace = pace
        self._ahead_of_pace_s = wall() - pace()
        self._is_good = False
        self.measured = asyncio.Event()
        """Set once the bus has told its time."""

    @property
    def known(self) -> bool:
        """Whether the bus has told its time."""
        return self.measured.is_set()

    def now(self) -> float:
        """The bus's time in Unix seconds."""
        return self._pace() + self._ahead_of_pace_s

    @property
    def machine_ahead_s(self) -> float:
        """How far the machine's clock is ahead of the bus's; below 0, behind it."""
        return self._wall() - self.now()

    async def measure(self) -> None:
        """Asks the bus for its time; raises what `read` does, and TimeoutError for an answer that came too late.

        The answer is exact to half of its round trip. One that took long only counts where it contradicts what was
        known before.
        """
        asked_at = self._pace()
        async with asyncio.timeout(MAX_ROUND_TRIP_S):
            told = await self._read()
        answered_at = self._pace()
        trip_s = answered_at - asked_at
        ahead_s = told - (asked_at + answered_at) / 2
        is_good = trip_s <= GOOD_ROUND_TRIP_S
        if is_good or not self.known or abs(ahead_s - self._ahead_of_pace_s) > trip_s / 2:
            self._ahead_of_pace_s, self._is_good = ahead_s, is_good
        self.measured.set()

    async def follow(self) -> None:
        """Measures for as long as the process runs: every half minute, and at once after a step of a clock."""
        noticed = False
        while True:
            try:
                await self.measure()
            except Exception as error:
                # Whatever the bus answers instead of its time must not end the process; the next try may succeed.
                log.debug("bus_time_unread", extra={"reason": type(error).__name__})
            skewed = self.known and abs(self.machine_ahead_s) > NOTICEABLE_SKEW_S
            if skewed and not noticed:
                log.warning("clock_differs", extra={"ahead_s": round(self.machine_ahead_s, 1)})
            noticed = skewed
            await self._until_due()

    async def _until_due(self) -> None:
        began_at, offset_s = self._pace(), self._wall() - self._pace()
        while True:
            await asyncio.sleep(CHECK_INTERVAL_S if self.known else RETRY_INTERVAL_S)
            stepped = abs(self._wall() - self._pace() - offset_s) > MAX_STEP_S
            if not self._is_good or stepped or self._pace() - began_at >= MEASURE_INTERVAL_S:
                return
