"""The site under attack, its neighbours, and how long each attack goes on."""

import asyncio
import os
import random
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from contextlib import asynccontextmanager

import pytest

from tests.hostile.neighbours import MachineClock, Neighbours
from tests.hostile.site import Site
from tests.support.models import missing_model_files, model_file

TOTAL_S = float(os.environ.get("CALLBOARD_HOSTILE_S", "120"))
"""How long all attacks together go on."""
BASELINE_S = 8.0
WARM_UP = 0.25
"""The part of an attack that comes before memory is measured."""
TIMEOUT_S = TOTAL_S + 420

Attack = Callable[[random.Random, float], Awaitable[None]]
"""What a test does again and again; it is given its own chance and the seconds that are left."""


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Generator[Site]:
    """The site for all attacks; at the end its accounts must be exact and its processes stop in order."""
    if not model_file("chat.model_file").exists():
        pytest.skip(f"model files missing: {', '.join(missing_model_files())}; `make models` fetches them")
    one = Site(tmp_path_factory.mktemp("hostile"), speech=not missing_model_files())
    try:
        one.start()
        yield one
        one.settle()
        one.deployment.command("usage", "verify")
        one.deployment.stop()
    finally:
        one.deployment.abandon()


@pytest.fixture(scope="session")
def neighbours(site: Site) -> Generator[Neighbours]:
    """Ordinary clients, with what they wait in quiet times."""
    clock = MachineClock(site.folder)
    try:
        found = Neighbours(site, clock)
        asyncio.run(found.measure_baseline(BASELINE_S))
        yield found
    finally:
        clock.close()


class Siege:
    """Runs an attack for its time, with neighbours going on, and checks the site afterwards."""

    def __init__(self, site: Site, neighbours: Neighbours, seed: str) -> None:
        self.site = site
        self._neighbours = neighbours
        self._seed = seed

    async def withstand(self, share: float, attack: Attack) -> None:
        """Attacks for a share of the time: first so that everything is warm, then with memory measured."""
        chance = random.Random(self._seed)
        await self._attack(chance, share * TOTAL_S * WARM_UP, attack)
        before = await asyncio.to_thread(self.site.memory)
        await self._attack(chance, share * TOTAL_S * (1 - WARM_UP), attack)
        await asyncio.to_thread(self.site.check_memory, before)

    async def _attack(self, chance: random.Random, duration_s: float, attack: Attack) -> None:
        loop = asyncio.get_running_loop()
        until = loop.time() + duration_s
        async with self._neighbours.going_on():
            while (left_s := until - loop.time()) > 0:
                await attack(chance, left_s)
                await asyncio.sleep(0)
        await self.check()

    async def check(self) -> None:
        """Fails for what went wrong since the last check."""
        await asyncio.to_thread(self.site.check_processes)
        self.site.check_faults()
        await asyncio.to_thread(self._neighbours.check_waits)
        await asyncio.to_thread(self.site.settle)

    @asynccontextmanager
    async def with_neighbours(self) -> AsyncGenerator[None]:
        """Has neighbours go on beside a test that attacks by itself, and checks the site afterwards."""
        async with self._neighbours.going_on():
            yield
        await self.check()


@pytest.fixture
def siege(site: Site, neighbours: Neighbours, request: pytest.FixtureRequest) -> Siege:
    """Repeatable with the seed that pytest prints: `-p randomly -p "randomly_seed=..."`."""
    seed = request.config.getoption("randomly_seed", 1)
    return Siege(site, neighbours, f"{seed} {request.node.name}")
