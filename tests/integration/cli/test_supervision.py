"""The supervisor of `callboard up`, with a real nats-server and stub services."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import psutil
import pytest

from callboard_cli.failures import CommandError, ExitCode
from callboard_cli.up import probes, process, restarts, supervision
from callboard_cli.up.ports import free_ports
from callboard_cli.up.services import Plan, Service
from callboard_cli.up.supervision import Supervision
from callboard_contracts.config import Config, NatsSection
from callboard_edge.backends.worker_watch import WorkerWatch
from callboard_edge.domain.workers import Workers
from callboard_kit.bus import Bus

pytestmark = [pytest.mark.integration, pytest.mark.timeout(400)]

STUB = Path(__file__).with_name("stub_service.py")
KINDS = ("edge", "chat-small", "tts-voice", "quota")


class Harness:
    """A supervision of stub services, its messages, and the processes that it leaves."""

    def __init__(self, folder: Path, behaviours: dict[str, str], stop_timeout_s: float = 5.0) -> None:
        *ports, bus_port = free_ports(len(KINDS) + 1)
        services = tuple(
            Service(
                name,
                (sys.executable, str(STUB), str(port), behaviours.get(name, "serve"), name),
                port,
                stop_timeout_s,
                ("tts", "voice") if name == "tts-voice" else None,
            )
            for name, port in zip(KINDS, ports, strict=True)
        )
        self.messages: list[str] = []
        self.processes_before = set(_all_children())
        self.ready = asyncio.Event()
        self.folder = folder
        self.plan = Plan(services, os.environ, 0, "127.0.0.1", bus_port)
        self.supervision = Supervision(Config(), self.plan, folder, self.messages.append)

    async def run(self, when_ready: Callable[[], None] = lambda: None) -> None:
        """Runs the supervision until it ends."""

        def ready() -> None:
            self.ready.set()
            asyncio.get_running_loop().call_soon(when_ready)

        await self.supervision.run(ready)

    async def says(self, text: str) -> None:
        """Waits until the supervision has said something with a text in it."""
        async with asyncio.timeout(60):
            while not any(text in message for message in self.messages):
                await asyncio.sleep(0.02)

    def children(self) -> list[psutil.Process]:
        """Returns the processes that the supervision started and has not stopped."""
        return [child for child in _all_children() if child not in self.processes_before]

    def child_of(self, word: str) -> psutil.Process:
        """Returns the child with a word in its command line."""
        return next(child for child in self.children() if any(word in part for part in child.cmdline()))

    def log(self, name: str) -> str:
        """Returns the log of a child."""
        return (self.folder / "logs" / f"{name}.log").read_text()


@asynccontextmanager
async def connected(harness: Harness) -> AsyncGenerator[Bus]:
    """A connection to the supervised bus."""
    bus = await Bus.connect(NatsSection(url=harness.plan.bus_url), "test", lambda: None)
    try:
        yield bus
    finally:
        await bus.close()


def stop() -> None:
    """Sends SIGTERM to this process, which must handle it: otherwise it would end the test run."""
    assert signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL
    os.kill(os.getpid(), signal.SIGTERM)


def _all_children() -> list[psutil.Process]:
    return psutil.Process().children(recursive=True)


async def test_sigterm_stops_every_child_in_order(tmp_path: Path) -> None:
    harness = Harness(tmp_path, {})
    await harness.run(stop)
    assert harness.ready.is_set()
    assert harness.children() == []
    assert harness.messages == []
    times = [(tmp_path / "logs" / f"{name}.log").stat().st_mtime_ns for name in (*KINDS, "nats")]
    assert times == sorted(times)
    assert all("said goodbye" in harness.log(name) for name in KINDS)


async def test_a_child_that_cannot_start_is_reported_with_its_last_message(tmp_path: Path) -> None:
    harness = Harness(tmp_path, {"tts-voice": "fail"})
    with pytest.raises(CommandError) as failure:
        await harness.run()
    assert failure.value.code == ExitCode.CHILD_ENDED
    assert str(failure.value) == (
        "tts-voice ended with code 3: callboard stub: the engine is missing "
        f"(log: {tmp_path / 'logs' / 'tts-voice.log'})"
    )
    assert not harness.ready.is_set()
    assert harness.children() == []


@pytest.fixture
def no_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes every pause and limit of the supervisor short."""
    monkeypatch.setattr(restarts, "FIRST_PAUSE_S", 0.05)
    monkeypatch.setattr(restarts, "LONGEST_PAUSE_S", 0.1)
    monkeypatch.setattr(process, "HEALTH_INTERVAL_S", 0.1)


@pytest.mark.usefixtures("no_patience")
@pytest.mark.parametrize(("name", "word"), [("nats", "nats-server"), ("quota", "quota"), ("edge", "edge")])
async def test_a_child_that_is_killed_later_is_started_again(tmp_path: Path, name: str, word: str) -> None:
    harness = Harness(tmp_path, {})
    async with asyncio.TaskGroup() as group:
        running = group.create_task(harness.run(lambda: harness.child_of(word).kill()))
        await harness.says(f"{name} is ready again (restart 1)")
        assert len(harness.children()) == len(KINDS) + 1
        stop()
        await running
    log = tmp_path / "logs" / f"{name}.log"
    assert any(
        message.startswith(f"{name} was ended by SIGKILL")
        and message.endswith("starting it again in 0.05 s (restart 1)")
        for message in harness.messages
    ), harness.messages
    assert log.exists()
    assert harness.children() == []


@pytest.mark.usefixtures("no_patience")
async def test_a_child_that_does_not_answer_is_killed_and_started_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probes, "PROBE_TIMEOUT_S", 0.5)
    harness = Harness(tmp_path, {})

    async with asyncio.TaskGroup() as group:
        running = group.create_task(harness.run(lambda: harness.child_of("chat-small").suspend()))
        await harness.says("chat-small is ready again (restart 1)")
        stop()
        await running
    killed = "chat-small did not answer its health check and was killed"
    assert any(message.startswith(killed) for message in harness.messages), harness.messages


@pytest.mark.usefixtures("no_patience")
async def test_one_child_that_dies_again_and_again_is_left_alone_and_said_to_the_edge(tmp_path: Path) -> None:
    harness = Harness(tmp_path, {"tts-voice": "die"})
    async with asyncio.TaskGroup() as group:
        running = group.create_task(harness.run())
        await harness.says("it ended 5 times within 5 minutes and is not started again; everything else goes on")
        assert len(harness.children()) == len(KINDS)
        workers = Workers()
        async with connected(harness) as bus:
            watch = WorkerWatch(bus, workers)
            await watch.start()
            async with asyncio.timeout(10):
                while workers.state("tts", "voice") != "failed":
                    await asyncio.sleep(0.05)
            await watch.close()
        assert [(one.name, one.state, one.restarts) for one in workers.processes()] == [("tts-voice", "failed", 4)]
        stop()
        await running
    assert harness.children() == []


@pytest.mark.usefixtures("no_patience")
async def test_a_site_ends_with_its_edge(tmp_path: Path) -> None:
    harness = Harness(tmp_path, {"edge": "die"})
    with pytest.raises(CommandError, match=r"edge ended with code 5.*it ended 5 times within 5 minutes") as failure:
        await harness.run()
    assert failure.value.code == ExitCode.CHILD_ENDED
    assert harness.children() == []


@pytest.mark.usefixtures("no_patience")
async def test_a_child_that_a_signal_ends_at_its_first_start_gets_some_more_tries(tmp_path: Path) -> None:
    harness = Harness(tmp_path, {"chat-small": "crash"})
    with pytest.raises(CommandError, match=r"chat-small was ended by SIGKILL.*it ended 5 times") as failure:
        await harness.run()
    assert failure.value.code == ExitCode.CHILD_ENDED
    assert sum("starting it again" in message for message in harness.messages) == 4
    assert not harness.ready.is_set()
    assert harness.children() == []


async def test_a_child_that_is_never_ready_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervision, "READY_TIMEOUT_S", 8.0)
    harness = Harness(tmp_path, {"chat-small": "late"})
    with pytest.raises(CommandError, match=r"not ready within 8 s: chat-small \(logs: ") as failure:
        await harness.run()
    assert failure.value.code == ExitCode.NOT_READY
    assert harness.children() == []


async def test_a_stop_while_starting_leaves_nothing(tmp_path: Path) -> None:
    harness = Harness(tmp_path, {"chat-small": "late"})
    async with asyncio.TaskGroup() as group:
        running = group.create_task(harness.run())
        while len(harness.children()) < len(KINDS) + 1:
            await asyncio.sleep(0.02)
        stop()
        await running
    assert not harness.ready.is_set()
    assert harness.children() == []


async def test_a_child_that_will_not_stop_is_killed_and_named(tmp_path: Path) -> None:
    harness = Harness(tmp_path, {"edge": "stubborn"}, stop_timeout_s=0.5)
    await harness.run(stop)
    assert harness.messages == ["edge did not stop within 0.5 s and was killed"]
    assert harness.children() == []


async def test_a_second_signal_does_not_wait(tmp_path: Path) -> None:
    harness = Harness(tmp_path, {"edge": "stubborn"}, stop_timeout_s=60.0)

    def twice() -> None:
        stop()
        asyncio.get_running_loop().call_later(0.3, stop)

    async with asyncio.timeout(15):
        await harness.run(twice)
    assert harness.children() == []


async def test_only_warnings_reach_the_terminal_and_the_log_has_all(tmp_path: Path) -> None:
    harness = Harness(tmp_path, {"quota": "warn"})
    await harness.run(stop)
    assert harness.messages == [f"quota: loud_event (log: {tmp_path / 'logs' / 'quota.log'})"]
    assert "quiet_event" in harness.log("quota")
    assert "said goodbye" in harness.log("quota")
