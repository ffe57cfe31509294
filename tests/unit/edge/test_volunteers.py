"""Volunteers at the edge: their records, which chat worker is asked, and the models that they bring."""

import asyncio
from typing import Any

import pytest

from callboard_contracts.accounts import key_digest
from callboard_contracts.config import Config
from callboard_contracts.volunteers import (
    HandedJob,
    PopReply,
    SubmitReply,
    SubmitRequest,
    VolunteerOffer,
    VolunteerRecord,
    volunteer_id,
)
from callboard_contracts.workers import OfferedModel, WorkerInfo
from callboard_edge.backends.fake_volunteers import FakeVolunteerStore, FakeVolunteerWorkers
from callboard_edge.domain import volunteer_jobs, volunteer_models
from callboard_edge.domain.catalogue import chat_catalogue
from callboard_edge.domain.volunteer_jobs import VolunteerJobs
from callboard_edge.domain.volunteer_models import VolunteerCatalogue
from callboard_edge.domain.volunteers import Change, NameTaken, SignIn, TooManyVolunteers, Volunteers
from callboard_edge.domain.workers import Workers
from tests.unit.edge.harness import running

pytestmark = pytest.mark.unit

POOL = "crowd"
A, B = "aaaaaaaa" * 4, "bbbbbbbb" * 4
JOB = HandedJob(id=f"{A[:8]}-0000-4000-8000-000000000000", model="owl-7b", payload={"prompt": "An owl"}, ttl_s=70.5)
OFFER = VolunteerOffer(
    worker_id="w", worker_name="barn", account="k", models=("owl-7b",), max_length=80, max_context_length=1024
)
ADA = "k_0000000000000007"
BODY = {"name": "barn", "models": ["owl-7b"], "max_length": 80, "max_context_length": 1024}
OVER: dict[str, Any] = {
    "chat": {
        "pools": {"main": {"backend": "fake"}, POOL: {"backend": "volunteers"}},
        "models": {"owl": {"pool": "main"}, "named": {"pool": POOL, "engine_model": "x/named"}},
    }
}


class Clock:
    """The time of day, as a test has it."""

    def __init__(self) -> None:
        self.now_s = 1_000_000.0

    def __call__(self) -> float:
        return self.now_s


class SlowVolunteerStore(FakeVolunteerStore):
    """Lets others go on while it writes."""

    async def change(self, worker_id: str, change: Change, new: VolunteerRecord | None = None) -> VolunteerRecord:
        await asyncio.sleep(0)
        return await super().change(worker_id, change, new)


def said(name: str = "barn", account: str = ADA, **fields: Any) -> SignIn:
    base: dict[str, Any] = {"models": ("owl-7b",), "max_length": 80, "max_context_length": 1024, "threads": 1}
    given: dict[str, Any] = {**base, "nsfw": True, "bridge_agent": "x:1:y", **fields}
    return SignIn(name=name, account=account, **given)


def announce(workers: Workers, worker: str, *models: OfferedModel, draining: bool = False) -> None:
    workers.announce(
        WorkerInfo(
            id=worker, service="chat", pool=POOL, backend="volunteers", models=models, slots=8, at=0, draining=draining
        )
    )


async def test_a_name_belongs_to_the_account_that_used_it_first() -> None:
    store, clock = FakeVolunteerStore(), Clock()
    one, other = Volunteers(store, clock, 2), Volunteers(store, clock, 2)
    record = await one.sign_in(said())
    assert record.id == volunteer_id("BARN")
    with pytest.raises(NameTaken):
        await one.sign_in(said(account="k_other"))
    with pytest.raises(NameTaken):
        # An edge that has not heard of it yet.
        await other.sign_in(said("Barn", account="k_other"))
    await one.sign_in(said("shed"))
    with pytest.raises(TooManyVolunteers):
        await one.sign_in(said("loft"))
    await one.remove(record.id)
    assert (await one.sign_in(said(account="k_other"))).account == "k_other"


def test_names_that_look_the_same_are_one() -> None:
    forms = ("Big Barn", "big  barn", "\uff22\uff49\uff47 Barn", "BIG BARN")
    assert len({volunteer_id(name) for name in forms}) == 1
    assert volunteer_id("caf\u00e9") == volunteer_id("cafe\u0301") != volunteer_id("cafe")


async def test_volunteers_that_sign_in_at_once_are_counted_too() -> None:
    volunteers = Volunteers(SlowVolunteerStore(), Clock(), 2)
    names = ("barn", "barn", "shed", "loft", "tent")
    found = await asyncio.gather(*(volunteers.sign_in(said(name)) for name in names), return_exceptions=True)
    assert [type(one) for one in found] == [VolunteerRecord] * 3 + [TooManyVolunteers] * 2
    assert {one.name for one in volunteers.of_account(ADA)} == {"barn", "shed"}


async def test_volunteers_are_found_by_what_they_offer_now() -> None:
    clock = Clock()
    volunteers = Volunteers(FakeVolunteerStore(), clock)
    record = await volunteers.sign_in(said(models=("owl", "wren")))
    other = await volunteers.sign_in(said("shed", models=("wren",)))
    volunteers.take(record.model_copy(update={"models": ("owl", "raven")}))
    assert [[one.id for one in volunteers.offering(name)] for name in ("owl", "wren", "raven")] == [
        [record.id],
        [other.id],
        [record.id],
    ]
    volunteers.take(record.model_copy(update={"paused": True}))
    volunteers.keep_only([record.id])
    assert volunteers.offering("owl") == volunteers.offering("wren") == []


async def test_a_record_is_written_when_something_changes_and_once_a_minute() -> None:
    store, clock = FakeVolunteerStore(), Clock()
    volunteers = Volunteers(store, clock)
    await volunteers.sign_in(said())
    first = store.records[volunteer_id("barn")]
    clock.now_s += 30
    await volunteers.sign_in(said())
    assert store.records[first.id] is first
    await volunteers.sign_in(said(max_length=512))
    assert (store.records[first.id].max_length, store.records[first.id].uptime_s) == (512, 30.0)
    clock.now_s += 61
    await volunteers.sign_in(said(max_length=512))
    assert store.records[first.id].uptime_s == 91.0
    assert [one.name for one in volunteers.offering("owl-7b")] == ["barn"]
    clock.now_s += 301
    assert volunteers.online() == []
    await volunteers.sign_in(said())
    assert store.records[first.id].uptime_s == 91.0


async def test_too_many_drops_in_an_hour_are_a_maintenance_and_suspicions_a_pause() -> None:
    store, clock = FakeVolunteerStore(), Clock()
    volunteers = Volunteers(store, clock)
    record = await volunteers.sign_in(said())
    volunteers.fulfilled(record.id, 40, 2.0, 1500)
    volunteers.dropped(record.id, 15)
    await volunteers.flush()
    clock.now_s += 3601
    volunteers.dropped(record.id, 20)
    volunteers.suspected(record.id, ("empty", "speed"))
    await volunteers.flush()
    known = store.records[record.id]
    assert (known.fulfilled, known.dropped, known.reward, known.tokens_per_s) == (1, 35, 1500, 20.0)
    assert (known.maintenance, known.suspected) == (False, {"empty": 1, "speed": 1})
    volunteers.dropped(record.id)
    volunteers.suspected(record.id, ("empty",) * 19)
    await volunteers.flush()
    known = store.records[record.id]
    assert (known.maintenance, known.paused) == (True, True)
    assert volunteers.offering("owl-7b") == []


@pytest.fixture
def ask(monkeypatch: pytest.MonkeyPatch) -> FakeVolunteerWorkers:
    monkeypatch.setattr(volunteer_jobs, "ADOPTION_PAUSE_S", 0.01)
    monkeypatch.setattr(volunteer_jobs, "ADOPTION_WAIT_S", 0.2)
    return FakeVolunteerWorkers()


async def test_each_chat_worker_is_asked_in_turn_and_one_that_is_gone_is_passed_over(ask: FakeVolunteerWorkers) -> None:
    workers = Workers()
    announce(workers, A)
    announce(workers, B)
    announce(workers, "c" * 32, draining=True)
    ask.nothing = PopReply(skipped={"models": 2}, dropped=1)
    jobs = VolunteerJobs(ask, workers, (POOL,))
    assert await jobs.pop(OFFER, 1, 0.0) == PopReply(skipped={"models": 4}, dropped=2)
    assert {worker for worker, _ in ask.pops} == {A, B}
    ask.gone = {A}
    ask.jobs = [PopReply(jobs=(JOB,))]
    assert (await jobs.pop(OFFER, 1, 0.0)).jobs == (JOB,)
    assert all(worker == A for worker, _ in ask.withdrawn)


async def test_a_pop_waits_at_the_chat_workers_as_long_as_its_volunteer_does(ask: FakeVolunteerWorkers) -> None:
    workers = Workers()
    announce(workers, A)
    ask.jobs = [PopReply(), PopReply(jobs=(JOB,))]
    jobs = VolunteerJobs(ask, workers, (POOL,))
    assert (await jobs.pop(OFFER, 1, 20.0)).jobs == (JOB,)
    assert [request.wait_s for _, request in ask.pops] == [0.0, volunteer_jobs.LONG_TURN_S]


async def test_a_text_goes_to_the_chat_worker_that_handed_the_job_out(ask: FakeVolunteerWorkers) -> None:
    workers = Workers()
    announce(workers, B)
    announce(workers, A, draining=True)
    ask.outcomes = {A: SubmitReply(outcome="accepted"), B: SubmitReply(outcome="foreign")}
    jobs = VolunteerJobs(ask, workers, (POOL,))
    request = SubmitRequest(id=JOB.id, account="k", text="x")
    assert await jobs.submit(request) == SubmitReply(outcome="accepted")
    ask.gone = {A}
    assert await jobs.submit(request) is None
    assert {worker for worker, _ in ask.submits} == {A}


async def test_a_text_waits_until_another_chat_worker_has_the_job_of_a_lost_one(ask: FakeVolunteerWorkers) -> None:
    workers = Workers()
    announce(workers, B)
    announce(workers, A)
    ask.lost = {A}
    jobs = VolunteerJobs(ask, workers, (POOL,))
    request = SubmitRequest(id=JOB.id, account="k", text="x")
    waiting = asyncio.ensure_future(jobs.submit(request))
    async with asyncio.timeout(5):
        while len(ask.submits) < 4:
            await asyncio.sleep(0.005)
    ask.outcomes = {B: SubmitReply(outcome="accepted")}
    assert await waiting == SubmitReply(outcome="accepted")
    ask.outcomes = {}
    assert await jobs.submit(request) == SubmitReply(outcome="unknown")
    count = len(ask.submits)
    # One that never was is not waited for.
    assert await jobs.submit(SubmitRequest(id="f" * 36, account="k", text="x")) == SubmitReply(outcome="unknown")
    assert len(ask.submits) == count + 2


async def test_models_of_volunteers_stand_beside_those_of_the_configuration() -> None:
    config = Config.model_validate(OVER)
    workers = Workers()
    catalogue = VolunteerCatalogue(chat_catalogue(config.chat), config.chat, workers)
    assert catalogue.names == ("owl", "named")
    announce(workers, A, OfferedModel(name="wren", context_tokens=1024, max_output_tokens=80))
    announce(
        workers,
        B,
        OfferedModel(name="wren", context_tokens=4096, max_output_tokens=512),
        OfferedModel(name="owl", context_tokens=1),
        OfferedModel(name="named", context_tokens=1),
        *(OfferedModel(name=name) for name in ("owl:latest", "OWL", "\uff4fwl:Latest")),
    )
    assert catalogue.names == ("owl", "named", "wren")
    wren = catalogue.resolve("wren")
    assert (wren.pool, wren.context_tokens, wren.max_output_tokens) == (POOL, 4096, 512)
    assert (wren.tools, wren.json_schema, wren.prompt_format) == ("refuse", False, "alpaca")
    workers.forget(A)
    workers.forget(B)
    assert catalogue.find("wren") is not None
    assert catalogue.find("owl") is not None
    assert catalogue.find("heron") is None


async def test_offers_are_put_together_anew_only_when_an_announcement_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    config = Config.model_validate(OVER)
    workers = Workers()
    catalogue = VolunteerCatalogue(chat_catalogue(config.chat), config.chat, workers)
    wren = OfferedModel(name="wren", context_tokens=1024)
    announce(workers, A, wren)
    known = catalogue.find("wren")
    assert catalogue.find("wren") is known
    announce(workers, A, wren, OfferedModel(name="rook", context_tokens=512))
    assert catalogue.names == ("owl", "named", "wren", "rook")
    # A model is remembered from when it was last announced, not from when it was last put together.
    later_s = asyncio.get_running_loop().time() + volunteer_models.REMEMBERED_S - 1
    monkeypatch.setattr(asyncio.get_running_loop(), "time", lambda: later_s)
    workers.forget(A)
    assert "rook" in catalogue.names
    later_s += volunteer_models.REMEMBERED_S - 1
    assert "rook" in catalogue.names
    later_s += 2
    assert catalogue.names == ("owl", "named")


async def test_a_site_without_volunteers_refuses_them() -> None:
    async with running() as edge:
        edge.quota.accounts[key_digest("cb_ada")] = ADA
        async with edge.session.post(
            edge.url + "/api/v2/generate/text/pop", json=BODY, headers={"apikey": "cb_ada"}
        ) as answer:
            assert (answer.status, (await answer.json())["rc"]) == (403, "Forbidden")
