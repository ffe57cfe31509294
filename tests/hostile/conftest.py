"""The site under attack, its neighbours, and how long each attack goes on."""

import asyncio
import logging
import os
import random
from collections.abc import Awaitable, Callable, Generator

import pytest

from tests.hearing.models import whisper_folder
from tests.hostile.neighbours import Neighbours
from tests.hostile.site import Site
from tests.support.models import missing_model_files, model_file

log = logging.getLogger(__name__)

TOTAL_S = float(os.environ.get("CALLBOARD_HOSTILE_S", "120"))
"""How long all attacks together go on."""
IDLE_TIMEOUT_S = 60.0
WARM_UP = 0.25
"""The part of an attack that comes before memory is measured."""
TIMEOUT_S = TOTAL_S + 420

Attack = Callable[[random.Random], Awaitable[None]]
"""What a test does again and again, by its own chance."""


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Generator[Site]:
    """The site for all attacks; at the end its accounts must be exact and its processes stop in order."""
    if not model_file("chat.model_file").exists():
        pytest.skip(f"model files missing: {', '.join(missing_model_files())}; `make models` fetches them")
    one = Site(
        tmp_path_factory.mktemp("hostile"),
        speech=not missing_model_files(),
        hearing=(whisper_folder("base") / "model.bin").exists(),
    )
    try:
        one.start()
        yield one
        one.deployment.wait_idle(IDLE_TIMEOUT_S)
        one.deployment.command("usage", "verify")
        one.deployment.stop()
    finally:
        one.deployment.abandon()


@pytest.fixture(scope="session")
def neighbours(site: Site) -> Generator[Neighbours]:
    """Ordinary clients, with what they wait in quiet times."""
    found = Neighbours(site)
    try:
        found.measure_baseline(site)
        yield found
    finally:
        found.close()


class Siege:
    """Runs an attack for its time, with neighbours going on, and checks the site afterwards."""

    def __init__(self, site: Site, neighbours: Neighbours, seed: str) -> None:
        self.site = site
        self._neighbours = neighbours
        self._seed = seed

    async def withstand(self, share: float, attack: Attack, rounds: int = 1) -> int:
        """Attacks for a share of the time: first so that everything is warm, then with memory measured.

        It goes on for at least `rounds` rounds of the attack, and returns how many answers its requests had.
        """
        chance = random.Random(self._seed)
        answers = self.site.answers
        await self._attack(chance, share * TOTAL_S * WARM_UP, attack, 1)
        before = await asyncio.to_thread(self.site.memory.now)
        await self._attack(chance, share * TOTAL_S * (1 - WARM_UP), attack, rounds)
        await asyncio.to_thread(self.site.memory.check, before)
        return self.site.answers - answers

    async def _attack(self, chance: random.Random, duration_s: float, attack: Attack, rounds: int) -> None:
        loop = asyncio.get_running_loop()
        until = loop.time() + duration_s
        while rounds > 0 or loop.time() < until:
            await attack(chance)
            rounds -= 1
            await asyncio.sleep(0)
        await self.check()

    async def check(self) -> None:
        """Fails for what went wrong since the last check."""
        await asyncio.to_thread(self.site.check_processes)
        self.site.check_faults()
        await asyncio.to_thread(self._neighbours.check)


@pytest.fixture
def siege(site: Site, neighbours: Neighbours, request: pytest.FixtureRequest) -> Siege:
    """What attacks a site; the same seed makes the same attacks."""
    seed = request.config.getoption("randomly_seed", 1)
    log.warning("repeat this with --randomly-seed=%s", seed)
    return Siege(site, neighbours, f"{seed} {request.node.name}")
