"""The bus and the quota go away and come back while the deployment is busy."""

import asyncio
import resource
import signal

import openai
import pytest

from callboard_contracts.quota import UNITS_PER_TOKEN
from tests.e2e.conftest import MakeBoard
from tests.e2e.test_faults_speech import Listener, undisturbed
from tests.support.clients import HELLO, Reply, connected, script_text
from tests.support.deployment import CHAT_POOL, Deployment, eventually
from tests.support.stub_chat import StubChat, numbered
from tests.support.stub_speech import StubSpeech

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(400)]


async def new_key(deployment: Deployment) -> str:
    return await asyncio.to_thread(deployment.create_key, "standard")


@pytest.mark.parametrize("end", ["kill", "stop"])
async def test_bus_restarted_under_load_loses_no_job(
    end: str, make_deployment: MakeBoard, chat_engine: StubChat
) -> None:
    deployment = await asyncio.to_thread(make_deployment, {"chat": {"pools": {CHAT_POOL: {"slots": 2}}}}, chats=2)
    chat_engine.plays(numbered(60, delay_s=0.05))
    replies = [Reply() for _ in range(12)]
    async with connected(deployment, await new_key(deployment)) as client, asyncio.TaskGroup() as group:
        for reply in replies:
            group.create_task(reply.follow(client))
        await eventually(
            lambda: chat_engine.active == 4 and deployment.messages_in("CHAT") == 12, 20, "all are accepted"
        )
        await asyncio.to_thread(deployment.nats.kill if end == "kill" else deployment.nats.stop)
        await asyncio.sleep(1)
        await asyncio.to_thread(deployment.nats.start)
    assert [reply.error for reply in replies] == [None] * 12
    assert {reply.text for reply in replies} == {script_text(60)}
    events = await deployment.usage_of(12)
    assert {event.work.completion_tokens for event in events} == {60}
    await asyncio.to_thread(deployment.wait_idle, 30)
    assert len(await deployment.usage()) == 12
    assert set((await deployment.charged_units()).values()) == {12 * (7 + 60) * UNITS_PER_TOKEN}
    for service in deployment.services:
        assert service.alive
        assert await asyncio.to_thread(service.ready_reason) is None, service.name
    await asyncio.to_thread(deployment.command, "usage", "verify")
    await asyncio.to_thread(deployment.stop)


async def test_bus_restarted_in_mid_speech_is_not_heard(make_deployment: MakeBoard, speech_engine: StubSpeech) -> None:
    # A server that is killed brings back leases that were ended before: their removal is not on its disk. The reaper
    # finds how they ended and removes them again, when they run out.
    soon = {"edge": {"request_timeout_s": 25}, "quota": {"lease_margin_s": 1.0, "reap_interval_s": 0.5}}
    deployment = await asyncio.to_thread(make_deployment, soon)
    key = await new_key(deployment)
    whole = await undisturbed(deployment, key)
    speech_engine.script.chunk_delay_s = 0.08
    listener = Listener()
    async with asyncio.TaskGroup() as group:
        group.create_task(listener.listen(deployment, key))
        await listener.hears(1)
        await asyncio.to_thread(deployment.nats.kill)
        await asyncio.sleep(0.5)
        await asyncio.to_thread(deployment.nats.start)
    assert listener.error is None
    assert len(listener.heard) == len(whole)
    assert listener.heard == whole
    await deployment.usage_of(2)
    await asyncio.to_thread(deployment.wait_idle, 60)


async def test_bus_that_is_away_is_told_as_an_error_in_time(make_deployment: MakeBoard) -> None:
    over = {"edge": {"request_timeout_s": 20}, "quota": {"longest_decision_s": 3}}
    deployment = await asyncio.to_thread(make_deployment, over)
    async with connected(deployment, await new_key(deployment)) as client:
        await asyncio.to_thread(deployment.nats.kill)
        async with asyncio.timeout(40):
            with pytest.raises(openai.InternalServerError) as caught:
                await client.chat.completions.create(model="owl", messages=HELLO)
        assert caught.value.status_code == 503
        await eventually(
            lambda: deployment.edges[0].ready_reason() is not None, 10, "the edge says that it is not ready"
        )
        await asyncio.to_thread(deployment.nats.start)
        for service in deployment.services:
            await asyncio.to_thread(service.wait_ready, 20)
        async with asyncio.timeout(40):
            reply = await client.chat.completions.create(model="owl", messages=HELLO)
        assert reply.choices[0].finish_reason == "stop"
    await asyncio.to_thread(deployment.wait_idle, 30)


async def test_readiness_follows_a_store_that_fails_until_the_bus_is_started_again(make_deployment: MakeBoard) -> None:
    deployment = await asyncio.to_thread(make_deployment, {"edge": {"request_timeout_s": 20}})
    following = (deployment.edges[0], deployment.quotas[0])

    def say_so() -> bool:
        return all("store" in (service.ready_reason() or "") for service in following)

    async with connected(deployment, await new_key(deployment)) as client:
        # No file of the server may grow, as on a full disk.
        deployment.nats.limit_files(0)
        await eventually(say_so, 30, "edge and quota are not ready")
        deployment.nats.limit_files(resource.RLIM_INFINITY)
        await asyncio.sleep(6)
        assert await asyncio.to_thread(say_so)
        await asyncio.to_thread(deployment.nats.kill)
        await asyncio.to_thread(deployment.nats.start)
        for service in following:
            await asyncio.to_thread(service.wait_ready, 30)
        async with asyncio.timeout(40):
            reply = await client.chat.completions.create(model="owl", messages=HELLO)
        assert reply.choices[0].finish_reason == "stop"
    await asyncio.to_thread(deployment.wait_idle, 30)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=["told to stop", "killed"])
async def test_one_of_two_quota_processes_ends_without_a_refusal(
    number: signal.Signals, make_deployment: MakeBoard, chat_engine: StubChat
) -> None:
    deployment = await asyncio.to_thread(make_deployment, quotas=2)
    chat_engine.plays(numbered(3))
    outcomes: list[str] = []

    async with connected(deployment, await new_key(deployment)) as client:

        async def keep_asking() -> None:
            for _ in range(60):
                reply = Reply()
                await reply.follow(client, max_tokens=5)
                outcomes.append("done" if reply.text == script_text(3) else repr(reply.error))
                await asyncio.sleep(0.02)

        asking = asyncio.gather(*(keep_asking() for _ in range(4)))
        await eventually(lambda: len(outcomes) > 40, 20, "requests flow")
        deployment.quotas[0].running.signal(number)
        await asking
    # A killed process takes the decisions in its hands with it, so the edge asks the other one.
    assert set(outcomes) == {"done"}
    if number is signal.SIGTERM:
        assert await asyncio.to_thread(deployment.quotas[0].running.wait) == 0
    await deployment.usage_of(240)
    await asyncio.to_thread(deployment.wait_idle, 30)


async def test_quota_that_is_away_refuses_and_says_so(make_deployment: MakeBoard, chat_engine: StubChat) -> None:
    deployment = await asyncio.to_thread(make_deployment, {"quota": {"longest_decision_s": 3}})
    async with connected(deployment, await new_key(deployment)) as client:
        await asyncio.to_thread(deployment.quotas[0].running.kill)
        async with asyncio.timeout(20):
            with pytest.raises(openai.InternalServerError) as caught:
                await client.chat.completions.create(model="owl", messages=HELLO)
        assert caught.value.status_code == 503
        assert chat_engine.calls == []
        again = await asyncio.to_thread(deployment.add_quota)
        await asyncio.to_thread(again.wait_ready)
        assert (await client.chat.completions.create(model="owl", messages=HELLO)).choices[0].finish_reason == "stop"


async def test_usage_that_was_told_while_quota_was_away_is_settled_later(
    make_deployment: MakeBoard, chat_engine: StubChat
) -> None:
    deployment = await asyncio.to_thread(make_deployment)
    chat_engine.plays(numbered(40, delay_s=0.05))
    reply = Reply()
    async with connected(deployment, await new_key(deployment)) as client, asyncio.TaskGroup() as group:
        group.create_task(reply.follow(client))
        await reply.reaches(3)
        await asyncio.to_thread(deployment.quotas[0].running.kill)
    assert reply.text == script_text(40)
    assert await asyncio.to_thread(deployment.messages_in, "LEASE") > 0
    again = await asyncio.to_thread(deployment.add_quota)
    await asyncio.to_thread(again.wait_ready)
    await asyncio.to_thread(deployment.wait_idle, 30)
    await asyncio.to_thread(deployment.command, "usage", "verify")
