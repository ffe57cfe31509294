"""An edge for volunteers, with a chat worker that a test scripts."""

import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

from callboard_contracts.accounts import key_digest
from callboard_contracts.volunteers import VolunteerRecord, volunteer_id
from callboard_contracts.workers import OfferedModel, WorkerInfo
from callboard_edge.backends.fake_volunteers import FakeVolunteerStore, FakeVolunteerWorkers
from callboard_edge.domain.volunteers import Volunteers
from tests.unit.edge.harness import EdgeHarness, running

ADA, BEN = "k_0000000000000007", "k_00000000000000ff"
KEY, OTHER, ANONYMOUS = {"apikey": "cb_ada"}, {"apikey": "cb_ben"}, {"apikey": "0000000000"}
TEXT = "/api/v2/generate/text"
MARK = "a" * 32
JOB = f"{MARK[:8]}-0000-4000-8000-000000000000"
BARN = volunteer_id("barn")
OFFER: dict[str, Any] = {"name": "barn", "models": ["owl-7b"], "max_length": 80, "max_context_length": 1024}
CONFIG: dict[str, Any] = {
    "chat": {
        "pools": {"crowd": {"backend": "volunteers"}, "main": {"backend": "fake"}},
        "models": {"owl": {"pool": "crowd", "engine_model": "owl-7b"}, "wren": {"pool": "main"}},
        "default_model": "owl",
    },
    "horde": {"submits_per_s": 0, "submits_per_minute": 0, "polls_per_minute": 0, "others_per_minute": 0},
}


class Site:
    """An edge with a chat worker for volunteers."""

    def __init__(self, edge: EdgeHarness, volunteers: Volunteers, chat: FakeVolunteerWorkers) -> None:
        self.edge = edge
        self.volunteers = volunteers
        self.chat = chat

    def announce(self, slots_used: int = 0) -> None:
        models = (OfferedModel(name="owl", abilities=("completion",)),)
        self.edge.known.announce(
            WorkerInfo(
                id=MARK, service="chat", pool="crowd", backend="volunteers", models=models, slots=64,
                slots_used=slots_used, at=0,
            )
        )  # fmt: skip

    async def ask(self, method: str, path: str, json: Any = None, **headers: str) -> tuple[int, Any]:
        async with self.edge.session.request(method, self.edge.url + path, json=json, headers=headers) as answer:
            return answer.status, await answer.json()


@asynccontextmanager
async def running_site() -> AsyncGenerator[Site]:
    """Starts an edge for volunteers of Ada and Ben."""
    volunteers, chat = Volunteers(FakeVolunteerStore(), time.time), FakeVolunteerWorkers()
    async with running(CONFIG, volunteers=volunteers, volunteer_workers=chat) as edge:
        for key, account in (("cb_ada", ADA), ("cb_ben", BEN)):
            edge.quota.accounts[key_digest(key)] = account
            edge.quota.balances[account] = 0
        found = Site(edge, volunteers, chat)
        found.announce()
        yield found


async def popped(site: Site, **over: Any) -> VolunteerRecord:
    """The record of a volunteer that has asked for a job."""
    status, answer = await site.ask("POST", f"{TEXT}/pop", {**OFFER, **over}, **KEY)
    assert (status, answer["id"]) == (200, None), answer
    record = site.volunteers.get(volunteer_id(over.get("name", "barn")))
    assert record is not None
    return record
