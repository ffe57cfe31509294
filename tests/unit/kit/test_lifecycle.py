import asyncio
import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from callboard_kit.lifecycle import Shutdown, TaskSupervisor

pytestmark = pytest.mark.unit


async def test_stop_is_requested_once_and_keeps_its_first_reason() -> None:
    shutdown = Shutdown()
    assert not shutdown.stopping
    shutdown.request_stop("SIGTERM")
    shutdown.request_stop("something later", failed=True)
    async with asyncio.timeout(20):
        await shutdown.wait()
    assert (shutdown.reason, shutdown.failed) == ("SIGTERM", False)


async def test_duty_that_fails_stops_the_process_as_failed() -> None:
    shutdown = Shutdown()

    async def fails() -> None:
        raise RuntimeError

    async with TaskSupervisor(shutdown) as supervisor:
        supervisor.start(fails(), "reaper")
        async with asyncio.timeout(20):
            await shutdown.wait()
    assert (shutdown.reason, shutdown.failed) == ("reaper failed", True)


async def test_leaving_the_context_ends_every_duty() -> None:
    shutdown = Shutdown()
    ended: list[str] = []

    async def lasts() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            ended.append("ended")

    async with TaskSupervisor(shutdown) as supervisor:
        supervisor.start(lasts(), "one")
        supervisor.start(lasts(), "two")
        await asyncio.sleep(0)
    assert ended == ["ended", "ended"]
    assert not shutdown.stopping


STUBBORN = """
import asyncio, sys
from callboard_kit.lifecycle import run_service

async def main(config, shutdown, arguments):
    await shutdown.wait()
    try:
        await asyncio.sleep(60)
    finally:
        await asyncio.shield(asyncio.sleep(60))

sys.exit(run_service("stubborn", main))
"""


def test_second_signal_ends_a_process_that_does_not_come_to_its_end(tmp_path: Path) -> None:
    running = subprocess.Popen(
        [sys.executable, "-c", STUBBORN], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        assert running.stderr is not None
        assert json.loads(running.stderr.readline())["event"] == "started"
        running.send_signal(signal.SIGTERM)
        with pytest.raises(subprocess.TimeoutExpired):
            running.wait(0.5)
        running.send_signal(signal.SIGTERM)
        assert running.wait(2) == 1
    finally:
        running.kill()
        _, errors = running.communicate()
    assert "Traceback" not in errors


STUCK = """
import sys, threading, time
from callboard_kit.lifecycle import run_service

async def main(config, shutdown, arguments):
    threading.Thread(target=time.sleep, args=(60,), name="engine-0").start()

sys.exit(run_service("stuck", main))
"""


def test_thread_that_never_ends_does_not_keep_the_process(tmp_path: Path) -> None:
    ended = subprocess.run([sys.executable, "-c", STUCK], cwd=tmp_path, capture_output=True, text=True, timeout=20)
    assert ended.returncode == 0
    assert '"threads_stuck"' in ended.stdout + ended.stderr
    assert "engine-0" in ended.stdout + ended.stderr
