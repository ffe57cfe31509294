"""Pools without a worker, as they are when they were scaled to zero: what waits is answered once a worker comes."""

import asyncio
from typing import Any

import aiohttp
import pytest

from callboard_contracts.quota import UNITS_PER_TOKEN
from tests.e2e.conftest import MakeBoard
from tests.e2e.test_faults_speech import Listener
from tests.support.clients import HELLO, Reply, connected, script_text
from tests.support.deployment import CHAT_POOL, TTS_POOL, Deployment, eventually
from tests.support.stub_chat import StubChat, numbered

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(400)]

ASLEEP = {"chat": {"pools": {CHAT_POOL: {"may_sleep": True}}}, "tts": {"pools": {TTS_POOL: {"may_sleep": True}}}}
AT_ZERO_S = 3.0
"""How long there is no worker, beside the seconds that one takes to start."""


def lag(deployment: Deployment, stream: str, consumer: str) -> int:
    """What KEDA scales a pool by: the jobs that wait and those that are not acknowledged."""
    page: Any = deployment.nats.monitor("jsz?streams=true&consumers=true")
    details = [one for account in page["account_details"] for one in account["stream_detail"] if one["name"] == stream]
    (found,) = [one for one in details[0]["consumer_detail"] if one["name"] == consumer]
    return int(found["num_pending"]) + int(found["num_ack_pending"])


async def test_what_waits_for_sleeping_pools_is_answered_and_a_reply_goes_on_after_zero_workers(
    make_deployment: MakeBoard, chat_engine: StubChat
) -> None:
    deployment = await asyncio.to_thread(make_deployment, ASLEEP, chats=0, speakers=0)
    key = await asyncio.to_thread(deployment.create_key, "standard")
    chat_engine.plays(numbered(60, delay_s=0.05))
    stream, listener = Reply(), Listener()
    async with connected(deployment, key) as client, asyncio.TaskGroup() as group:
        following = group.create_task(stream.follow(client))
        listening = group.create_task(listener.listen(deployment, key))
        whole = group.create_task(client.chat.completions.create(model="owl", messages=HELLO))
        # Every request is a job at once, since the jobs are what wakes the pools; a job that runs counts too.
        await eventually(lambda: lag(deployment, "CHAT", f"chat-{CHAT_POOL}-live") == 2, 20, "both chats are queued")
        await eventually(lambda: lag(deployment, "TTS", f"tts-{TTS_POOL}-live") == 1, 20, "the speech is queued")
        await hears_of_a_stream(deployment, key)
        await asyncio.sleep(AT_ZERO_S)
        assert not any(task.done() for task in (following, listening, whole))
        await asyncio.to_thread(deployment.add_speaker)
        await asyncio.to_thread(deployment.add_chat)
        # The worker dies in the middle, and for a while there is no other.
        await stream.reaches(10)
        await asyncio.to_thread(deployment.chats[0].running.kill)
        await asyncio.sleep(AT_ZERO_S)
        assert await asyncio.to_thread(lag, deployment, "CHAT", f"chat-{CHAT_POOL}-live") == 2
        await asyncio.to_thread(deployment.add_chat)
    assert (stream.error, stream.text) == (None, script_text(60))
    assert whole.result().choices[0].message.content == script_text(60)
    assert listener.error is None
    assert listener.heard
    events = [event for event in await deployment.usage_of(3) if event.kind == "chat"]
    assert {event.work.completion_tokens for event in events} == {60}
    await asyncio.to_thread(deployment.wait_idle, 30)
    speech_units = [event.work.audio_ms * 100 for event in await deployment.usage() if event.kind == "speech"]
    assert set((await deployment.charged_units()).values()) == {2 * (7 + 60) * UNITS_PER_TOKEN + sum(speech_units)}
    await asyncio.to_thread(deployment.stop)


async def hears_of_a_stream(deployment: Deployment, key: str) -> None:
    """A stream says at once that it lives, long before there is a worker; its client then leaves."""
    body = {"model": "owl", "messages": HELLO, "stream": True}
    async with (
        aiohttp.ClientSession(headers={"Authorization": f"Bearer {key}"}) as session,
        session.post(f"{deployment.base_url}/chat/completions", json=body) as reply,
    ):
        assert reply.status == 200
        assert await asyncio.wait_for(reply.content.readline(), 20) == b": keep-alive\n"


async def test_pool_that_does_not_wake_refuses_and_charges_nothing(make_deployment: MakeBoard) -> None:
    over = {"chat": {"pools": {CHAT_POOL: {"may_sleep": True, "longest_wake_s": 2.0}}}}
    deployment = await asyncio.to_thread(make_deployment, over, chats=0, speakers=0)
    key = await asyncio.to_thread(deployment.create_key, "standard")
    body = {"model": "owl", "messages": HELLO}
    async with (
        aiohttp.ClientSession(headers={"Authorization": f"Bearer {key}"}) as session,
        session.post(f"{deployment.base_url}/chat/completions", json=body) as reply,
    ):
        assert (reply.status, (await reply.json())["error"]["code"]) == (503, "no_worker")
        assert int(reply.headers["Retry-After"]) >= 1
    await asyncio.to_thread(deployment.wait_idle)
    assert await deployment.usage() == []
    assert set((await deployment.charged_units()).values()) == {0}
    await asyncio.to_thread(deployment.stop)
