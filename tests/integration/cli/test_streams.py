"""`callboard streams apply` against a real nats-server."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

from callboard_cli.failures import ExitCode
from callboard_contracts.config import NatsSection
from callboard_kit.bus import Bus
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


def apply(server: NatsServer, *options: str, **more: str) -> "subprocess.CompletedProcess[str]":
    command = [*APPLY, *options]
    env = environ(server) | more
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=40, check=False)


def consumers_of(server: NatsServer) -> set[str]:
    return {consumer["name"] for consumer in streams_of(server)["CHAT"]["consumer_detail"]}


def configured(folder: Path, *pools: str) -> Path:
    """A configuration with chat pools of those names."""
    file = folder / "callboard.toml"
    file.write_text("".join(f'[chat.pools.{pool}]\nbackend = "fake"\n' for pool in pools), encoding="utf-8")
    return file


async def add_job(server: NatsServer, pool: str) -> None:
    bus = await Bus.connect(NatsSection(url=server.url), "test", lambda: None)
    try:
        await bus.publish_stored(f"job.chat.{pool}.live.somebody", b"{}", None)
    finally:
        await bus.close()


def test_apply_says_which_consumers_it_keeps_and_prunes_them_when_told(server: NatsServer, tmp_path: Path) -> None:
    file = str(configured(tmp_path, "old", "new"))
    assert apply(server, CALLBOARD_CONFIG=file).returncode == ExitCode.OK
    for pool in ("old", "new"):
        asyncio.run(add_job(server, pool))
    configured(tmp_path, "new")
    kept = apply(server, CALLBOARD_CONFIG=file).stdout
    assert "kept: consumer chat-old-live of CHAT, whose pool is not in the configuration; 1 jobs wait" in kept
    assert "chat-new" not in kept
    assert "chat-old-live" in consumers_of(server)
    pruned = apply(server, "--prune", CALLBOARD_CONFIG=file).stdout
    assert "removed: consumer chat-old-live of CHAT, with 1 jobs" in pruned
    assert consumers_of(server) == {"chat-new-live", "chat-new-batch"}
    assert streams_of(server)["CHAT"]["state"]["messages"] == 1
    assert apply(server, "--prune", CALLBOARD_CONFIG=file).stdout == "everything is as declared\n"


def test_watch_follows_the_configuration(server: NatsServer, tmp_path: Path) -> None:
    file = configured(tmp_path, "first")
    env = {**environ(server), "CALLBOARD_CONFIG": str(file)}
    watcher = Child([*APPLY, "--watch"], tmp_path / "watch.log", env)
    try:
        wait_until(lambda: "applied: " in watcher.output(), 30, "the first apply")
        file.write_text("[chat.pools.first]\nbackend = 5\n", encoding="utf-8")
        wait_until(lambda: "settings_refused" in watcher.output(), 30, "a wrong file is said")
        configured(tmp_path, "first", "second")
        wait_until(lambda: "chat-second-live" in consumers_of(server), 30, "the new pool has its consumers")
        configured(tmp_path, "second")
        wait_until(lambda: "kept: consumer chat-first-live" in watcher.output(), 30, "the old ones are named")
        assert "chat-first-live" in consumers_of(server)
    finally:
        watcher.kill()


def test_apply_declares_everything_and_a_repeat_changes_nothing(server: NatsServer) -> None:
    first = apply(server)
    assert first.returncode == ExitCode.OK, first.stderr
    assert first.stdout.startswith("applied: ")
    found = streams_of(server)
    assert set(found) >= STREAMS
    assert consumers_of(server) == {"chat-local-live", "chat-local-batch"}
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
