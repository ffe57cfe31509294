"""Forked processes are as those are that an interpreter was started for: their output, their end and its signals."""

import os
import signal
import subprocess
import sys
from collections.abc import Generator
from pathlib import Path

import psutil
import pytest

from tests.support.children import Child, wait_until
from tests.support.fork_server import PRELOADED, ForkedChild, run_forked

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]

ENDLESS = ("http.server", ["0", "--bind", "127.0.0.1"])
A_RUN = """
import multiprocessing, pathlib, signal, sys
from tests.support.fork_server import ForkedChild
multiprocessing.get_context("forkserver").set_forkserver_preload(["http.server"])
child = ForkedChild("http.server", ["0", "--bind", "127.0.0.1"], pathlib.Path(sys.argv[1]))
print(child.pid, flush=True)
signal.pause()
"""
METRICS = f"""
import {", ".join(PRELOADED)}, prometheus_client
print(*(metric.name for metric in prometheus_client.REGISTRY.collect()))
"""


@pytest.fixture
def endless(tmp_path: Path) -> Generator[ForkedChild]:
    child = ForkedChild(*ENDLESS, tmp_path / "endless.log")
    yield child
    child.kill()


def test_output_and_exit_code_are_the_programs_own() -> None:
    done = run_forked("callboard_cli", ["--version"], 60)
    argv = [sys.executable, "-m", "callboard_cli", "--version"]
    started = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, started.stdout, "")
    wrong = run_forked("callboard_quota", ["--config", "/no/such/file"], 60)
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert wrong.stderr.startswith("callboard quota: /no/such/file: ")


def test_it_runs_in_a_session_of_its_own_until_it_ends_by_a_signal(endless: ForkedChild) -> None:
    wait_until(lambda: os.getsid(endless.pid) == endless.pid, 20, "it has a session")
    assert endless.alive
    with pytest.raises(subprocess.TimeoutExpired):
        endless.wait(0.1)
    assert endless.stop() == -signal.SIGTERM
    assert not endless.alive


def test_killed_one_is_told_from_one_that_stopped(endless: ForkedChild) -> None:
    endless.kill()
    assert (endless.wait(), endless.process.returncode) == (-signal.SIGKILL, -signal.SIGKILL)


def test_none_outlives_a_test_run_that_is_killed(tmp_path: Path) -> None:
    run = Child([sys.executable, "-c", A_RUN, str(tmp_path / "server.log")], tmp_path / "run.log")
    try:
        wait_until(lambda: run.output().endswith("\n"), 60, "the process runs")
        forked = psutil.Process(int(run.output()))
        assert forked.is_running()
    finally:
        run.kill()
    wait_until(lambda: not forked.is_running(), 20, "it ends with the run")


def test_each_process_has_its_own_metrics_alone() -> None:
    argv = [sys.executable, "-c", METRICS]
    found = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=True).stdout.split()
    services = (
        "callboard_chat",
        "callboard_edge",
        "callboard_quota",
        "callboard_rooms",
        "callboard_stt",
        "callboard_tts",
    )
    assert found
    assert [name for name in found if name.startswith((*services, "gen_ai"))] == []
