"""Pools whose own engine and volunteers share the jobs: the order, drops either way, and what dies meanwhile."""

import asyncio
from collections.abc import AsyncGenerator, Generator
from typing import Any

import aiohttp
import openai
import pytest

from tests.support.clients import script_text
from tests.support.deployment import Deployment
from tests.support.stub_chat import StubChat, numbered
from tests.support.volunteers import POP, Volunteer

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

ASYNC = "/api/v2/generate/text/async"
STATUS = "/api/v2/generate/text/status/"
OWL, WREN = "owl", "wren"
SHARED = {"backend": "openai", "slots": 1, "volunteer_time_s": 20, "volunteer_slots": 4}


@pytest.fixture(scope="module")
def engine() -> Generator[StubChat]:
    engine = StubChat()
    engine.start()
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, engine: StubChat) -> Generator[Deployment]:
    """One worker that runs its own engine first, and two whose volunteers come first."""
    config: dict[str, Any] = {
        "chat": {
            "pools": {
                "barn": {**SHARED, "url": engine.url, "volunteers": "second"},
                "field": {**SHARED, "url": engine.url, "volunteers": "first", "second_after_s": 120},
            },
            "models": {
                OWL: {"pool": "barn", "volunteer_models": ["koboldcpp/owl"]},
                WREN: {"pool": "field"},
            },
        },
        "horde": {"submits_per_s": 0, "submits_per_minute": 0, "polls_per_minute": 0, "others_per_minute": 0},
        "kudos": {"enabled": True},
        "quota": {"reap_interval_s": 1},
    }
    config["chat"]["pools"]["field"]["second_after_jobs"] = 4
    deployment = Deployment(tmp_path_factory.mktemp("shared"), config, forked=True)
    try:
        deployment.start(chats=0, speakers=0)
        started = [deployment.add_chat(pool) for pool in ("barn", "field", "field")]
        for service in started:
            service.wait_ready()
        yield deployment
        deployment.wait_idle()
        deployment.command("usage", "verify")
        deployment.command("kudos", "verify")
        deployment.stop()
    finally:
        deployment.abandon()


class Hall:
    """The site with Ann's volunteers, and a client of OpenAI's protocol."""

    def __init__(self, site: Deployment, key: str, session: aiohttp.ClientSession, client: openai.AsyncOpenAI) -> None:
        self.site = site
        self.session = session
        self.client = client
        offer: dict[str, Any] = {"models": ["koboldcpp/owl", WREN], "max_length": 512, "max_context_length": 4096}
        self.shed, self.loft = (Volunteer(site.root_url(), key, session, name, **offer) for name in ("shed", "loft"))

    def ask(self, model: str) -> "asyncio.Task[tuple[str, str]]":
        """The text and the end of a streamed reply."""

        async def whole() -> tuple[str, str]:
            message: Any = [{"role": "user", "content": "Tell me of an owl."}]
            stream = await self.client.chat.completions.create(
                model=model, messages=message, stream=True, max_tokens=100
            )
            text, end = "", ""
            async for chunk in stream:
                text += chunk.choices[0].delta.content or ""
                end = chunk.choices[0].finish_reason or end
            return text, end

        return asyncio.create_task(whole())

    async def events(self) -> list[Any]:
        """The usage events once nothing runs any more; each request has one."""
        await asyncio.to_thread(self.site.wait_idle)
        events = await self.site.usage()
        assert len({event.request_id for event in events}) == len(events)
        return events


@pytest.fixture
async def hall(site: Deployment, engine: StubChat) -> AsyncGenerator[Hall]:
    engine.reset()
    key = await asyncio.to_thread(site.create_key, "standard")
    async with (
        aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=60)) as session,
        openai.AsyncOpenAI(base_url=site.base_url, api_key=key, max_retries=0) as client,
    ):
        one = Hall(site, key, session, client)
        # Every chat worker hears of what is offered.
        await one.shed.pop()
        yield one
        for worker in await (await session.get(f"{site.root_url()}/api/v2/workers")).json():
            if worker["name"] in {"shed", "loft"}:
                await session.delete(f"{site.root_url()}/api/v2/workers/{worker['id']}", headers=one.shed.headers)


async def test_own_engine_comes_first_a_volunteer_gets_the_rest_and_what_it_drops_goes_back(
    hall: Hall, engine: StubChat
) -> None:
    engine.plays(numbered(40, delay_s=0.05))
    own = hall.ask(OWL)
    async with asyncio.timeout(20):
        while not engine.active:
            await asyncio.sleep(0.02)
    assert (await hall.shed.pop())["id"] is None
    shared = hall.ask(OWL)
    job = await hall.shed.job()
    assert job["model"] == "koboldcpp/owl"
    assert "### Instruction:\nTell me of an owl." in job["payload"]["prompt"]
    told = script_text(3)
    assert (await hall.shed.progress(job["id"], text=told))[0] == 200
    await hall.shed.submit(job["id"], "faulted", state="faulted")
    # The own engine writes on from what was told once it has a slot, as does no volunteer before.
    (text, end), (other, _) = await asyncio.gather(own, shared)
    assert (text, end) == (script_text(40), "stop")
    assert other == script_text(40)
    assert [event.volunteer for event in await hall.events()][-2:] == [None, None]


async def test_volunteers_write_while_the_own_engine_is_gone(hall: Hall, engine: StubChat) -> None:
    engine.pause()
    try:
        asked = hall.ask(OWL)
        job = await hall.shed.job()
        assert (await hall.shed.submit(job["id"], "\n A barn owl."))[1]["reward"] > 0
        assert await asked == ("A barn owl.", "stop")
    finally:
        engine.start()
    assert [event.volunteer.worker_name for event in (await hall.events())[-1:] if event.volunteer] == ["shed"]


async def test_volunteers_come_first_and_a_killed_worker_changes_neither_text_nor_name_nor_price(
    hall: Hall, engine: StubChat
) -> None:
    body = {"prompt": "A wren", "models": [WREN], "params": {"max_length": 40, "max_context_length": 1024}}
    headers = {"apikey": "0000000000"}
    async with hall.session.post(hall.site.root_url() + ASYNC, json=body, headers=headers) as answer:
        request_id = (await answer.json())["id"]
    job = await hall.shed.job()
    assert not engine.calls
    # Another of Ann's volunteers was seen later than the one that has the job.
    await hall.loft.post(POP, hall.loft.offer)
    holder = await asyncio.to_thread(_holder, hall.site)
    holder.running.kill()
    status, answer = await hall.shed.submit(job["id"], " sat through it.")
    assert (status, answer["reward"] > 0) == (200, True), answer
    async with asyncio.timeout(40):
        while not (seen := await (await hall.session.get(hall.site.root_url() + STATUS + request_id)).json())["done"]:
            await asyncio.sleep(0.05)
    assert [(one["text"], one["worker_name"]) for one in seen["generations"]] == [(" sat through it.", "shed")]
    assert seen["restarted"] == 1
    holder.start()
    await asyncio.to_thread(holder.wait_ready)
    assert (await hall.events())[-1].volunteer.worker_name == "shed"


async def test_own_engine_writes_what_a_volunteer_drops_where_volunteers_come_first(
    hall: Hall, engine: StubChat
) -> None:
    engine.plays(numbered(10))
    asked = hall.ask(WREN)
    job = await hall.shed.job()
    assert (await hall.shed.submit(job["id"], None))[0] == 400
    assert await asked == (script_text(10), "stop")
    assert (await hall.events())[-1].volunteer is None


def _holder(site: Deployment) -> Any:
    """The chat process that has handed a job out."""
    name = 'callboard_chat_volunteer_jobs{state="handed_out"}'
    return next(one for one in site.chats if one.metrics().get(name))
