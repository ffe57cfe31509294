"""What the tests of the edge's watches share."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager, suppress

from callboard_edge.backends.record_watch import RecordWatch


async def until(condition: Callable[[], bool], within_s: float = 20.0) -> None:
    """Waits until something is seen; raises TimeoutError where it is not in time."""
    async with asyncio.timeout(within_s):
        while not condition():
            await asyncio.sleep(0.02)


@asynccontextmanager
async def watching(watch: RecordWatch) -> AsyncGenerator[None]:
    """Starts a watch and lets it run."""
    await watch.start()
    running = asyncio.ensure_future(watch.run())
    yield
    running.cancel()
    with suppress(asyncio.CancelledError):
        await running
    await watch.close()
