"""A running edge over the fakes, for every test that talks to it."""

from collections.abc import AsyncGenerator

import pytest

from tests.unit.edge.harness import EdgeHarness, running


@pytest.fixture
async def harness() -> AsyncGenerator[EdgeHarness]:
    async with running() as started:
        yield started
