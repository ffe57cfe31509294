"""The site under fire, and what kills its processes in turn."""

import asyncio
import random
import time
from collections.abc import Callable
from pathlib import Path

from tests.support.deployment import Deployment
from tests.support.processes import Service, Table

POOL = "volunteers"
MODELS = ("owl-7b", "owl-13b", "wren-1b", "crow-70b")
SHARES = (10, 5, 4, 1)
"""How many volunteers have each model, and how many ask for it."""
BETWEEN_KILLS_S = 9.0
AWAY_S = 0.8
RESTART_TIMEOUT_S = 60.0
CONFIG: Table = {
    "chat": {
        # A job's time is this and half a second for each token, so that silent volunteers are soon found out.
        "pools": {POOL: {"backend": "volunteers", "volunteer_time_s": 1}},
    },
    "horde": {
        "submits_per_s": 0,
        "submits_per_minute": 0,
        "polls_per_minute": 0,
        "others_per_minute": 0,
        "worker_calls_per_s": 0,
        "workers_per_account": 50,
    },
    "kudos": {"enabled": True},
    "edge": {"request_timeout_s": 90},
    "quota": {
        "reap_interval_s": 1,
        "lease_margin_s": 5,
        "tiers": {
            "anonymous": {"tokens_per_day": 1_000_000_000, "jobs_at_once": 2000},
            "standard": {"tokens_per_day": 1_000_000_000, "jobs_at_once": 2000},
        },
    },
}


class Site:
    """Two edges, two chat workers, quota and the bus, as real processes."""

    def __init__(self, folder: Path) -> None:
        self.deployment = Deployment(folder, CONFIG, log_level="info", forked=True)

    def start(self) -> None:
        """Starts everything."""
        self.deployment.start(chats=2, speakers=0, edges=2)
        self.urls = [self.deployment.root_url(0), self.deployment.root_url(1)]

    def cpu_s(self) -> dict[str, float]:
        """The processor time of each process that runs now."""
        found = {one.name: one.running.cpu_s for one in self.deployment.services if one.alive}
        nats = self.deployment.nats.child
        return found | ({"nats-server": nats.cpu_s} if nats is not None and nats.alive else {})


class Killer:
    """Kills an edge, a chat worker and the bus in turn, and starts each again."""

    def __init__(self, site: Site, dice: random.Random, began_at: float) -> None:
        self._site = site
        self._dice = dice
        self._began_at = began_at
        self.kills: list[str] = []

    async def run(self, stopped: Callable[[], bool]) -> None:
        """Goes on until told to stop; what was killed last runs again then."""
        deployment, turn = self._site.deployment, 0
        while True:
            until = time.monotonic() + BETWEEN_KILLS_S * self._dice.uniform(0.7, 1.3)
            while time.monotonic() < until:
                if stopped():
                    return
                await asyncio.sleep(0.25)
            which = (turn // 3) % 2
            if turn % 3 == 2:
                await self._bus()
            else:
                await self._service((deployment.edges, deployment.chats)[turn % 3][which])
            turn += 1

    async def _service(self, service: Service) -> None:
        self._note(service.name)
        await asyncio.to_thread(service.running.kill)
        await asyncio.sleep(AWAY_S)
        service.start()
        await asyncio.to_thread(service.wait_ready, RESTART_TIMEOUT_S)

    async def _bus(self) -> None:
        nats = self._site.deployment.nats
        self._note("nats-server")
        await asyncio.to_thread(nats.kill)
        await asyncio.sleep(AWAY_S)
        await asyncio.to_thread(nats.start)

    def _note(self, name: str) -> None:
        self.kills.append(name)
        print(f"{time.monotonic() - self._began_at:6.1f} s: kill -9 {name}", flush=True)
