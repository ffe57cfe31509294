"""One process of each service is told to stop while everything is in use, and nobody notices."""

import asyncio
import json
import signal
from collections.abc import Awaitable, Callable
from uuid import uuid4

import aiohttp
import pytest

from tests.e2e.conftest import MakeBoard
from tests.e2e.test_faults_speech import Listener
from tests.e2e.test_talkmaster import said
from tests.support.clients import HELLO, Reply, connected, script_text
from tests.support.deployment import Deployment, eventually
from tests.support.lsl import query
from tests.support.processes import Service
from tests.support.stub_chat import StubChat, numbered

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(400)]

WORDS = 20
Ask = Callable[[int], Awaitable[None]]


class Load:
    """Clients of every kind, who ask again and again of the edge that their gateway sends them to."""

    def __init__(self, deployment: Deployment, key: str) -> None:
        self.deployment = deployment
        self.key = key
        self.edge = 0
        self.answered: dict[str, int] = {}
        self.stopping = False

    async def run(self) -> None:
        """Runs all clients until told to stop; raises what one of them did not get."""
        kinds: dict[str, Ask] = {
            "stream": self._stream,
            "stream too": self._stream,
            "whole": self._whole,
            "speech": self._speech,
            "room": self._room,
        }
        async with asyncio.TaskGroup() as group:
            for name, ask in kinds.items():
                self.answered[name] = 0
                group.create_task(self._repeat(name, ask))

    async def all_answered(self, more: int) -> None:
        """Waits until every client got so many more answers."""
        wanted = {name: count + more for name, count in self.answered.items()}
        await eventually(lambda: all(self.answered[name] >= count for name, count in wanted.items()), 120, "answers")

    async def _repeat(self, name: str, ask: Ask) -> None:
        while not self.stopping:
            async with asyncio.timeout(60):
                await ask(self.edge)
            self.answered[name] += 1

    async def _stream(self, edge: int) -> None:
        reply = Reply()
        async with connected(self.deployment, self.key, edge) as client:
            await reply.follow(client)
        assert (reply.error, reply.text) == (None, script_text(WORDS))

    async def _whole(self, edge: int) -> None:
        async with connected(self.deployment, self.key, edge) as client:
            reply = await client.chat.completions.create(model="owl", messages=HELLO)
        assert reply.choices[0].message.content == script_text(WORDS)

    async def _speech(self, edge: int) -> None:
        listener = Listener()
        await listener.listen(self.deployment, self.key, edge)
        assert listener.error is None
        assert listener.heard

    async def _room(self, edge: int) -> None:
        message_id = str(uuid4())
        body = said("Hello.", message_id=message_id)
        poll = "/ait/getMessageResponse" + query(join_key="pond", message_id=message_id)
        async with aiohttp.ClientSession() as session:
            async with session.post(self.deployment.root_url(edge) + "/ait/postMessage", json=body) as reply:
                assert reply.status == 425, await reply.text()
            while True:
                # An answer is polled from whichever edge there is.
                async with session.get(self.deployment.root_url(self.edge) + poll) as reply:
                    text = await reply.text()
                    if reply.status == 200:
                        break
                    assert reply.status == 425, text
                await asyncio.sleep(0.1)
        assert json.loads(text)["response"] == script_text(WORDS).strip()


async def test_service_that_is_told_to_stop_under_load_loses_no_request(
    make_deployment: MakeBoard, chat_engine: StubChat
) -> None:
    limits = {"quota": {"tiers": {"anonymous": {"tokens_per_month": 10_000_000}}}}
    counts = {"edges": 2, "chats": 2, "speakers": 2, "rooms": 2, "quotas": 2}
    deployment = await asyncio.to_thread(make_deployment, limits, **counts)
    chat_engine.plays(numbered(WORDS, delay_s=0.05))
    load = Load(deployment, await asyncio.to_thread(deployment.create_key, "standard"))
    running = asyncio.ensure_future(load.run())
    try:
        await load.all_answered(1)
        for service in (deployment.chats[0], deployment.speakers[0], deployment.rooms[0], deployment.quotas[0]):
            await told_to_stop(service)
            await load.all_answered(1)
        # A gateway sends an edge nothing new any more before it is told to stop.
        load.edge = 1
        deployment.edges[0].running.signal(signal.SIGTERM)
        await eventually(lambda: deployment.edges[0].ready_reason() is not None, 20, "the edge is not ready")
        assert await asyncio.to_thread(deployment.edges[0].running.wait) == 0
        await load.all_answered(1)
    finally:
        load.stopping = True
        await running
    await asyncio.to_thread(deployment.wait_idle, 30)
    events = await deployment.usage()
    assert len([event for event in events if event.kind == "chat"]) == len(chat_engine.calls)
    assert {event.outcome for event in events} == {"stop"}
    await asyncio.to_thread(deployment.command, "usage", "verify")
    await asyncio.to_thread(deployment.stop)


async def told_to_stop(service: Service) -> None:
    """Has a process stop, which ends in order and is never ready again."""
    service.running.signal(signal.SIGTERM)
    await eventually(lambda: not service.alive or service.ready_reason() is not None, 20, "it says that it stops")
    assert await asyncio.to_thread(service.running.wait, 40) == 0
