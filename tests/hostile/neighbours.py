"""Ordinary clients that go on during an attack, and how long each of their requests takes."""

import asyncio
import sys
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp

from tests.hostile.site import Reply, Site, problem_of
from tests.hostile.targets import ordinary
from tests.protocols.client import Client
from tests.protocols.dialect import Dialect
from tests.support.children import Child

MAX_EXTRA_S = 2.0
"""How much longer than in quiet times a neighbour may wait."""
PAUSE_S = 0.2
TICK_S = 0.1
CLOCK_PROGRAM = f"""
import time
while True:
    begun = time.monotonic()
    sum(range(200_000))
    worked = time.monotonic()
    time.sleep({TICK_S})
    print(begun, worked - begun, time.monotonic() - worked - {TICK_S}, flush=True)
"""


@dataclass(frozen=True, slots=True)
class Tick:
    """How long a piece of work took the machine, and how late it woke a sleeper, in seconds."""

    at_s: float
    work_s: float
    late_s: float


class MachineClock:
    """A process beside the site that shows how slow the machine itself is; other work on it is no fault of the site."""

    def __init__(self, folder: Path) -> None:
        self._child = Child([sys.executable, "-c", CLOCK_PROGRAM], folder / "clock.log")

    def ticks(self, since_s: float, until_s: float) -> list[Tick]:
        """What was measured between two times of `time.monotonic`."""
        rows = [line.split() for line in self._child.output().splitlines()[:-1]]
        found = [Tick(*map(float, row)) for row in rows if len(row) == 3]
        return [tick for tick in found if since_s - 2 * TICK_S <= tick.at_s <= until_s]

    def close(self) -> None:
        """Ends the process."""
        self._child.kill()


@dataclass(frozen=True, slots=True)
class Wait:
    """One request of a neighbour: when it began and how long it took."""

    kind: str
    began_s: float
    took_s: float


@dataclass
class Neighbours:
    """The ordinary clients of a site."""

    site: Site
    clock: MachineClock
    waits: list[Wait] = field(default_factory=list[Wait])
    baseline_s: dict[str, float] = field(default_factory=dict[str, float])
    tick_s: float = 0.0

    async def measure_baseline(self, duration_s: float) -> None:
        """Measures how long requests take in quiet times, in company of other ordinary clients."""
        began_s = time.monotonic()
        async with self.going_on(), self.going_on():
            await asyncio.sleep(duration_s)
        self.site.check_faults()
        for wait in self.take_waits():
            self.baseline_s[wait.kind] = max(self.baseline_s.get(wait.kind, 0.0), wait.took_s)
        ticks = self.clock.ticks(began_s, time.monotonic())
        self.tick_s = sorted(tick.work_s for tick in ticks)[len(ticks) // 2]

    @asynccontextmanager
    async def going_on(self) -> AsyncGenerator[None]:
        """Has one client for each way to ask go on, one request after the other."""
        stop = asyncio.Event()
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(60)) as session, asyncio.TaskGroup() as group:
            for dialect in self.site.dialects():
                group.create_task(self._ask_until(stop, session, dialect))
            try:
                yield
            finally:
                stop.set()

    async def _ask_until(self, stop: asyncio.Event, session: aiohttp.ClientSession, dialect: Dialect) -> None:
        client = Client(session, self.site.url, dialect, self.site.neighbour_key)
        request = ordinary(dialect, stream=True)
        while not stop.is_set():
            began_s = time.monotonic()
            try:
                answer = await client.ask(request)
                reply = Reply(answer.status, answer.headers, answer.body)
                problem = problem_of(dialect, reply, busy_allowed=False)
                problem = problem or (None if reply.status == 200 and not answer.cut else f"{reply.status}, cut")
            except (aiohttp.ClientError, TimeoutError) as error:
                problem = repr(error)
            self.waits.append(Wait(type(dialect).__name__, began_s, time.monotonic() - began_s))
            if problem:
                self.site.fault(f"a neighbour failed: {problem}", request.body)
            await asyncio.sleep(PAUSE_S)

    def take_waits(self) -> list[Wait]:
        """The requests since the last time."""
        waits, self.waits = self.waits, []
        return waits

    def check_waits(self) -> None:
        """Fails where a neighbour waited too long, measured by how slow the machine itself was at the time."""
        waits = self.take_waits()
        assert waits
        slow = [
            f"{wait.kind}: {wait.took_s:.2f} s, allowed {allowed:.2f} s"
            for wait in waits
            if wait.took_s > (allowed := self._allowed_s(wait))
        ]
        assert not slow, f"{len(slow)} of {len(waits)} waited too long:\n" + "\n".join(slow[:10])

    def _allowed_s(self, wait: Wait) -> float:
        allowed_s = self.baseline_s[wait.kind] + MAX_EXTRA_S
        if wait.took_s <= allowed_s:
            return allowed_s
        ticks = self.clock.ticks(wait.began_s, wait.began_s + wait.took_s)
        slowdown = max((tick.work_s / self.tick_s for tick in ticks), default=1.0)
        late_s = sum(max(0.0, tick.late_s) for tick in ticks)
        return self.baseline_s[wait.kind] * max(1.0, slowdown) + MAX_EXTRA_S + late_s
