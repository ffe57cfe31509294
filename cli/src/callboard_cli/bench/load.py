"""The load on one target: so many requests under way, or so many due each second."""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable

from callboard_cli.bench.plan import Plan
from callboard_cli.bench.politeness import Allowance, Backoff
from callboard_cli.bench.samples import Failure, Sample, Work
from callboard_cli.bench.target import Target

RunItem = Callable[[int, float], Awaitable[None]]
MAX_WAITING = 10_000
"""A server that is so far behind is not going to catch up."""


class Load:
    """What one work does to one target, and what was noted of it."""

    def __init__(self, plan: Plan, work: Work, target: Target) -> None:
        self.plan = plan
        self.work: Work = work
        self.target = target
        self.allowance = Allowance(plan.requests + plan.warm_up, plan.tokens, plan.seconds)
        self.backoff = Backoff()
        self.samples: list[Sample] = []
        self.under_way = 0
        self.cut_off = 0
        """Requests that were under way when the measurement was stopped."""
        self.waited_for_place = 0
        """Requests of an open load that were due while as many as may were under way."""
        self.never_sent = 0
        """Requests of an open load that were due and found no place before the time was over."""
        self.windows_s: dict[int, float] = {}
        """How long each block took, by its pair."""
        self.warming = False
        self._pair = 0

    @property
    def window_s(self) -> float:
        """How long it was measured."""
        return sum(self.windows_s.values())

    @property
    def goes_on(self) -> bool:
        """Whether the target may be asked any more."""
        return self.backoff.gave_up is None and self.allowance.is_open

    async def request(
        self, due_s: float, tokens: int, ask: Callable[[Sample], Awaitable[None]], turn: int = 1
    ) -> Sample | None:
        """Sends one request, which may use so many tokens; None when that is not allowed any more."""
        if await self.backoff.wait():
            # A pause that the server asked for is not its slowness.
            due_s = time.monotonic()
        if not self.goes_on or not self.allowance.take(tokens):
            return None
        sample = Sample(self.work, self.target.number, due_s, turn=turn, pair=self._pair)
        self.under_way += 1
        try:
            retry_after_s = await self.target.measured(sample, lambda: ask(sample))
        except asyncio.CancelledError:
            self.cut_off += not self.warming
            raise
        finally:
            self.under_way -= 1
        if sample.output_tokens:
            # Where nobody says what was used, it may have been all.
            self.allowance.settle(tokens, sample.prompt_tokens + sample.output_tokens)
        self._note(sample, retry_after_s)
        return sample

    def note_failure(self, due_s: float, failure: Failure, retry_after_s: float | None) -> None:
        """Notes what failed before there was a request to measure."""
        now = time.monotonic()
        self._note(
            Sample(self.work, self.target.number, due_s, now, end_s=now, pair=self._pair, failure=failure),
            retry_after_s,
        )

    def _note(self, sample: Sample, retry_after_s: float | None) -> None:
        if sample.failure is None:
            self.backoff.accepted()
        elif sample.failure.status is not None:
            self.backoff.refused(sample.failure.status, retry_after_s)
        if not self.warming:
            self.samples.append(sample)

    async def warm_up(self, run: RunItem) -> None:
        """Opens connections and lets the server load what it loads at first; nothing of it counts."""
        self.warming = True
        try:
            await self._closed(range(self.plan.warm_up), run)
        finally:
            self.warming = False

    async def block(self, numbers: range, run: RunItem, pair: int = 0) -> None:
        """Runs items, and notes how long they took."""
        self._pair = pair
        begun_s = time.monotonic()
        try:
            await (self._closed(numbers, run) if self.plan.rate_per_s is None else self._open(numbers, run))
        finally:
            self.windows_s[pair] = time.monotonic() - begun_s

    async def _closed(self, numbers: range, run: RunItem) -> None:
        """Keeps as many items under way as the plan says."""
        left = iter(numbers)

        async def keep_on() -> None:
            for number in left:
                if not self.goes_on:
                    return
                await run(number, time.monotonic())

        async with asyncio.TaskGroup() as group:
            for _ in range(min(self.plan.at_once, len(numbers))):
                group.create_task(keep_on())

    async def _open(self, numbers: range, run: RunItem) -> None:
        """Starts each item when it is due, whatever became of those before it; those that find no place wait."""
        assert self.plan.rate_per_s is not None
        places = asyncio.Semaphore(self.plan.at_once)
        gaps = random.Random(f"{self.plan.seed} {numbers.start}")
        due_s = time.monotonic()
        waiting = 0
        random_gaps = self.plan.arrivals == "random"

        async def start(number: int, due_s: float) -> None:
            nonlocal waiting
            self.waited_for_place += places.locked()
            waiting += 1
            async with places:
                waiting -= 1
                if self.goes_on:
                    await run(number, due_s)
                else:
                    self.never_sent += self.allowance.ended_by == "seconds"

        async with asyncio.TaskGroup() as group:
            for number in numbers:
                wait_s = due_s - time.monotonic()
                await asyncio.sleep(max(0.0, min(wait_s, self.allowance.left_s)))
                if await self.backoff.wait():
                    due_s = time.monotonic()
                if self.goes_on and waiting < MAX_WAITING:
                    group.create_task(start(number, due_s))
                elif self.goes_on or (self.allowance.ended_by == "seconds" and due_s <= time.monotonic()):
                    # It is too far behind, or the generator is and this one was due within the time.
                    self.never_sent += 1
                else:
                    return
                due_s += gaps.expovariate(self.plan.rate_per_s) if random_gaps else 1 / self.plan.rate_per_s
