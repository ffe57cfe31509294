"""A whole measurement: each work on each target, warmed up first, and two targets in turn."""

import asyncio
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from itertools import pairwise

from callboard_cli.bench.generator import LagMeter
from callboard_cli.bench.load import Load, RunItem
from callboard_cli.bench.plan import Plan
from callboard_cli.bench.samples import Work
from callboard_cli.bench.target import Target
from callboard_cli.bench.works import item_of

WARM_UP_NUMBERS = 1_000_000
"""Where the numbers of the items of warm-ups begin, which no measured one shares."""


class Measurement:
    """Runs a plan; what was noted so far is there at any time, also after a cancellation."""

    def __init__(self, plan: Plan, targets: Sequence[Target]) -> None:
        self.plan = plan
        self.targets = targets
        self.loads: list[Load] = []
        self.meter = LagMeter()
        self.started = datetime.now(UTC)
        self.begun_s = time.monotonic()
        self.left_out: dict[Work, str] = {}
        self.interrupted = False
        for work in plan.works:
            why = [f"{target.root}: {target.left_out[work]}" for target in targets if work in target.left_out]
            if why:
                self.left_out[work] = "; ".join(why)

    @property
    def works(self) -> tuple[Work, ...]:
        """The works that every target can be asked for."""
        return tuple(work for work in self.plan.works if work not in self.left_out)

    async def run(self) -> None:
        """Measures; a cancellation ends it with what it has."""
        try:
            async with asyncio.TaskGroup() as group:
                ticking = group.create_task(self.meter.run())
                for work in self.works:
                    await self._measure(work)
                ticking.cancel()
        except asyncio.CancelledError:
            self.interrupted = True

    async def _measure(self, work: Work) -> None:
        loads = [Load(self.plan, work, target) for target in self.targets]
        self.loads += loads
        for load in loads:
            await load.warm_up(_runner(load, WARM_UP_NUMBERS, turns=1))
        blocks = blocks_of(self.plan.items(work), self.plan.at_once, self.plan.pairs if len(loads) > 1 else 1)
        for pair, numbers in enumerate(blocks):
            # Whoever goes first meets a machine that has rested; so the targets take turns in that too.
            for load in loads if pair % 2 == 0 else reversed(loads):
                await load.block(numbers, _runner(load, 0, self.plan.turns), pair)
            if not all(load.goes_on for load in loads):
                break


def blocks_of(items: int, at_once: int, pairs: int) -> list[range]:
    """Cuts items into blocks of nearly equal length, none shorter than what is asked at once."""
    count = max(1, min(pairs, items // at_once))
    edges = [items * n // count for n in range(count + 1)]
    return [range(start, end) for start, end in pairwise(edges)]


def _runner(load: Load, first: int, turns: int) -> RunItem:
    item = item_of(load.work)

    async def run(number: int, due_s: float) -> None:
        await item(load, first + number, due_s, turns)

    return run
