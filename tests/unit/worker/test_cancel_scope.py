"""Work is ended from the outside for one reason, and a cancellation from elsewhere is left alone."""

import asyncio

import pytest

from callboard_worker.cancel_scope import CancelScope

pytestmark = pytest.mark.unit


async def waits(cancel_scope: CancelScope, seen: list[str]) -> str:
    with cancel_scope:
        try:
            await asyncio.sleep(10)
        finally:
            seen.append("cleaned")
        return "finished"
    return f"interrupted: {cancel_scope.reason}"


async def test_the_body_ends_cleans_up_and_the_task_goes_on() -> None:
    cancel_scope, seen = CancelScope(), list[str]()
    task = asyncio.ensure_future(waits(cancel_scope, seen))
    await asyncio.sleep(0)
    cancel_scope.cancel("cancelled")
    cancel_scope.cancel("deadline")
    assert await task == "interrupted: cancelled"
    assert seen == ["cleaned"]
    assert task.cancelling() == 0


async def test_a_cancellation_from_elsewhere_passes_through() -> None:
    cancel_scope = CancelScope()
    task = asyncio.ensure_future(waits(cancel_scope, []))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_both_at_once_cancel_the_task() -> None:
    cancel_scope = CancelScope()
    task = asyncio.ensure_future(waits(cancel_scope, []))
    await asyncio.sleep(0)
    cancel_scope.cancel("cancelled")
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_outside_its_context_only_the_reason_is_kept() -> None:
    cancel_scope = CancelScope()
    cancel_scope.cancel("deadline")
    await asyncio.sleep(0)
    assert (cancel_scope.reason, cancel_scope.at_s) == ("deadline", None)


async def test_an_error_of_the_body_is_not_hidden() -> None:
    cancel_scope = CancelScope()

    async def fails() -> None:
        with cancel_scope:
            try:
                await asyncio.sleep(10)
            except asyncio.CancelledError:
                raise ValueError("while closing") from None

    task = asyncio.ensure_future(fails())
    await asyncio.sleep(0)
    cancel_scope.cancel("cancelled")
    with pytest.raises(ValueError, match="while closing"):
        await task
