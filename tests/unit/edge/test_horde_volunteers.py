"""The AI Horde's protocol where volunteers write, over the fakes."""

import time
from collections.abc import AsyncGenerator
from typing import Any

import pytest

from callboard_contracts.accounts import key_digest
from callboard_contracts.chat import ChatEnd, ChatResult
from callboard_contracts.volunteers import (
    GenMetadata,
    HandedJob,
    PopReply,
    ServedBy,
    SubmitReply,
    TextNotes,
    VolunteerRecord,
    volunteer_id,
)
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


@pytest.mark.parametrize(
    ("asked", "record", "told"),
    [
        ({}, {}, None),
        ({"trusted_workers": True}, {}, "trusted"),
        ({"trusted_workers": True}, {"trusted": True}, None),
        ({"validated_backends": True}, {}, "validated"),
        ({"validated_backends": True}, {"bridge_agent": "KoboldCppEmbedWorker:2:x"}, None),
        ({"nsfw": True}, {"nsfw": False}, "safe for work"),
        ({"nsfw": False}, {"nsfw": False}, None),
        ({"slow_workers": False}, {"tokens": 40, "seconds": 20.0}, "faster"),
        ({}, {"tokens": 40, "seconds": 20.0}, None),
        ({}, {"extra_slow": True}, "faster"),
        ({"extra_slow_workers": True}, {"extra_slow": True}, None),
        ({"params": {"max_length": 81, "max_context_length": 1024}}, {}, "longer than they write"),
        ({"params": {"max_length": 40, "max_context_length": 1025}}, {}, "longer than they take"),
        ({}, {"needs_kudos": True}, "kudos"),
        ({"softprompt": "Owls"}, {"softprompts": ("Ravens",)}, "soft prompt"),
        ({"softprompt": "Owls"}, {"softprompts": ("Owls",)}, None),
        ({"workers": [BARN], "worker_blacklist": True}, {}, None),
        ({}, {"maintenance": True}, "is there"),
        ({}, {"paused": True}, "is there"),
    ],
)
async def test_what_is_possible_is_told_by_the_workers_that_are_there(
    asked: dict[str, Any], record: dict[str, Any], told: str | None, site: Site
) -> None:
    site.volunteers.take((await popped(site)).model_copy(update=record))
    if asked.get("worker_blacklist"):
        await popped(site, name="shed")
    body = {"prompt": "An owl", "models": ["owl"], "params": {"max_length": 40, "max_context_length": 1024}, **asked}
    status, answer = await site.ask("POST", f"{TEXT}/async", body, **ANONYMOUS)
    assert status == 202, answer
    if told is None:
        assert "message" not in answer
    else:
        assert answer["message"].startswith("No worker")
        assert told in answer["message"]
    site.edge.jobs.depths = {"batch": QueueDepth(0, 1)}
    seen = (await site.ask("GET", f"{TEXT}/status/{answer['id']}"))[1]
    assert (seen["is_possible"], seen["processing"]) == (told is None, int(told is None))
    # Another that may write it makes it possible.
    site.volunteers.take(
        (await popped(site, name="loft", max_length=512, max_context_length=4096)).model_copy(
            update={"trusted": True, "bridge_agent": "TabbyAPI:1:x", "softprompts": ("Owls",)}
        )
    )
    assert (await site.ask("GET", f"{TEXT}/status/{answer['id']}"))[1]["is_possible"] is True


@pytest.mark.parametrize(("state", "shown"), [("censored", "Hush."), ("csam", "")])
async def test_what_a_volunteer_says_of_a_text_reaches_its_requester(state: str, shown: str, site: Site) -> None:
    await popped(site)
    body = {"prompt": "An owl", "models": ["owl"], "params": {"max_length": 40, "max_context_length": 1024}}
    request_id = (await site.ask("POST", f"{TEXT}/async", body, **ANONYMOUS))[1]["id"]
    job = await site.edge.jobs.next_chat()
    remark = GenMetadata(type="censorship", value="nsfw")
    remarks = remark.model_dump(exclude_none=True), {"type": "a", "value": "b", "ref": "c"}
    notes = TextNotes.model_validate({"state": state, "seed": 41, "gen_metadata": remarks})
    by = ServedBy(worker_id=BARN, worker_name="barn", model="owl-7b", account=ADA, notes=notes)
    end = ChatEnd(reason="stop", served_by=by)
    site.edge.replies.results[job.request_id] = ChatResult(
        request_id=job.request_id, model="owl", text="Hush.", end=end
    )
    site.edge.jobs.finish(job.request_id)
    seen = (await site.ask("GET", f"{TEXT}/status/{request_id}"))[1]
    assert (seen["done"], seen["faulted"], seen["finished"]) == (True, False, 1)
    assert seen["generations"] == [
        {
            "text": shown,
            "seed": 41,
            "worker_id": BARN,
            "worker_name": "barn",
            "model": "owl-7b",
            "state": state,
            "gen_metadata": [{"type": "censorship", "value": "nsfw"}, {"type": "a", "value": "b", "ref": "c"}],
        }
    ]


@pytest.mark.parametrize(
    ("said", "text", "notes"),
    [
        ({"generation": "Hoo.", "seed": 7}, "Hoo.", TextNotes(seed=7)),
        ({"generation": "Hoo.", "state": "censored"}, "Hoo.", TextNotes(state="censored")),
        ({"generation": None, "state": "csam", "seed": 1}, "", TextNotes(state="csam", seed=1)),
        ({"generation": "faulted", "seed": -1}, None, TextNotes(seed=-1)),
        ({"generation": "faulted", "state": "faulted", "seed": -1}, None, TextNotes(seed=-1)),
        ({"generation": "faulted", "state": "ok"}, "faulted", TextNotes()),
        (
            {"generation": "Hoo.", "gen_metadata": [{"type": "info", "value": "see_ref", "ref": "x", "more": 1}]},
            "Hoo.",
            TextNotes(gen_metadata=(GenMetadata(type="info", value="see_ref", ref="x"),)),
        ),
    ],
)
async def test_a_text_is_handed_on_with_what_is_said_of_it(
    said: dict[str, Any], text: str | None, notes: TextNotes, site: Site
) -> None:
    await popped(site)
    withheld = notes.state != "ok"
    site.chat.outcomes = {MARK: SubmitReply(outcome="faulted" if text is None else "accepted", worker_id=BARN)}
    status, answer = await site.ask("POST", f"{TEXT}/submit", {"id": JOB, **said}, **KEY)
    assert (status, answer) == (200, {"reward": 0})
    ((_, request),) = site.chat.submits
    assert (request.text, request.notes) == (text, notes)
    await site.volunteers.flush()
    record = site.volunteers.get(BARN)
    assert record is not None
    assert (record.dropped, record.fulfilled) == ((1, 0) if text is None else (0, 1))
    assert not (withheld and record.suspected)


@pytest.mark.parametrize(
    "over",
    [
        {"state": "lost"},
        {"seed": 2**63},
        {"seed": "many"},
        {"gen_metadata": [{"type": "x", "value": "y"}] * 51},
        {"gen_metadata": [{"type": "x"}]},
        {"gen_metadata": ["x"]},
        {"gen_metadata": [{"type": "x", "value": "y" * 256}]},
    ],
)
async def test_a_text_of_which_nonsense_is_said_is_refused_and_stays_with_its_volunteer(
    over: dict[str, Any], site: Site
) -> None:
    status, answer = await site.ask("POST", f"{TEXT}/submit", {"id": JOB, "generation": "Hoo.", **over}, **KEY)
    assert (status, answer["rc"]) == (400, "BadRequest")
    assert site.chat.submits == []


async def test_models_are_listed_by_their_workers_and_by_who_names_them(site: Site) -> None:
    models = (OfferedModel(name="owl"), OfferedModel(name="wild"))
    site.edge.known.announce(
        WorkerInfo(id=MARK, service="chat", pool="crowd", backend="volunteers", models=models, slots=64, at=0)
    )
    await popped(site, models=["owl-7b", "wild"])
    await popped(site, name="shed")

    async def listed(query: str) -> list[str]:
        status, found = await site.ask("GET", f"/api/v2/status/models?type=text{query}")
        assert status == 200, found
        return [one["name"] for one in found]

    assert await listed("") == await listed("&model_state=all") == ["owl", "wild"]
    assert (await listed("&model_state=known"), await listed("&model_state=custom")) == (["owl"], ["wild"])
    assert (await listed("&min_count=2"), await listed("&max_count=1")) == (["owl"], ["wild"])
    assert await listed("&min_count=2&max_count=1") == []
    for wrong in ("min_count=x", "max_count=-1", "model_state=new"):
        status, answer = await site.ask("GET", f"/api/v2/status/models?type=text&{wrong}")
        assert (status, answer["rc"], list(answer["errors"])) == (400, "BadRequest", [wrong.partition("=")[0]])


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


async def test_an_engine_of_the_site_has_no_soft_prompts(site: Site) -> None:
    own = WorkerInfo(id="w", service="chat", pool="main", backend="fake", slots=1, at=0)
    site.edge.known.announce(own.model_copy(update={"models": (OfferedModel(name="wren"),)}))
    body = {"prompt": "An owl", "softprompt": "Owls", "models": ["wren"]}
    status, answer = await site.ask("POST", f"{TEXT}/async", body, **ANONYMOUS)
    assert (status, answer["rc"], list(answer["errors"])) == (400, "BadRequest", ["softprompt"])
    assert (await site.ask("POST", f"{TEXT}/async", {**body, "models": []}, **ANONYMOUS))[0] == 202
    terms = (await site.edge.jobs.next_chat()).request.volunteers
    assert terms is not None
    assert (terms.softprompt, terms.own_engine) == ("Owls", "may_not")


async def test_what_a_requester_asks_of_volunteers_goes_with_the_job(site: Site) -> None:
    params = {"max_context_length": 1024, "singleline": True, "frmttriminc": True, "frmtrmblln": False}
    body = {"prompt": "An owl", "models": ["owl"], "disable_batching": True, "params": params}
    assert (await site.ask("POST", f"{TEXT}/async", body, **ANONYMOUS))[0] == 202
    terms = (await site.edge.jobs.next_chat()).request.volunteers
    assert terms is not None
    assert (terms.disable_batching, terms.formatting) == (True, ("singleline", "frmttriminc"))


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
