"""What texts cost in kudos over the Horde's protocol, where the site counts them."""

from collections.abc import AsyncGenerator
from typing import Any

import pytest

from callboard_contracts.accounts import key_digest
from callboard_contracts.chat import ChatEnd, ChatJob, ChatResult
from callboard_contracts.kudos import KUDOS_SCALE
from callboard_contracts.kudos_price import KudosSection
from callboard_contracts.volunteers import VolunteerRecord, volunteer_id
from callboard_contracts.workers import OfferedModel, PoolRecord, WorkerInfo
from callboard_edge.backends.fake_quota_client import FakeQuotaClient
from callboard_edge.backends.fake_volunteers import FakeVolunteerStore
from callboard_edge.domain import job_groups, kept_jobs
from callboard_edge.domain.ports import QueueDepth
from callboard_edge.domain.uptime_rewards import UptimeRewards
from callboard_edge.domain.volunteers import SignIn, Volunteers
from callboard_kit.background_tasks import BackgroundTasks
from tests.unit.edge.harness import USAGE, EdgeHarness, running

pytestmark = pytest.mark.unit

SETTINGS: dict[str, Any] = {
    "horde": {"submits_per_s": 0, "submits_per_minute": 0, "polls_per_minute": 0, "others_per_minute": 0},
    "kudos": {"enabled": True, "model_billions": {"owl": 7.0}},
    "chat": {"models": {"owl": {"pool": "main", "max_output_tokens": 1024}}},
}
SUBMIT = "/api/v2/generate/text/async"
STATUS = "/api/v2/generate/text/status"
ACCOUNT = "k_0000000000000007"
ADA = {"apikey": "cb_ada"}
ANONYMOUS = {"apikey": "0000000000"}
PRICE = 40 * 7 * 2.2 / 100
"""Of 40 tokens with a context of 1,024, without fees."""


@pytest.fixture
async def edge(monkeypatch: pytest.MonkeyPatch) -> AsyncGenerator[EdgeHarness]:
    monkeypatch.setattr(kept_jobs, "CANCEL_WAIT_S", 0.02)
    monkeypatch.setattr(job_groups, "END_WAIT_S", 0.05)
    async with running(SETTINGS) as one:
        offered = (OfferedModel(name="owl", abilities=("completion",)),)
        one.known.announce(
            WorkerInfo(id="w", service="chat", pool="main", backend="fake", models=offered, slots=2, at=0)
        )
        one.known.record("chat", "main", PoolRecord(last_started_at=0.0))
        one.quota.accounts[key_digest("cb_ada")] = ACCOUNT
        one.quota.balances = {ACCOUNT: 50 * KUDOS_SCALE}
        yield one


async def submit(edge: EdgeHarness, headers: dict[str, str], **over: Any) -> tuple[int, dict[str, Any]]:
    """Asks for a text."""
    params = {"n": 1, "max_length": 40, "max_context_length": 1024, **over.pop("params", {})}
    body = {"prompt": "An owl", "params": params, **over}
    async with edge.session.post(edge.url + SUBMIT, json=body, headers=headers) as answer:
        return answer.status, await answer.json()


async def paid(edge: EdgeHarness, request_id: str) -> float:
    """What the status says was paid."""
    async with edge.session.get(f"{edge.url}{STATUS}/{request_id}") as answer:
        return (await answer.json())["kudos"]


def finish(edge: EdgeHarness, job: ChatJob, kudos: int) -> None:
    """Keeps the result of a job, as a worker does."""
    result = ChatResult(
        request_id=job.request_id, model="owl", text="oak", kudos=kudos, end=ChatEnd(reason="stop", usage=USAGE)
    )
    edge.replies.results[job.request_id] = result
    edge.jobs.finish(job.request_id)


@pytest.mark.parametrize("headers", [ADA, ANONYMOUS])
async def test_price_is_told_without_a_request(edge: EdgeHarness, headers: dict[str, str]) -> None:
    status, answer = await submit(edge, headers, dry_run=True, params={"n": 3})
    assert (status, answer) == (200, {"kudos": pytest.approx(3 * (PRICE + 1) + 1)})
    assert edge.quota.asked == []


async def test_price_is_held_with_each_text_and_the_status_shows_what_was_paid(edge: EdgeHarness) -> None:
    status, answer = await submit(edge, ADA, params={"n": 2})
    assert (status, answer["kudos"]) == (202, pytest.approx(2 * (PRICE + 1) + 1))
    jobs = [await edge.jobs.next_chat() for _ in range(2)]
    assert [job.hold.kudos for job in jobs if job.hold] == [8160, 7160]
    assert [(job.kudos.fee, job.kudos.billions) for job in jobs if job.kudos] == [(2000, 7.0), (1000, 7.0)]
    assert await paid(edge, answer["id"]) == 0
    finish(edge, jobs[0], 4_500)
    assert await paid(edge, answer["id"]) == 4.5
    finish(edge, jobs[1], 0)
    assert await paid(edge, answer["id"]) == 4.5


async def test_request_that_is_cancelled_gives_its_kudos_back(edge: EdgeHarness) -> None:
    _, answer = await submit(edge, ADA)
    assert edge.quota.balances[ACCOUNT] < 50_000
    async with edge.session.delete(f"{edge.url}{STATUS}/{answer['id']}") as cancelled:
        assert (await cancelled.json())["kudos"] == 0
    assert edge.quota.balances[ACCOUNT] == 50_000


async def test_anonymous_key_and_empty_account_are_served_for_nothing(edge: EdgeHarness) -> None:
    edge.quota.balances[ACCOUNT] = 0
    for headers in (ADA, ANONYMOUS):
        status, _ = await submit(edge, headers)
        assert status == 202
        job = await edge.jobs.next_chat()
        assert job.hold is not None
        assert (job.hold.kudos, job.kudos) == (0, None)


@pytest.mark.parametrize(
    ("over", "depth"),
    [
        ({"slow_workers": False}, 0),
        ({"params": {"max_length": 600}}, 0),
        ({"params": {"max_length": 300}}, 500),
    ],
)
async def test_long_text_and_fast_workers_need_kudos(edge: EdgeHarness, over: dict[str, Any], depth: int) -> None:
    edge.jobs.depths = {"batch": QueueDepth(depth, 0)}
    edge.quota.balances[ACCOUNT] = 1_000
    for headers in (ADA, ANONYMOUS):
        status, answer = await submit(edge, headers, **over)
        assert (status, answer["rc"]) == (403, "KudosUpfront")
    assert edge.quota.balances[ACCOUNT] == 1_000
    edge.quota.balances[ACCOUNT] = 500_000
    assert (await submit(edge, ADA, **over))[0] == 202


async def test_long_text_is_shortened_to_what_is_free_where_its_requester_lets_it_be(edge: EdgeHarness) -> None:
    edge.quota.balances[ACCOUNT] = 1_000
    over: dict[str, Any] = {"allow_downgrade": True, "params": {"max_length": 700}}
    for headers in (ADA, ANONYMOUS):
        status, answer = await submit(edge, headers, **over)
        assert (status, answer["warnings"][0]["code"]) == (202, "LengthsReduced")
        assert (await edge.jobs.next_chat()).request.max_output_tokens == 512
    status, answer = await submit(edge, ADA, **over, slow_workers=False)
    assert (status, answer["rc"]) == (403, "KudosUpfront")
    edge.quota.balances[ACCOUNT] = 500_000
    assert (await submit(edge, ADA, **over))[0] == 202
    assert (await edge.jobs.next_chat()).request.max_output_tokens == 700


async def test_texts_of_which_one_cannot_be_paid_are_none(edge: EdgeHarness) -> None:
    edge.quota.balances[ACCOUNT] = 9_000
    status, answer = await submit(edge, ADA, slow_workers=False, params={"n": 2})
    assert (status, answer["rc"]) == (403, "KudosUpfront")
    assert edge.quota.balances[ACCOUNT] == 9_000


async def test_site_that_counts_none_holds_none() -> None:
    async with running({"horde": SETTINGS["horde"]}) as edge:
        edge.quota.accounts[key_digest("cb_ada")] = ACCOUNT
        edge.quota.balances = {ACCOUNT: 50 * KUDOS_SCALE}
        for over in ({"dry_run": True}, {"slow_workers": False}):
            assert (await submit(edge, ADA, **over))[1]["kudos"] == 0
        assert [request.kudos for request in edge.quota.asked] == [0]


class Stay:
    """A volunteer that is there, and what its owner is paid for that."""

    def __init__(self, **kudos: Any) -> None:
        self.now = 1_000_000.0
        self.models: tuple[str, ...] = ("owl-7b",)
        self.quota, self.background = FakeQuotaClient(), BackgroundTasks()
        rewards = UptimeRewards(KudosSection.model_validate({"enabled": True, **kudos}), self.quota, self.background)
        self.store = FakeVolunteerStore()
        self.volunteers = Volunteers(self.store, lambda: self.now, on_seen=rewards.seen)

    async def goes_on(self, minutes: int, fulfilled: int = 1) -> list[int]:
        """Asks for work once a minute, and returns what was paid so far."""
        worker = volunteer_id("barn")
        for _ in range(minutes):
            said = SignIn("barn", ACCOUNT, self.models, 80, 1024, 1, nsfw=True, bridge_agent="Callboard:1:x")
            record = await self.volunteers.sign_in(said)
            self.now += 60
            if record.fulfilled != fulfilled:
                await self.volunteers.change(worker, lambda one: one.model_copy(update={"fulfilled": fulfilled}))
        await self.background.close(5)
        return [request.amount for request in self.quota.uptimes.values()]

    async def changed(self, **fields: Any) -> VolunteerRecord:
        """Changes the volunteer's record."""
        return await self.volunteers.change(volunteer_id("barn"), lambda one: one.model_copy(update=fields))


async def test_volunteer_is_paid_for_each_period_that_it_is_there() -> None:
    stay = Stay()
    assert await stay.goes_on(9) == []
    assert await stay.goes_on(3) == [40_000]
    assert await stay.goes_on(20) == [40_000] * 3
    assert {request.account for request in stay.quota.uptimes.values()} == {ACCOUNT}
    await stay.volunteers.flush()
    record = stay.volunteers.get(volunteer_id("barn"))
    assert record is not None
    assert (record.uptime_reward, record.reward) == (120_000, 0)
    stay.now += 3600
    assert await stay.goes_on(5) == [40_000] * 3


@pytest.mark.parametrize(
    ("fields", "kudos", "paid"),
    [({}, {}, 40_000), ({"trusted": True}, {}, 800_000), ({}, {"model_billions": {"owl-140b": 14.0}}, 80_000)],
)
async def test_waiting_with_a_model_of_a_great_name_is_paid_by_its_size_only_to_the_trusted(
    fields: dict[str, Any], kudos: dict[str, Any], paid: int
) -> None:
    stay = Stay(**kudos)
    stay.models = ("owl-140b",)
    await stay.goes_on(2)
    await stay.changed(**fields)
    assert await stay.goes_on(10) == [paid]


@pytest.mark.parametrize("fields", [{"maintenance": True}, {"paused": True}])
async def test_volunteer_that_takes_no_jobs_is_not_paid(fields: dict[str, Any]) -> None:
    stay = Stay()
    await stay.goes_on(2)
    await stay.changed(**fields)
    assert await stay.goes_on(30) == []


async def test_volunteer_that_wrote_nothing_and_one_of_a_site_without_kudos_are_not_paid() -> None:
    assert await Stay().goes_on(30, fulfilled=0) == []
    assert await Stay(enabled=False).goes_on(30) == []
