"""The AI Horde's protocol for those who volunteer, over the fakes."""

import time
from collections.abc import AsyncGenerator
from typing import Any

import pytest

from callboard_contracts.accounts import key_digest
from callboard_contracts.volunteers import HandedJob, PopReply, SubmitReply, VolunteerRecord, volunteer_id
from callboard_contracts.workers import OfferedModel, WorkerInfo
from callboard_edge.backends.fake_volunteers import FakeVolunteerStore, FakeVolunteerWorkers
from callboard_edge.domain.ports import QueueDepth
from callboard_edge.domain.volunteers import Volunteers
from tests.unit.edge.harness import running
from tests.unit.edge.volunteer_site import (
    ADA,
    ANONYMOUS,
    BARN,
    CONFIG,
    JOB,
    KEY,
    MARK,
    OFFER,
    OTHER,
    TEXT,
    Site,
    popped,
    running_site,
)

pytestmark = pytest.mark.unit


@pytest.fixture
async def site() -> AsyncGenerator[Site]:
    async with running_site() as found:
        yield found


async def test_a_request_waits_until_there_are_hands_for_it(site: Site) -> None:
    body = {"prompt": "An owl", "params": {"max_length": 40, "max_context_length": 1024}, "models": ["owl"]}
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
        ({"models": ["owl-7b", "owl-7b::ben#255"]}, "BadRequest"),
        ({"models": ["owl-7b::ben"]}, "BadRequest"),
        ({"softprompts": "Owls"}, "BadRequest"),
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
    messages = "/api/v2/workers/messages"
    assert await site.ask("GET", messages, **KEY) == (200, [])
    assert (await site.ask("GET", messages))[0] == 400
    await site.ask("PUT", path, {"maintenance": True, "maintenance_msg": "Moving house."}, **KEY)
    ((told,),) = [(await site.ask("GET", messages, **KEY))[1]]
    assert (told["worker_id"], told["message"], told["origin"]) == (BARN, "Moving house.", "Callboard")
    for others in (OTHER, ANONYMOUS):
        assert await site.ask("GET", messages, **others) == (200, [])
    await site.ask("PUT", path, {"maintenance": False}, **KEY)
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


async def test_what_a_volunteer_offers_goes_with_its_pop(site: Site) -> None:
    job = HandedJob(id=JOB, model="owl-7b::ada#7", payload={"prompt": "An owl"}, ttl_s=9.9, softprompt="Owls")
    site.chat.jobs = [PopReply(jobs=(job,))]
    soft = ["Owls", "Owls", "", "x" * 201]
    over = {"models": ["owl-7b::ada#7", "a::"], "softprompts": soft, "extra_slow_worker": True}
    answer = (await site.ask("POST", f"{TEXT}/pop", {**OFFER, **over}, **KEY))[1]
    assert (answer["softprompt"], answer["ttl"], answer["model"]) == ("Owls", 9, "owl-7b::ada#7")
    ((_, request),) = site.chat.pops
    assert (request.offer.softprompts, request.offer.extra_slow) == (("Owls",), True)
    assert request.offer.models == ("owl-7b::ada#7", "a::")
    record = site.volunteers.get(BARN)
    assert record is not None
    assert (record.softprompts, record.extra_slow, record.needs_kudos) == (("Owls",), True, False)


async def test_an_address_has_so_many_volunteers_and_those_that_are_trusted_beside_them() -> None:
    store = FakeVolunteerStore()
    volunteers = Volunteers(store, time.time)
    over = {**CONFIG, "horde": {**CONFIG["horde"], "workers_per_address": 2}}
    async with running(over, volunteers=volunteers, volunteer_workers=FakeVolunteerWorkers()) as edge:
        edge.quota.accounts[key_digest("cb_ada")] = ADA
        site = Site(edge, volunteers, FakeVolunteerWorkers())
        for name in ("barn", "shed", "barn"):
            await popped(site, name=name)
        status, answer = await site.ask("POST", f"{TEXT}/pop", {**OFFER, "name": "loft"}, **KEY)
        assert (status, answer["rc"]) == (403, "TooManySameIPs")
        assert volunteers.get(volunteer_id("loft")) is None
        loft = VolunteerRecord(id=volunteer_id("loft"), name="loft", account=ADA, created_at=0, seen_at=0, trusted=True)
        store.records[loft.id] = loft
        volunteers.take(loft)
        assert (await popped(site, name="loft")).trusted
