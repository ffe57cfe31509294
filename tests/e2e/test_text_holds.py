"""Chats on a key with little left, and chats whose every process is killed: what is served, and what it costs."""

import asyncio
from typing import Any

import pytest

from tests.e2e.conftest import MakeBoard
from tests.support.clients import Reply, connected
from tests.support.deployment import Deployment
from tests.support.stub_chat import StubChat, numbered

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(400)]

LEFT_TOKENS = 20_000
CONFIG: dict[str, Any] = {
    "quota": {"tiers": {"little": {"tokens_per_day": LEFT_TOKENS}}, "lease_margin_s": 5},
    "edge": {"request_timeout_s": 60},
}
HISTORY = [
    {"role": "system", "content": "You are the old owl of the theatre, and you answer in a few kind sentences. " * 4},
    {"role": "user", "content": "Who played here when the house was new, and what did the people say about it? " * 6},
    {"role": "assistant", "content": "The first company came from the coast, and they stayed for a winter. " * 12},
    {"role": "user", "content": "And what became of them?"},
]


async def test_ten_chats_at_once_are_served_on_a_key_with_little_left(
    make_deployment: MakeBoard, chat_engine: StubChat
) -> None:
    deployment = await asyncio.to_thread(make_deployment, CONFIG)
    chat_engine.plays(numbered(300, delay_s=0.005))
    key = await asyncio.to_thread(deployment.create_key, "little")
    async with connected(deployment, key) as client:
        replies = await asyncio.gather(
            *(client.chat.completions.create(model="owl", messages=HISTORY) for _ in range(10))  # pyright: ignore[reportArgumentType]
        )
    assert [reply.choices[0].finish_reason for reply in replies] == ["stop"] * 10
    events = await deployment.usage_of(10)
    assert {event.work.completion_tokens for event in events} == {300}
    await asyncio.to_thread(deployment.wait_idle)
    charged = sum(event.work.completion_tokens + event.work.prompt_tokens for event in events)
    (units,) = [count for name, count in (await deployment.charged_units()).items() if name.startswith("k_")]
    assert units == charged * 1000 <= LEFT_TOKENS * 1000
    assert "drift: 0 tokens" in await asyncio.to_thread(deployment.command, "usage", "verify")
    await asyncio.to_thread(deployment.stop)


async def _killed_in_mid_reply(deployment: Deployment, chat_engine: StubChat, *, bus_too: bool) -> int:
    """Kills every process in the middle of a reply and starts all anew; returns what the client had received."""
    chat_engine.plays(numbered(400, delay_s=0.02))
    reply = Reply()
    async with connected(deployment, await asyncio.to_thread(deployment.create_key, "standard")) as client:
        following = asyncio.ensure_future(reply.follow(client))
        await reply.reaches(100)
        for service in deployment.services:
            await asyncio.to_thread(service.running.kill)
        if bus_too:
            await asyncio.to_thread(deployment.nats.kill)
        await asyncio.gather(following, return_exceptions=True)
    if bus_too:
        await asyncio.to_thread(deployment.nats.start)
        await asyncio.to_thread(deployment.command, "streams", "apply")
    for service in deployment.services:
        await asyncio.to_thread(service.start)
    for service in deployment.services:
        await asyncio.to_thread(service.wait_ready)
    return reply.words


@pytest.mark.parametrize("bus_too", [False, True])
async def test_reply_whose_every_process_was_killed_is_charged_as_it_was_delivered(
    make_deployment: MakeBoard, chat_engine: StubChat, *, bus_too: bool
) -> None:
    deployment = await asyncio.to_thread(make_deployment, CONFIG)
    received = await _killed_in_mid_reply(deployment, chat_engine, bus_too=bus_too)
    assert received >= 100
    (event,) = await deployment.usage_of(1, timeout_s=60)
    assert event.outcome == "cancelled"
    # The worker may have sent a little more than arrived. On disk it is noted a few times a second.
    lag_tokens = 40 if bus_too else 0
    assert received - lag_tokens <= event.work.completion_tokens <= received + 40
    await asyncio.to_thread(deployment.wait_idle, 60)
    (units,) = [count for name, count in (await deployment.charged_units()).items() if name.startswith("k_")]
    assert units == (event.work.completion_tokens + event.work.prompt_tokens) * 1000
    assert "drift: 0 tokens" in await asyncio.to_thread(deployment.command, "usage", "verify")
    assert len(await deployment.usage()) == 1
