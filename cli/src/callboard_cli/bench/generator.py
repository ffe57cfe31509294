"""How busy the generator itself was: what it measures is only as good as its own clockwork."""

import asyncio
import time
from dataclasses import dataclass

from callboard_cli.bench.statistics import Summary, percentile, summary

TICK_S = 0.01
MAX_TICKS = 1_000_000
TOLERATED_LAG_S = 0.003
TOLERATED_SHARE = 0.1
BUSY_SHARE = 0.85
"""Of one core, which is all that one event loop has."""


@dataclass(frozen=True, slots=True)
class Generator:
    """What the generator's own work did to its figures."""

    lag: Summary | None
    processor_share: float
    doubts: tuple[str, ...]

    @property
    def believable(self) -> bool:
        """Whether nothing speaks against the figures."""
        return not self.doubts


class LagMeter:
    """Wakes a hundred times a second and notes how late it is: so late are all other times too."""

    def __init__(self) -> None:
        self._lags_s: list[float] = []
        self._begun_s = time.monotonic()
        self._used_s = time.process_time()

    async def run(self) -> None:
        """Ticks until it is cancelled."""
        while len(self._lags_s) < MAX_TICKS:
            due_s = time.monotonic() + TICK_S
            await asyncio.sleep(TICK_S)
            self._lags_s.append(time.monotonic() - due_s)

    def judged(self, shortest_median_s: float | None) -> Generator:
        """Weighs the lag against the shortest of the medians that were measured."""
        elapsed_s = max(time.monotonic() - self._begun_s, TICK_S)
        share = (time.process_time() - self._used_s) / elapsed_s
        doubts: list[str] = []
        if self._lags_s:
            lag_s = percentile(self._lags_s, 0.99)
            if lag_s > max(TOLERATED_LAG_S, TOLERATED_SHARE * (shortest_median_s or 0.0)):
                doubts.append(
                    f"the generator woke up to {lag_s * 1000:.1f} ms late, 99 of 100 times less: its times are too long"
                )
        if share > BUSY_SHARE:
            doubts.append(f"the generator used {share:.0%} of a processor core: it cannot send much more than it did")
        return Generator(summary(self._lags_s), share, tuple(doubts))
