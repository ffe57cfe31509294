"""The AI Horde's protocol where volunteers write, over the fakes."""

import time
from collections.abc import AsyncGenerator
from typing import Any

import pytest

from callboard_contracts.accounts import key_digest
from callboard_contracts.volunteers import PopReply, SubmitReply, VolunteerRecord, volunteer_id
from callboard_contracts.workers import OfferedModel, WorkerInfo
from callboard_edge.backends.fake_volunteers import FakeVolunteerStore, FakeVolunteerWorkers
from callboard_edge.domain.ports import QueueDepth
from callboard_edge.domain.volunteers import Volunteers
from tests.unit.edge.harness import EdgeHarness, running

pytestmark = pytest.mark.unit

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


@pytest.fixture
async def site() -> AsyncGenerator[Site]:
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


async def test_a_request_waits_until_there_are_hands_for_it(site: Site) -> None:
    body = {"prompt": "An owl", "params": {"max_length": 40}, "models": ["owl"]}
    status, answer = await site.ask("POST", f"{TEXT}/async", body, **ANONYMOUS)
    assert (status, answer["message"][:9]) == (202, "No worker")
    path = f"{TEXT}/status/{answer['id']}"
    # A chat worker has taken it, and holds it for whoever may volunteer.
    site.edge.jobs.depths = {"batch": QueueDepth(0, 1)}
    seen = (await site.ask("GET", path))[1]
    assert (seen["processing"], seen["waiting"], seen["queue_position"], seen["is_possible"]) == (0, 1, 1, False)
    await popped(site, threads=2)
    seen = (await site.ask("GET", path))[1]
    assert (seen["processing"], seen["queue_position"], seen["is_possible"]) == (1, 0, True)
    site.announce(slots_used=5)
    seen = (await site.ask("GET", path))[1]
    assert (seen["processing"], seen["queue_position"], seen["is_possible"]) == (0, 3, True)
    load = (await site.ask("GET", "/api/v2/status/performance"))[1]
    assert (load["queued_text_requests"], load["text_thread_count"]) == (3, 2)
    (model,) = (await site.ask("GET", "/api/v2/status/models?type=text"))[1]
    assert (model["count"], model["jobs"]) == (1, 3)
    assert "message" not in (await site.ask("POST", f"{TEXT}/async", body, **ANONYMOUS))[1]


@pytest.mark.parametrize(
    ("asked", "record", "model"),
    [
        ({}, {}, "owl"),
        ({"trusted_workers": True}, {}, "wren"),
        ({"trusted_workers": True}, {"trusted": True}, "owl"),
        ({"validated_backends": True}, {"bridge_agent": "mine:1:x"}, "wren"),
        ({"slow_workers": False}, {"tokens": 40, "seconds": 20.0}, "wren"),
        ({"nsfw": True}, {"nsfw": False}, "wren"),
    ],
)
async def test_a_request_goes_to_whoever_may_write_it(
    asked: dict[str, Any], record: dict[str, Any], model: str, site: Site
) -> None:
    own = WorkerInfo(id="w", service="chat", pool="main", backend="fake", slots=1, slots_used=1, at=0)
    site.edge.known.announce(own.model_copy(update={"models": (OfferedModel(name="wren"),)}))
    site.volunteers.take((await popped(site)).model_copy(update=record))
    body = {"prompt": "An owl", "params": {"max_context_length": 1024}, **asked}
    status, answer = await site.ask("POST", f"{TEXT}/async", body, **ANONYMOUS)
    assert status == 202, answer
    assert (await site.edge.jobs.next_chat()).request.model == model


@pytest.mark.parametrize(
    ("over", "rc"),
    [
        ({"name": "ab"}, "BadRequest"),
        ({"name": None}, "BadRequest"),
        ({"name": "bar\x1b[2Jn"}, "BadRequest"),
        ({"name": "bar\u200bn"}, "BadRequest"),
        ({"name": "b" * 10_000}, "BadRequest"),
        ({"name": "Crowd"}, "PolymorphicNameConflict"),
        ({"models": []}, "BadRequest"),
        ({"models": ["\x00"]}, "BadRequest"),
        ({"models": "owl"}, "BadRequest"),
        ({"models": ["character/ada"]}, "BadRequest"),
        ({"max_length": 0}, "BadRequest"),
        ({"max_context_length": 10**30}, "BadRequest"),
        ({"threads": 51}, "BadRequest"),
        ({"amount": 21}, "BadRequest"),
        ({"bridge_agent": "x" * 1001}, "BadRequest"),
        ({"blacklist": ["x"] * 101}, "BadRequest"),
        ({"priority_usernames": ["ada"]}, "InvalidPriorityUsername"),
        ({"priority_usernames": ["ada#99999999999999999999"]}, "InvalidPriorityUsername"),
    ],
)
async def test_an_offer_that_cannot_be_is_refused_and_leaves_nothing(over: dict[str, Any], rc: str, site: Site) -> None:
    status, answer = await site.ask("POST", f"{TEXT}/pop", {**OFFER, **over}, **KEY)
    assert (status, answer["rc"]) == (400, rc)
    assert answer["message"]
    assert site.volunteers.online() == []
    assert site.chat.pops == []


async def test_a_name_of_another_user_is_refused_in_all_of_its_forms(site: Site) -> None:
    await popped(site)
    for name in ("BARN", " barn ", "\uff42arn"):
        status, answer = await site.ask("POST", f"{TEXT}/pop", {**OFFER, "name": name}, **OTHER)
        assert (status, answer["rc"]) == (403, "WrongCredentials")


async def test_an_owner_changes_a_worker_but_no_pause_of_the_site(site: Site) -> None:
    record = await popped(site)
    path = f"/api/v2/workers/{BARN}"
    site.volunteers.take(record.model_copy(update={"reward": 1500, "uptime_reward": 40_179}))
    shown = (await site.ask("GET", path))[1]
    assert (shown["kudos_rewards"], shown["kudos_details"]) == (41.679, {"generated": 1.5, "uptime": 40})
    changed = {"name": "barn", "info": "by the lake", "maintenance": False}
    assert await site.ask("PUT", path, changed, **KEY) == (200, {"maintenance": False, "info": "by the lake"})
    for over in ({"name": "shed"}, {"info": "x" * 1001}, {"maintenance": 7}):
        assert (await site.ask("PUT", path, over, **KEY))[0] == 400
    for headers, rc in ((OTHER, "NotOwner"), (ANONYMOUS, "AnonForbidden")):
        assert (await site.ask("DELETE", path, **headers))[1]["rc"] == rc
    await site.volunteers.change(record.id, lambda one: one.model_copy(update={"paused": True}))
    assert (await site.ask("POST", f"{TEXT}/pop", OFFER, **KEY))[1]["rc"] == "WorkerFlaggedMaintenance"
    assert (await site.ask("DELETE", path, **KEY))[1]["rc"] == "WorkerFlaggedMaintenance"
    await site.volunteers.change(record.id, lambda one: one.model_copy(update={"paused": False}))
    assert await site.ask("DELETE", path, **KEY) == (200, {"deleted_id": BARN, "deleted_name": "barn"})
    assert (await site.ask("GET", path))[1]["rc"] == "WorkerNotFound"


@pytest.mark.parametrize(
    ("reply", "status", "rc"),
    [
        (SubmitReply(outcome="accepted", reward=4200), 200, None),
        (SubmitReply(outcome="duplicate"), 400, "DuplicateGen"),
        (SubmitReply(outcome="aborted"), 400, "AbortedGen"),
        (SubmitReply(outcome="foreign"), 403, "WrongCredentials"),
        (SubmitReply(outcome="unknown"), 404, "InvalidJobID"),
    ],
)
async def test_a_text_is_answered_by_what_became_of_it(reply: SubmitReply, status: int, rc: str, site: Site) -> None:
    site.chat.outcomes = {MARK: reply}
    body = {"id": JOB, "generation": " sat in the oak.", "state": "ok", "seed": 0, "gen_metadata": []}
    seen, answer = await site.ask("POST", f"{TEXT}/submit", body, **KEY)
    assert (seen, answer.get("rc")) == (status, rc)
    assert isinstance(answer["message"] if rc else answer["reward"], str if rc else float)


async def test_an_answer_without_a_job_has_every_field(site: Site) -> None:
    site.chat.nothing = PopReply(skipped={"max_length": 2})
    assert await site.ask("POST", f"{TEXT}/pop", OFFER, **KEY) == (
        200,
        {
            "id": None,
            "ids": [],
            "payload": {},
            "model": None,
            "ttl": None,
            "softprompt": None,
            "skipped": {"max_length": 2},
            "messages": [],
            "extra_source_images": None,
        },
    )
