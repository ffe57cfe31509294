"""Volunteers behind a site: their programs' own ways, streams, refusals, and what dies meanwhile."""

import asyncio
import time
from collections.abc import AsyncGenerator, Generator
from typing import Any

import aiohttp
import openai
import pytest
from aiohttp import web

from tests.support.deployment import Deployment
from tests.support.processes import merged
from tests.support.stored_files import files_with
from tests.support.threaded_app import ThreadedApp
from tests.support.volunteers import POP, Volunteer, horde_worker, koboldcpp_worker

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

ASYNC = "/api/v2/generate/text/async"
STATUS = "/api/v2/generate/text/status/"
MODEL = "owl-7b"
STREAM_BOUND_S = 0.05 * 4
"""From a piece of text at the edge to the client; four times what a quiet machine takes."""
TOLD_WITHIN_S = 3.0
LOST_JOBS = 8
SECRET = "Zq7wXv9word"
CONFIG: dict[str, Any] = {
    "chat": {"pools": {"volunteers": {"backend": "volunteers", "volunteer_time_s": 3}}},
    "horde": {"submits_per_s": 0, "submits_per_minute": 0, "polls_per_minute": 0, "others_per_minute": 0},
    "kudos": {"enabled": True},
    "edge": {"request_timeout_s": 60},
    "quota": {"reap_interval_s": 1},
}


class Receiver(ThreadedApp):
    """A requester's own web server, whose first answers are `faults`."""

    def __init__(self) -> None:
        super().__init__(self._app)
        self.faults: list[int] = []
        self.told: list[dict[str, Any]] = []

    def _app(self) -> web.Application:
        app = web.Application()
        app.router.add_post("/hook", self._take)
        return app

    async def _take(self, request: web.Request) -> web.Response:
        self.told.append(await request.json())
        return web.Response(status=self.faults.pop(0) if self.faults else 204)

    async def next(self) -> dict[str, Any]:
        """The next call."""
        async with asyncio.timeout(40):
            while not self.told:
                await asyncio.sleep(0.02)
        return self.told.pop(0)


@pytest.fixture(scope="module")
def receiver() -> Generator[Receiver]:
    with Receiver() as one:
        yield one


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, receiver: Receiver) -> Generator[Deployment]:
    webhooks = {
        "enabled": True,
        "allow_http": True,
        "ports": [receiver.port],
        "allowed_networks": ["127.0.0.0/8"],
    }
    config = merged(CONFIG, {"horde": {"webhooks": webhooks}})
    deployment = Deployment(tmp_path_factory.mktemp("volunteers"), config, forked=True)
    try:
        deployment.start(chats=2, speakers=0)
        yield deployment
        deployment.wait_idle()
        deployment.stop()
    finally:
        deployment.abandon()


@pytest.fixture(scope="module")
def keys(site: Deployment) -> tuple[str, str]:
    """Of Ann and of Ben, who both lend machines."""
    return site.create_key("standard"), site.create_key("standard")


class Hall:
    """A site with Ann's volunteer `barn` and Ben's `shed`."""

    def __init__(self, site: Deployment, keys: tuple[str, str], session: aiohttp.ClientSession) -> None:
        self.site = site
        self.session = session
        self.keys = keys
        self.barn = Volunteer(site.root_url(), keys[0], session, "barn")
        self.shed = Volunteer(site.root_url(), keys[1], session, "shed", max_length=512, max_context_length=4096)

    async def get(self, path: str, **headers: str) -> Any:
        async with self.session.get(self.site.root_url() + path, headers=headers) as answer:
            return await answer.json()

    async def ask(self, prompt: str = "An owl", **over: Any) -> str:
        """The id of a request by the anonymous key."""
        params = {"max_context_length": 1024, "max_length": 40, **over.pop("params", {})}
        body = {"prompt": prompt, "models": [MODEL], "params": params, **over}
        headers = {"apikey": "0000000000"}
        async with self.session.post(self.site.root_url() + ASYNC, json=body, headers=headers) as answer:
            told = await answer.json()
            assert answer.status == 202, told
            return told["id"]

    async def done(self, request_id: str, timeout_s: float = 40.0) -> dict[str, Any]:
        """A request once it is done."""
        async with asyncio.timeout(timeout_s):
            while not (state := await self.get(STATUS + request_id))["done"]:
                await asyncio.sleep(0.05)
        return state


@pytest.fixture
async def hall(site: Deployment, keys: tuple[str, str]) -> AsyncGenerator[Hall]:
    timeout = aiohttp.ClientTimeout(total=60)
    async with aiohttp.ClientSession(timeout=timeout) as session:
        one = Hall(site, keys, session)
        await one.barn.pop()
        await one.shed.pop()
        await eventually_offered(one)
        yield one


async def eventually_offered(hall: Hall) -> None:
    """Waits until the model is on offer."""
    async with asyncio.timeout(20):
        while MODEL not in [one["id"] for one in (await hall.get("/v1/models"))["data"]]:
            await hall.barn.pop()
            await asyncio.sleep(0.05)


async def test_both_programs_serve_a_requester_and_are_paid_and_shown(hall: Hall) -> None:
    def write(payload: dict[str, Any]) -> str:
        assert set(payload) >= {"prompt", "max_length", "max_context_length", "n"}
        return f" sat in {payload['prompt'][-1]} oaks."

    before = (await hall.get("/api/v2/find_user", apikey=hall.keys[0]))["kudos"]
    first = await hall.ask("An owl 1")
    await horde_worker(hall.barn, write, 1)
    state = await hall.done(first)
    (text,) = state["generations"]
    assert (text["text"], text["worker_name"], text["model"]) == (" sat in 1 oaks.", "barn", MODEL)
    second = await hall.ask("An owl 2", params={"max_context_length": 4096, "max_length": 200})
    await koboldcpp_worker(hall.shed, write, 1)
    assert (await hall.done(second))["generations"][0]["worker_name"] == "shed"
    assert hall.barn.rewards[0] > 0
    assert hall.shed.rewards[0] > 0
    workers = {one["name"]: one for one in await hall.get("/api/v2/workers?type=text")}
    assert set(workers) == {"barn", "shed"}
    assert workers["barn"]["models"] == [MODEL]
    assert workers["shed"]["max_context_length"] == 4096
    (model,) = await hall.get("/api/v2/status/models?type=text")
    assert (model["name"], model["count"]) == (MODEL, 2)
    assert f"{MODEL}:latest" in [one["name"] for one in (await hall.get("/api/tags"))["models"]]
    own = await hall.get("/api/v2/find_user", apikey=hall.keys[0])
    assert own["worker_ids"] == [workers["barn"]["id"]]
    async with asyncio.timeout(15):
        while (await hall.get("/api/v2/find_user", apikey=hall.keys[0]))["kudos"] < round(
            before + hall.barn.rewards[0], 3
        ):
            await asyncio.sleep(0.1)
    listed = await asyncio.to_thread(hall.site.command, "workers", "list")
    assert "barn" in listed
    assert "shed" in listed


async def test_what_a_volunteer_tells_is_streamed_at_once_by_another_protocol(hall: Hall) -> None:
    async with openai.AsyncOpenAI(base_url=hall.site.base_url, api_key=hall.keys[1], max_retries=0) as client:
        popped = asyncio.create_task(hall.barn.job())
        message: Any = [{"role": "user", "content": "Tell me of an owl."}]
        asked = asyncio.create_task(
            client.chat.completions.create(model=MODEL, messages=message, stream=True, max_tokens=60)
        )
        job = await popped
        assert "Tell me of an owl." in job["payload"]["prompt"]
        pieces = asyncio.ensure_future(_pieces(await asked))
        began = time.monotonic()
        assert (await hall.barn.progress(job["id"], text="Once"))[0] == 200
        first_at, text = await pieces
        assert first_at - began < STREAM_BOUND_S
        assert text == "Once"
        assert await hall.barn.progress(job["id"], delta=" upon") == (200, {"accepted": True})
        status, answer = await hall.barn.submit(job["id"], "Once upon a time.")
        assert (status, answer["reward"] > 0) == (200, True)
        stream = await asked
        assert "".join([chunk.choices[0].delta.content or "" async for chunk in stream if chunk.choices]) == (
            " upon a time."
        )


async def _pieces(stream: Any) -> tuple[float, str]:
    """When the first text came, and the text."""
    async for chunk in stream:
        if chunk.choices and chunk.choices[0].delta.content:
            return time.monotonic(), chunk.choices[0].delta.content
    raise AssertionError("no text came")


async def test_whoever_may_not_or_misbehaves_is_refused_and_the_job_goes_on(hall: Hall) -> None:
    barn, shed = hall.barn, hall.shed
    nobody = Volunteer(hall.site.root_url(), "0000000000", hall.session, "tent")
    assert (await nobody.post(POP, nobody.offer))[1]["rc"] == "AnonForbiddenWorker"
    thief = Volunteer(hall.site.root_url(), hall.keys[1], hall.session, "BARN")
    assert (await thief.post(POP, thief.offer))[1]["rc"] == "WrongCredentials"
    assert (await barn.post(POP, {**barn.offer, "models": []}))[0] == 400
    assert (await barn.post(POP, {**barn.offer, "threads": 51}))[0] == 400
    for data in (b"{", b'{"name": "\xff"}', b"[]"):
        async with hall.session.post(barn.url + POP, data=data, headers=barn.headers) as answer:
            assert (answer.status, set(await answer.json()) >= {"message", "rc"}) == (400, True)
    for unknown in ("x", "00000000-0000-4000-8000-000000000000"):
        assert (await barn.submit(unknown, "x"))[1]["rc"] == "InvalidJobID"

    request_id = await hall.ask()
    job = await barn.job()
    assert (await shed.submit(job["id"], "stolen"))[1]["rc"] == "WrongCredentials"
    # A text that is null is a failure, and goes to another.
    assert (await barn.submit(job["id"], None))[0] == 400
    assert (await barn.pop())["id"] is None
    job = await shed.job()
    assert (await shed.submit(job["id"], "x" * 300_000))[0] == 400
    assert (await hall.get(STATUS + request_id))["finished"] == 0
    third = Volunteer(hall.site.root_url(), hall.keys[0], hall.session, "loft")
    job = await third.job()
    assert (await third.submit(job["id"], " sat."))[1]["reward"] > 0
    assert (await third.submit(job["id"], " sat."))[1]["rc"] == "DuplicateGen"
    assert (await hall.done(request_id))["generations"][0]["text"] == " sat."
    loft = next(one["id"] for one in await hall.get("/api/v2/workers") if one["name"] == "loft")
    async with hall.session.delete(f"{hall.site.root_url()}/api/v2/workers/{loft}", headers=third.headers) as answer:
        assert answer.status == 200


async def test_a_requester_is_told_what_is_possible_what_failed_and_what_a_volunteer_says(hall: Hall) -> None:
    strict = await hall.ask(trusted_workers=True)
    assert (await hall.get(STATUS + strict))["is_possible"] is False
    async with hall.session.delete(hall.site.root_url() + STATUS + strict) as answer:
        assert answer.status == 200
    request_id = await hall.ask(params={"max_length": 300, "max_context_length": 4096})
    job = await hall.shed.job()
    # Three seconds and half a second for each token, were there not the request's own deadline.
    assert 0 < job["ttl"] <= CONFIG["edge"]["request_timeout_s"]
    assert (await hall.shed.submit(job["id"], "faulted", state="faulted", seed=-1)) == (200, {"reward": 0})
    async with asyncio.timeout(TOLD_WITHIN_S):
        while (state := await hall.get(STATUS + request_id))["restarted"] != 1:
            await asyncio.sleep(0.02)
    assert (state["waiting"] + state["processing"], state["done"], state["generations"]) == (1, False, [])
    loft = Volunteer(hall.site.root_url(), hall.keys[0], hall.session, "loft", max_length=512, max_context_length=4096)
    job = await loft.job()
    remark = {"type": "censorship", "value": "nsfw"}
    status, answer = await loft.submit(job["id"], "", state="censored", seed=41, gen_metadata=[remark])
    assert (status, answer) == (200, {"reward": 0})
    done = await hall.done(request_id)
    assert (done["faulted"], done["restarted"]) == (False, 1)
    (text,) = done["generations"]
    assert (text["state"], text["text"], text["seed"], text["gen_metadata"]) == ("censored", "", 41, [remark])
    workers = {one["name"]: one for one in await hall.get("/api/v2/workers")}
    async with asyncio.timeout(10):
        while (workers["loft"]["requests_fulfilled"], workers["loft"]["uncompleted_jobs"]) != (1, 0):
            await asyncio.sleep(0.1)
            workers = {one["name"]: one for one in await hall.get("/api/v2/workers")}
    path = f"{hall.site.root_url()}/api/v2/workers/{workers['loft']['id']}"
    async with hall.session.delete(path, headers=loft.headers) as answer:
        assert answer.status == 200


async def test_an_owner_pauses_and_deletes_only_workers_of_ones_own(hall: Hall) -> None:
    worker_id = next(one["id"] for one in await hall.get("/api/v2/workers") if one["name"] == "barn")
    path = f"{hall.site.root_url()}/api/v2/workers/{worker_id}"
    body = {"maintenance": True}
    async with hall.session.put(path, json=body, headers=hall.shed.headers) as answer:
        assert (await answer.json())["rc"] == "NotOwner"
    async with hall.session.put(path, json=body, headers=hall.barn.headers) as answer:
        assert await answer.json() == {"maintenance": True}
    assert (await hall.barn.post(POP, hall.barn.offer))[1]["rc"] == "WorkerMaintenance"
    async with hall.session.put(path, json={"maintenance": False}, headers=hall.barn.headers) as answer:
        assert answer.status == 200
    await asyncio.to_thread(hall.site.command, "workers", "pause", "barn")
    async with asyncio.timeout(5):
        while (await hall.barn.post(POP, hall.barn.offer))[0] != 403:
            await asyncio.sleep(0.02)
    await asyncio.to_thread(hall.site.command, "workers", "resume", "barn")
    async with asyncio.timeout(5):
        while (await hall.barn.post(POP, hall.barn.offer))[0] != 200:
            await asyncio.sleep(0.02)
    async with hall.session.delete(path, headers=hall.barn.headers) as answer:
        assert await answer.json() == {"deleted_id": worker_id, "deleted_name": "barn"}
    await hall.barn.pop()


async def test_a_webhook_is_called_with_the_text_that_the_status_shows(hall: Hall, receiver: Receiver) -> None:
    receiver.faults = [503]
    request_id = await hall.ask(webhook=f"{receiver.url}/hook?word={SECRET}")
    job = await hall.barn.job()
    # Nothing that is stored or logged has it, nor the id that the text is read by.
    for word in (SECRET, request_id):
        assert await asyncio.to_thread(files_with, hall.site.folder, word.encode()) == []
    assert (await hall.barn.submit(job["id"], " sat."))[0] == 200
    assert await receiver.next() == (told := await receiver.next())
    state = await hall.done(request_id)
    (shown,) = state["generations"]
    assert told.pop("id")
    assert told == {**shown, "request": request_id, "kudos": state["kudos"]}


async def test_a_killed_chat_process_costs_nobody_the_text_and_a_new_edge_takes_it(
    hall: Hall, receiver: Receiver
) -> None:
    asked = [await hall.ask(f"An owl {number}") for number in range(LOST_JOBS)]
    jobs = [await hall.barn.job() for _ in asked]
    holder = await asyncio.to_thread(_holder, hall.site)
    holder.running.kill()
    # All of them are taken over at once, while their texts wait.
    answers = await asyncio.gather(*(hall.barn.submit(job["id"], " sat through it.") for job in jobs))
    assert [(status, answer.get("reward", 0) > 0) for status, answer in answers] == [(200, True)] * LOST_JOBS, answers
    for request_id in asked:
        (text,) = (await hall.done(request_id))["generations"]
        assert (text["text"], text["worker_name"]) == (" sat through it.", "barn")

    request_id = await hall.ask(webhook=f"{receiver.url}/hook")
    job = await hall.barn.job()
    edge = hall.site.edges[0]
    edge.running.kill()
    edge.start()
    await asyncio.to_thread(edge.wait_ready)
    assert (await hall.barn.submit(job["id"], " sat on."))[1]["reward"] > 0
    assert [one["text"] for one in (await hall.done(request_id))["generations"]] == [" sat on."]
    # The edge that was killed had the webhook in hand.
    told = await receiver.next()
    assert (told["request"], told["text"]) == (request_id, " sat on.")
    await asyncio.to_thread(hall.site.wait_idle)
    events = [event for event in await hall.site.usage() if event.volunteer is not None]
    assert len({event.request_id for event in events}) == len(events)
    await asyncio.to_thread(hall.site.command, "kudos", "verify")
    holder.start()
    await asyncio.to_thread(holder.wait_ready)


def _holder(site: Deployment) -> Any:
    """The chat process that has handed a job out."""
    name = 'callboard_chat_volunteer_jobs{state="handed_out"}'
    return next(one for one in site.chats if one.metrics().get(name))
