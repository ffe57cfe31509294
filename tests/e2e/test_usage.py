"""A key's own holder sees what it used; nobody else does."""

import asyncio
from typing import Any

import aiohttp
import openai
import pytest

from tests.support.deployment import Deployment

pytestmark = pytest.mark.e2e


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


async def test_usage_of_a_revoked_key_is_refused(deployment: Deployment) -> None:
    key = await asyncio.to_thread(deployment.create_key, "standard")
    await asyncio.to_thread(deployment.revoke_key, key)
    status, answer = await used(deployment, key)
    assert status == 401
    assert key not in str(answer)
