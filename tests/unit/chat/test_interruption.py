"""Work is ended from the outside for one reason, and a cancellation from elsewhere is left alone."""

import asyncio

import pytest

from callboard_chat.handlers.interruption import Interruption

pytestmark = pytest.mark.unit


async def waits(interruption: Interruption, seen: list[str]) -> str:
    with interruption:
        try:
            await asyncio.sleep(10)
        finally:
            seen.append("cleaned")
        return "finished"
    return f"interrupted: {interruption.reason}"


async def test_the_body_ends_cleans_up_and_the_task_goes_on() -> None:
    interruption, seen = Interruption(), list[str]()
    task = asyncio.ensure_future(waits(interruption, seen))
    await asyncio.sleep(0)
    interruption.interrupt("cancelled")
    interruption.interrupt("deadline")
    assert await task == "interrupted: cancelled"
    assert seen == ["cleaned"]
    assert task.cancelling() == 0


async def test_a_cancellation_from_elsewhere_passes_through() -> None:
    interruption = Interruption()
    task = asyncio.ensure_future(waits(interruption, []))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_both_at_once_cancel_the_task() -> None:
    interruption = Interruption()
    task = asyncio.ensure_future(waits(interruption, []))
    await asyncio.sleep(0)
    interruption.interrupt("cancelled")
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_outside_its_context_only_the_reason_is_kept() -> None:
    interruption = Interruption()
    interruption.interrupt("deadline")
    await asyncio.sleep(0)
    assert (interruption.reason, interruption.at_s) == ("deadline", None)


async def test_an_error_of_the_body_is_not_hidden() -> None:
    interruption = Interruption()

    async def fails() -> None:
        with interruption:
            try:
                await asyncio.sleep(10)
            except asyncio.CancelledError:
                raise ValueError("while closing") from None

    task = asyncio.ensure_future(fails())
    await asyncio.sleep(0)
    interruption.interrupt("cancelled")
    with pytest.raises(ValueError, match="while closing"):
        await task
