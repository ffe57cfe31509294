"""What the Horde's requesters ask of volunteers, what they are told is possible, and what volunteers say of texts."""

from collections.abc import AsyncGenerator
from typing import Any

import pytest

from callboard_contracts.chat import ChatEnd, ChatResult
from callboard_contracts.volunteers import GenMetadata, ServedBy, SubmitReply, TextNotes
from callboard_contracts.workers import OfferedModel, WorkerInfo
from callboard_edge.domain.ports import QueueDepth
from tests.unit.edge.volunteer_site import ADA, ANONYMOUS, BARN, JOB, KEY, MARK, TEXT, Site, popped, running_site

pytestmark = pytest.mark.unit


@pytest.fixture
async def site() -> AsyncGenerator[Site]:
    async with running_site() as found:
        yield found


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
