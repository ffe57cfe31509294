"""Rules for every test: a tier for each module, no task left behind, no blocking call on the event loop."""

import asyncio
import functools
import inspect
import socket
import time
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

TIERS = ("unit", "contract", "backend", "deploy", "integration", "e2e", "hostile", "images")
SETTLE_S = 2.0

pytest_plugins = ("tests.support.engines",)
# Suites are no test modules, and a failed assertion in one must show its values too.
pytest.register_assert_rewrite("tests.protocols")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Puts the quick tiers first, refuses a module without a tier, and has every coroutine test watched for leaks."""
    tier_of: dict[pytest.Item, int] = {}
    for item in items:
        tiers = {mark.name for mark in item.iter_markers()} & set(TIERS)
        if len(tiers) != 1:
            raise pytest.UsageError(f"{item.nodeid}: its module must set pytestmark to one tier of {TIERS}")
        tier_of[item] = TIERS.index(tiers.pop())
        if isinstance(item, pytest.Function) and inspect.iscoroutinefunction(item.obj):
            item.obj = _without_leaks(item.obj)
    items.sort(key=tier_of.__getitem__)


def _without_leaks(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., Coroutine[Any, Any, None]]:
    @functools.wraps(test)
    async def watched(*arguments: Any, **named: Any) -> None:
        before = asyncio.all_tasks()
        await test(*arguments, **named)
        until = time.monotonic() + SETTLE_S
        while leaked := {task for task in asyncio.all_tasks() - before if not task.done()}:
            if time.monotonic() > until:
                pytest.fail(f"tasks left behind: {sorted(task.get_name() for task in leaked)}")
            await asyncio.sleep(0.01)

    return watched


class BlockingCallError(AssertionError):
    """A call that blocks the thread was made while an event loop ran in it."""


def _refused_on_loop(call: Callable[..., Any], name: str, blocks: Callable[..., bool]) -> Callable[..., Any]:
    @functools.wraps(call)
    def guarded(*arguments: Any, **named: Any) -> Any:
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            return call(*arguments, **named)
        if blocks(*arguments):
            raise BlockingCallError(f"{name} blocks the event loop")
        return call(*arguments, **named)

    return guarded


@pytest.fixture(autouse=True)
def no_blocking_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes a sleep or a blocking socket call on the event loop's thread an error."""
    monkeypatch.setattr(time, "sleep", _refused_on_loop(time.sleep, "time.sleep", lambda *_: True))
    for name in ("accept", "connect", "recv", "recv_into", "send", "sendall"):
        guarded = _refused_on_loop(getattr(socket.socket, name), f"socket.{name}", _waits)
        monkeypatch.setattr(socket.socket, name, guarded, raising=False)


def _waits(endpoint: socket.socket, *_: object) -> bool:
    return endpoint.gettimeout() != 0
