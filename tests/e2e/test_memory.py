"""The edge gives back the memory of large bodies."""

import asyncio
import json
import sys

import aiohttp
import psutil
import pytest

from tests.e2e.conftest import MakeBoard
from tests.support.stub_chat import StubChat, numbered

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.timeout(400),
    pytest.mark.skipif(sys.platform != "linux", reason="the C library's memory is looked at"),
]

LARGE_BYTES = 900_000
AT_ONCE = 24


async def test_large_bodies_leave_a_tenth_of_the_memory_at_most(
    make_deployment: MakeBoard, chat_engine: StubChat
) -> None:
    models = {"chat": {"models": {"owl": {"context_tokens": 100_000}}}}
    deployment = await asyncio.to_thread(make_deployment, models, forked=False, speakers=0)
    chat_engine.plays(numbered(3))
    edge = psutil.Process(deployment.edges[0].running.pid)

    async def ask(session: aiohttp.ClientSession, text: str) -> int:
        body = json.dumps({"model": "owl", "messages": [{"role": "user", "content": text}]})
        async with session.post(f"{deployment.base_url}/chat/completions", data=body) as reply:
            await reply.read()
            return reply.status

    async with aiohttp.ClientSession() as session:
        for _ in range(20):
            assert await ask(session, "Hello.") == 200
        before = edge.memory_info().rss
        for _ in range(3):
            statuses = await asyncio.gather(*(ask(session, "x" * LARGE_BYTES) for _ in range(AT_ONCE)))
            assert set(statuses) == {200}
        await asyncio.to_thread(deployment.wait_idle)
        assert edge.memory_info().rss < before * 1.1
