"""Accounts of a running deployment, and what quota has charged them."""

import asyncio
from dataclasses import dataclass
from typing import Any

import aiohttp

from callboard_contracts.quota import UNITS_PER_TOKEN, UsageEvent, Work
from tests.support.deployment import Deployment

ADMIN_TOKEN = "the-token-of-these-tests"
SETTLE_TIMEOUT_S = 10.0
AUDIO_TOKENS_PER_S = 100
"""What a second of sound costs where nothing else is configured."""


@dataclass(frozen=True, slots=True)
class Tenant:
    """An account with one key."""

    deployment: Deployment
    id: str
    key: str

    async def usage(self, count: int) -> list[UsageEvent]:
        """Waits until `count` usage events are settled, and every hold with them; fails when there are more."""
        events = await self.deployment.usage_of(count, tenant=self.id)
        await self.settles_at(sum(units(event.work) for event in events))
        events = await self.deployment.usage(self.id)
        assert len(events) == count, events
        assert len({event.request_id for event in events}) == count, events
        return events

    async def charged_units(self) -> set[int]:
        """What the ledger has charged or holds: one amount where all limits count the same."""
        return set((await self.deployment.charged_units(self.id)).values()) or {0}

    async def heard_ms(self) -> int:
        """How much sound the ledger has counted."""
        counters = await self.deployment.counters(self.id)
        return sum(value for subject, value in counters.items() if subject.split(".")[3] == "heard")

    async def settles_at(self, expected: int) -> None:
        """Waits until every counter of the ledger stands at so many units."""
        until = asyncio.get_running_loop().time() + SETTLE_TIMEOUT_S
        while (charged := await self.charged_units()) != {expected}:
            assert asyncio.get_running_loop().time() < until, f"charged {charged}, not {expected}"
            await asyncio.sleep(0.02)

    async def assert_no_usage(self) -> None:
        """Fails where a request was charged, or where its hold is not released."""
        await self.settles_at(0)
        assert {key: value for key, value in (await self.deployment.counters(self.id)).items() if value} == {}
        assert await self.deployment.usage(self.id) == []


def units(work: Work) -> int:
    """What work costs, in the ledger's units."""
    tokens = (work.prompt_tokens + work.completion_tokens) * UNITS_PER_TOKEN
    return tokens + work.audio_ms * AUDIO_TOKENS_PER_S * UNITS_PER_TOKEN // 1000


async def ask_admin(deployment: Deployment, session: aiohttp.ClientSession, path: str, body: dict[str, Any]) -> Any:
    """Posts to the admin API and returns the answer's JSON."""
    headers = {"Authorization": f"Bearer {ADMIN_TOKEN}"}
    async with session.post(f"{deployment.root_url()}/admin/v1{path}", json=body, headers=headers) as answer:
        found = await answer.json()
        assert answer.status < 300, found
        return found


async def new_tenant(deployment: Deployment, session: aiohttp.ClientSession, tier: str = "standard") -> Tenant:
    """Makes an account of a tier."""
    made = await ask_admin(deployment, session, "/accounts", {"name": "tenant", "tier": tier})
    return Tenant(deployment, made["account"]["id"], made["key"])
