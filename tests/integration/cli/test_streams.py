"""`callboard streams apply` against a real nats-server."""

import os
import signal
import subprocess
import sys
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

from callboard_cli.failures import ExitCode
from tests.support.children import Child, wait_until
from tests.support.nats_server import NatsServer

pytestmark = [pytest.mark.integration, pytest.mark.timeout(400)]

APPLY = [sys.executable, "-m", "callboard_cli", "streams", "apply"]
STREAMS = {"CHAT", "TTS", "OUT", "RESULT", "AUDIO", "USAGE", "QUOTA", "LEASE", "DLQ", "KV_ROOMS", "KV_ACCOUNTS"}


@pytest.fixture
def server(tmp_path: Path) -> Generator[NatsServer]:
    server = NatsServer(tmp_path / "nats")
    server.start()
    yield server
    server.kill()


def environ(server: NatsServer) -> dict[str, str]:
    return {**os.environ, "CALLBOARD__NATS__URL": server.url}


def streams_of(server: NatsServer) -> dict[str, dict[str, Any]]:
    page: Any = server.monitor("jsz?streams=true&consumers=true")
    return {
        stream["name"]: stream for account in page["account_details"] for stream in account.get("stream_detail", [])
    }


def apply(server: NatsServer) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(APPLY, env=environ(server), capture_output=True, text=True, timeout=40, check=False)


def test_apply_declares_everything_and_a_repeat_changes_nothing(server: NatsServer) -> None:
    first = apply(server)
    assert first.returncode == ExitCode.OK, first.stderr
    assert first.stdout.startswith("applied: ")
    found = streams_of(server)
    assert set(found) >= STREAMS
    consumers = {consumer["name"] for consumer in found["CHAT"]["consumer_detail"]}
    assert consumers == {"chat-local-live", "chat-local-batch"}
    assert apply(server).stdout == "everything is as declared\n"


def test_watch_restores_memory_streams_after_a_restart_of_the_bus(server: NatsServer, tmp_path: Path) -> None:
    watcher = Child([*APPLY, "--watch"], tmp_path / "watch.log", environ(server))
    try:
        wait_until(lambda: "applied: " in watcher.output(), 30, "the first apply")
        server.kill()
        server.start()
        wait_until(lambda: "OUT" in streams_of(server) and "AUDIO" in streams_of(server), 30, "memory streams are back")
        watcher.signal(signal.SIGTERM)
        assert watcher.wait(20) == ExitCode.OK
        assert "Traceback" not in watcher.output()
    finally:
        watcher.kill()


def test_an_unreachable_bus_is_one_line(tmp_path: Path) -> None:
    code = (
        "import sys, callboard_kit.bus as bus; bus.CONNECT_TIMEOUT_S = 1.0;"
        "from callboard_cli.__main__ import main; sys.exit(main(['streams', 'apply']))"
    )
    run = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "CALLBOARD__NATS__URL": "nats://127.0.0.1:9"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert run.returncode == ExitCode.FAILED
    assert run.stderr.startswith("callboard: streams: no bus at nats://127.0.0.1:9")
    assert run.stderr.count("\n") == 1
