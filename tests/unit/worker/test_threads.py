"""Blocking work off the event loop, and its cancellation."""

import asyncio
import threading

import pytest

from callboard_worker.threads import Cancelled, EngineThreads, StopSignal

pytestmark = pytest.mark.unit


async def test_work_runs_in_another_thread() -> None:
    threads = EngineThreads("test", 1)
    assert await threads.run(lambda _stop: threading.get_ident()) != threading.get_ident()
    threads.close()


async def test_error_of_the_work_is_raised() -> None:
    def work(_stop: StopSignal) -> None:
        raise KeyError("broken")

    threads = EngineThreads("test", 1)
    with pytest.raises(KeyError):
        await threads.run(work)
    assert threads.active == 0
    threads.close()


async def test_cancelled_work_is_told_and_waited_for() -> None:
    begun, told = threading.Event(), threading.Event()

    def work(stop: StopSignal) -> None:
        stop.on_set(told.set)
        begun.set()
        assert told.wait(5)
        stop.check()

    threads = EngineThreads("test", 1)
    task = asyncio.ensure_future(threads.run(work))
    await asyncio.to_thread(begun.wait, 5)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert told.is_set()
    assert threads.active == 0
    assert threads.broken is None
    threads.close()


async def test_work_that_never_stops_marks_the_engine_as_broken() -> None:
    release, begun = threading.Event(), threading.Event()

    def work(_stop: StopSignal) -> None:
        begun.set()
        release.wait(10)

    threads = EngineThreads("test", 1, stop_timeout_s=0.05)
    task = asyncio.ensure_future(threads.run(work))
    await asyncio.to_thread(begun.wait, 5)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert threads.broken is not None
    release.set()
    threads.close()


def test_signal_that_is_set_already_calls_back_at_once() -> None:
    stop, calls = StopSignal(), list[int]()
    stop.on_set(lambda: calls.append(1))
    assert not stop.is_set()
    stop.set()
    stop.set()
    stop.on_set(lambda: calls.append(2))
    assert calls == [1, 2]
    with pytest.raises(Cancelled):
        stop.check()
