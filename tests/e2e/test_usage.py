"""A key's own holder sees what it used; nobody else does."""

import asyncio
from typing import Any

import aiohttp
import openai
import pytest

from tests.support.deployment import Deployment

pytestmark = pytest.mark.e2e
RESULTS = ("used", "released")


async def used(deployment: Deployment, key: str) -> tuple[int, dict[str, Any]]:
    headers = {"Authorization": f"Bearer {key}"}
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"{deployment.base_url}/usage", headers=headers, timeout=aiohttp.ClientTimeout(10)) as reply,
    ):
        return reply.status, await reply.json()


async def test_usage_of_a_key_is_what_its_replies_used(deployment: Deployment) -> None:
    key = await asyncio.to_thread(deployment.create_key, "standard")
    other = await asyncio.to_thread(deployment.create_key, "standard")
    async with openai.AsyncOpenAI(base_url=deployment.base_url, api_key=key, max_retries=0, timeout=30) as client:
        reply = await client.chat.completions.create(model="owl", messages=[{"role": "user", "content": "Hi"}])
    assert reply.usage is not None
    await asyncio.to_thread(deployment.wait_idle)
    status, usage = await used(deployment, key)
    assert (status, usage["tokens_last_day"]) == (200, reply.usage.total_tokens)
    assert (await used(deployment, other))[1]["tokens_last_day"] == 0


async def holds_ahead(deployment: Deployment) -> dict[str, float]:
    """What became of the holds that the edge took ahead."""
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"http://127.0.0.1:{deployment.edges[0].health_port}/metrics") as reply,
    ):
        lines = (await reply.text()).splitlines()
    found = dict(line.rsplit(" ", 1) for line in lines if line.startswith("callboard_edge_holds_ahead_total"))
    return {result: float(found[f'callboard_edge_holds_ahead_total{{result="{result}"}}']) for result in RESULTS}


async def test_holds_taken_ahead_are_used_and_charged_once_and_none_is_left(deployment: Deployment) -> None:
    key = await asyncio.to_thread(deployment.create_key, "standard")
    before = await holds_ahead(deployment)
    async with openai.AsyncOpenAI(base_url=deployment.base_url, api_key=key, max_retries=0, timeout=30) as client:
        replies = [
            await client.chat.completions.create(model="owl", messages=[{"role": "user", "content": "Hi"}])
            for _ in range(5)
        ]
    await asyncio.to_thread(deployment.wait_idle)
    found = await holds_ahead(deployment)
    assert found["used"] > before["used"]
    assert found["released"] > before["released"]
    _, usage = await used(deployment, key)
    assert usage["tokens_last_day"] == sum(reply.usage.total_tokens for reply in replies if reply.usage)


async def test_usage_of_a_revoked_key_is_refused(deployment: Deployment) -> None:
    key = await asyncio.to_thread(deployment.create_key, "standard")
    await asyncio.to_thread(deployment.revoke_key, key)
    status, answer = await used(deployment, key)
    assert status == 401
    assert key not in str(answer)
