"""Turns of one conversation go to one chat worker, over the OpenAI protocol and in a room."""

import asyncio
from typing import Any
from uuid import uuid4

import aiohttp
import pytest

from tests.e2e.conftest import MakeBoard
from tests.support.clients import connected
from tests.support.deployment import Deployment, eventually
from tests.support.stub_chat import StubChat, numbered

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(400)]

TURNS = 3
CONVERSATIONS = 4


def went(deployment: Deployment) -> dict[str, float]:
    """How many jobs that preferred a worker went where, over all workers."""
    found: dict[str, float] = {}
    for chat in deployment.chats:
        for labelled, value in chat.metrics().items():
            name, _, outcome = labelled.partition('{outcome="')
            if name == "callboard_chat_preferred_jobs_total":
                found[outcome.rstrip('"}')] = found.get(outcome.rstrip('"}'), 0.0) + value
    return found


async def test_turns_of_a_conversation_go_to_one_worker(make_deployment: MakeBoard, chat_engine: StubChat) -> None:
    chat_engine.plays(numbered(3))
    deployment = await asyncio.to_thread(make_deployment, {}, chats=2, rooms=1)
    key = await asyncio.to_thread(deployment.create_key, "standard")
    async with connected(deployment, key) as client:

        async def say(messages: list[Any]) -> None:
            await client.chat.completions.create(model="owl", messages=messages)

        async def preferred() -> bool:
            await say([{"role": "user", "content": "Is there a choice?"}])
            return sum((await asyncio.to_thread(went, deployment)).values()) > 0

        async with asyncio.timeout(30):
            while not await preferred():
                await asyncio.sleep(0.2)
        before = await asyncio.to_thread(went, deployment)
        for turn in range(TURNS):
            for number in range(CONVERSATIONS):
                said = [{"role": "user", "content": f"Conversation {number}."}]
                await say(
                    said + [{"role": "assistant", "content": "Yes."}, {"role": "user", "content": "Go on."}] * turn
                )
    async with aiohttp.ClientSession(deployment.root_url()) as session:
        await (await session.post("/ait/startConversation", json={"join_key": "pond"})).read()
        body = {
            "join_key": "pond",
            "username": "Ada",
            "message": "Hi.",
            "charactername": "Frog",
            "message_id": str(uuid4()),
        }
        async with session.post("/ait/postMessage", json=body) as reply:
            assert reply.status == 425

    def all_went() -> bool:
        after = went(deployment)
        return sum(after.values()) - sum(before.values()) == TURNS * CONVERSATIONS + 1

    await eventually(all_went, 20, "every job had a worker that it preferred")
    after = await asyncio.to_thread(went, deployment)
    assert (after["full"], after["gone"]) == (before["full"], before["gone"])
    assert after["handed_over"] + after["here"] > before["handed_over"] + before["here"]
    await asyncio.to_thread(deployment.command, "usage", "verify")
    await asyncio.to_thread(deployment.stop)
