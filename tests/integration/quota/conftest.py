"""One set of a bus and two quota processes for the tests that break nothing, fresh ones for those that do."""

import asyncio
from collections.abc import AsyncGenerator, Generator
from pathlib import Path

import pytest

from callboard_kit.bus import Bus
from tests.integration.quota.deployment import QuotaDeployment

TIERS = {
    "quota": {
        "tiers": {
            "anonymous": {"tokens_per_day": 1_000_000},
            "standard": {"tokens_per_day": 1_000_000, "requests_per_minute": 1000, "jobs_at_once": 20},
            "single": {"jobs_at_once": 1},
            "tiny": {"tokens_per_day": 100, "tokens_per_month": 100},
        },
    }
}


@pytest.fixture(scope="module")
def deployment(tmp_path_factory: pytest.TempPathFactory) -> Generator[QuotaDeployment]:
    """A bus and two quota processes that the tests of a module share; each uses callers of its own."""
    shared = QuotaDeployment(tmp_path_factory.mktemp("deployment"), TIERS)
    try:
        shared.start(quotas=2)
        yield shared
        shared.stop()
    finally:
        shared.abandon()


@pytest.fixture
async def bus(deployment: QuotaDeployment) -> AsyncGenerator[Bus]:
    """A connection to the shared bus."""
    async with deployment.bus() as connected:
        yield connected


@pytest.fixture
async def own_deployment(tmp_path: Path) -> AsyncGenerator[QuotaDeployment]:
    """A set that one test may break; it starts the processes itself."""
    own = QuotaDeployment(tmp_path / "own", TIERS)
    try:
        yield own
        await asyncio.to_thread(own.stop)
    finally:
        await asyncio.to_thread(own.abandon)
