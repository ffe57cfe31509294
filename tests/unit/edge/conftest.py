"""A running edge over the fakes, for every test that talks to it."""

from collections.abc import AsyncGenerator

import pytest

from tests.unit.edge.stage import Stage, running


@pytest.fixture
async def stage() -> AsyncGenerator[Stage]:
    async with running() as started:
        yield started
