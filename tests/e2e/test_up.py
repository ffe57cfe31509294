"""`callboard up` as a user runs it: a real process, real signals, and what is left afterwards."""

import asyncio
import contextlib
import os
import shlex
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Generator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import httpx
import openai
import psutil
import pytest

from callboard_cli.failures import ExitCode
from callboard_contracts.config import NatsSection
from callboard_kit.bus import Bus, BusUnavailable
from tests.support.children import Child, wait_until
from tests.support.models import missing_model_files, model_file
from tests.support.ports import free_port
from tests.support.processes import Table, merged, toml_text

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(400)]

READY_S = 60.0
CALLBOARD = [sys.executable, "-m", "callboard_cli"]
FAKES: Table = {
    "chat": {"pools": {"stage": {"backend": "fake"}}, "models": {"owl": {"pool": "stage"}}},
    "tts": {"pools": {"booth": {"backend": "fake"}}, "models": {"parrot": {"pool": "booth"}}},
}


class Up:
    """One `callboard up`: its output, and the processes that belong to it."""

    def __init__(
        self,
        folder: Path,
        settings: Table | None,
        prefix: Sequence[str] = (),
        options: Sequence[str] = (),
        environ: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.edge_port = free_port()
        self.bus_url = f"nats://127.0.0.1:{free_port()}"
        self._environ = {
            **os.environ,
            "CALLBOARD__EDGE__PORT": str(self.edge_port),
            "CALLBOARD__EDGE__METRICS_PORT": "0",
            "CALLBOARD__QUOTA__METRICS_PORT": "0",
            "CALLBOARD__NATS__URL": self.bus_url,
            "CALLBOARD__SITE__DATA_DIR": str(folder / "var"),
            "PYTHONUNBUFFERED": "1",
            **environ,
        }
        arguments: list[str] = []
        if settings is not None:
            file = folder / "callboard.toml"
            file.write_text(toml_text(settings))
            arguments = ["--config", str(file)]
        log = folder / "up.log"
        # A second one in the same folder writes on behind the first.
        self._before = len(log.read_text()) if log.exists() else 0
        self.child = Child([*prefix, *CALLBOARD, *arguments, "up", *options], log, self._environ)
        self._seen: dict[int, psutil.Process] = {}

    def wait_ready(self) -> str:
        """Waits for the banner and returns it."""
        wait_until(self._settled, READY_S, "up is ready")
        assert self.child.alive, self.output()
        for process in psutil.Process(self.child.pid).children(recursive=True):
            self._seen[process.pid] = process
        return self.output()

    def _settled(self) -> bool:
        return "Ctrl-C stops" in self.output() or not self.child.alive

    def command(self, *arguments: str) -> str:
        """Runs another command against it and returns what that printed."""
        argv = [*CALLBOARD, *arguments]
        tried = subprocess.run(argv, env=self._environ, capture_output=True, text=True, timeout=30, check=True)
        return tried.stdout

    def output(self) -> str:
        """What it printed."""
        return self.child.output()[self._before :]

    def part(self, word: str) -> psutil.Process:
        """The child whose command line holds a word."""
        return next(p for p in self._seen.values() if p.is_running() and any(word in part for part in p.cmdline()))

    def wait_part(self, word: str) -> psutil.Process:
        """Waits for a child whose command line holds a word, also one that was started later."""

        def found() -> bool:
            for process in psutil.Process(self.child.pid).children(recursive=True):
                self._seen.setdefault(process.pid, process)
            return any(word in part for one in self.left() for part in one.cmdline())

        wait_until(found, READY_S, f"{word} runs")
        return self.part(word)

    def readyz(self) -> dict[str, Any]:
        """What the edge says of its readiness; nothing while it does not answer."""
        try:
            return httpx.get(f"http://127.0.0.1:{self.edge_port}/readyz", timeout=5).json()
        except httpx.HTTPError:
            return {"status": "no answer"}

    def chat(self) -> httpx.Response:
        """A short chat."""
        return self.post("/v1/chat/completions", {"model": "owl", "messages": [{"role": "user", "content": "Hello."}]})

    def post(self, path: str, body: Table, headers: Mapping[str, str] = MappingProxyType({})) -> httpx.Response:
        """Sends a request and returns the response."""
        url = f"http://127.0.0.1:{self.edge_port}{path}"
        return httpx.post(url, json=body, headers=dict(headers), timeout=60)

    def left(self) -> list[psutil.Process]:
        """Those of its processes that still run."""
        return [p for p in self._seen.values() if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]

    def abandon(self) -> None:
        """Leaves nothing behind, whatever the test did."""
        self.child.kill()
        for process in self.left():
            process.kill()


@pytest.fixture
def ups(tmp_path: Path) -> Generator[list[Up]]:
    started: list[Up] = []
    yield started
    for up in started:
        up.abandon()


def start(ups: list[Up], tmp_path: Path, settings: Table | None = FAKES) -> Up:
    up = Up(tmp_path / f"up-{len(ups)}", settings)
    ups.append(up)
    return up


def test_a_signal_stops_everything_and_it_starts_again_on_the_same_store(tmp_path: Path, ups: list[Up]) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        up = Up(tmp_path, FAKES)
        ups.append(up)
        up.wait_ready()
        assert len(up.left()) == 6
        up.child.signal(number)
        assert up.child.wait(30) == ExitCode.OK
        assert up.left() == []
        assert up.output().endswith("callboard: stopped\n")
        assert "Traceback" not in up.output()


def test_a_taken_port_is_one_line(tmp_path: Path, ups: list[Up]) -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen(1)
        port = holder.getsockname()[1]
        file = tmp_path / "callboard.toml"
        file.write_text(toml_text(merged(FAKES, {"edge": {"port": port}, "site": {"data_dir": str(tmp_path / "var")}})))
        tried = subprocess.run(
            [*CALLBOARD, "--config", str(file), "up"], capture_output=True, text=True, timeout=30, check=False
        )
    assert ups == []
    assert tried.returncode == ExitCode.PORT_TAKEN
    assert tried.stderr == f"callboard: edge.port: port {port} on 127.0.0.1 cannot be used: address already in use\n"
    assert tried.stdout == ""


def test_a_store_in_use_is_one_line(tmp_path: Path, ups: list[Up]) -> None:
    first = start(ups, tmp_path)
    first.wait_ready()
    tried = subprocess.run(
        [*CALLBOARD, "--config", str(first.folder / "callboard.toml"), "up"],
        env={**os.environ, "CALLBOARD__SITE__DATA_DIR": str(first.folder / "var")},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert tried.returncode == ExitCode.STORE_LOCKED
    expected = (
        f"callboard: {first.folder / 'var'} is in use by process {first.child.pid}; stop it or set site.data_dir\n"
    )
    assert tried.stderr == expected
    assert first.child.alive


def test_a_killed_child_is_started_again_and_the_site_serves(tmp_path: Path, ups: list[Up]) -> None:
    up = start(ups, tmp_path)
    up.wait_ready()

    def comes_back(victim: str, name: str) -> None:
        up.part(victim).kill()
        wait_until(lambda: f"callboard: {name} is ready again (restart 1)\n" in up.output(), READY_S, f"{name} is back")
        assert f"callboard: {name} was ended by SIGKILL" in up.output()
        running = {"state": "running", "restarts": 1}
        wait_until(lambda: up.readyz().get("processes", {}).get(name) == running, 20, f"{name} is told")
        wait_until(lambda: up.readyz()["status"] == "ready", 20, "the edge is ready")
        assert up.chat().status_code == 200

    comes_back("callboard_chat", "chat-stage")
    comes_back("callboard_edge", "edge")
    comes_back("callboard_quota", "quota")
    comes_back("nats-server", "nats")
    up.child.signal(signal.SIGTERM)
    assert up.child.wait(30) == ExitCode.OK
    assert "Traceback" not in up.output()


def test_a_child_that_dies_too_often_is_given_up_alone(tmp_path: Path, ups: list[Up]) -> None:
    up = start(ups, tmp_path)
    up.wait_ready()
    for _ in range(5):
        up.wait_part("callboard_chat").kill()
    wait_until(lambda: "is not started again; everything else goes on" in up.output(), READY_S, "it is given up")
    wait_until(lambda: up.readyz()["pools"]["chat/stage"] == "failed", 30, "the edge says so")
    readiness = up.readyz()
    assert readiness["status"] == "degraded"
    assert readiness["processes"] == {"chat-stage": {"state": "failed", "restarts": 4}}
    refused = up.chat()
    assert refused.status_code == 503
    assert refused.json()["error"]["code"] == "no_worker"
    speech = up.post("/v1/audio/speech", {"model": "parrot", "input": "Hello.", "response_format": "wav"})
    assert speech.status_code == 200
    assert speech.content.startswith(b"RIFF")


def test_a_client_without_credentials_is_refused_and_commands_have_them(tmp_path: Path, ups: list[Up]) -> None:
    up = start(ups, tmp_path)
    up.wait_ready()
    folder = up.folder / "var" / "nats"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert stat.S_IMODE((up.folder / "var" / "logs").stat().st_mode) == 0o700
    secrets = (folder / "password", folder / "nats.conf")
    assert [stat.S_IMODE(file.stat().st_mode) for file in secrets] == [0o600, 0o600]
    password = (folder / "password").read_text()
    assert len(password) >= 32
    assert all(password not in part for process in up.left() for part in process.cmdline())

    async def connect(**credentials: str) -> None:
        bus = await Bus.connect(NatsSection.model_validate({"url": up.bus_url, **credentials}), "test", lambda: None)
        await bus.close()

    for credentials in ({}, {"user": "callboard", "password": "guessed"}):
        with pytest.raises(BusUnavailable, match="authorization refused"):
            asyncio.run(connect(**credentials))
    asyncio.run(connect(user="callboard", password=password))
    assert up.command("keys", "create", "--name", "me").startswith("cb_")
    assert "me" in up.command("keys", "list")
    assert up.command("usage", "show").startswith("TENANT")
    up.child.signal(signal.SIGTERM)
    assert up.child.wait(30) == ExitCode.OK
    folder.chmod(0o755)
    (folder / "password").chmod(0o644)
    second = Up(up.folder, FAKES)
    ups.append(second)
    second.wait_ready()
    assert (folder / "password").read_text() == password
    assert [stat.S_IMODE(path.stat().st_mode) for path in (folder, *secrets)] == [0o700, 0o600, 0o600]


def test_a_damaged_store_is_said_at_the_start(tmp_path: Path, ups: list[Up]) -> None:
    up = start(ups, tmp_path)
    up.wait_ready()
    assert up.chat().status_code == 200
    up.child.signal(signal.SIGTERM)
    assert up.child.wait(30) == ExitCode.OK
    streams = up.folder / "var" / "nats" / "store" / "jetstream" / "$G" / "streams"
    (streams / "QUOTA" / "meta.inf").write_bytes(b"")
    os.truncate(streams / "USAGE" / "msgs" / "1.blk", 0)
    second = Up(up.folder, FAKES)
    ups.append(second)
    second.wait_ready()
    assert "callboard: nats: the description of the stream QUOTA could not be read and is made anew" in second.output()
    assert "callboard: nats: the stream USAGE has lost 1 of its 1 messages" in second.output()
    assert second.chat().status_code == 200
    # A chat before the damage and one after it: the counters of QUOTA are still there.
    assert " 26\n" in second.command("usage", "show")


DISK = "unshare -Urm sh -c 'mkdir -p {0} && mount -t tmpfs -o size=300m tmpfs {0} && exec \"$@\"' -"
"""Runs a command with a small disk of its own at a path."""


def fill(path: Path) -> None:
    """Writes a file until its disk is full."""
    with path.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(b"0" * 65536)


def test_a_full_disk_is_said_and_passes_by_itself(tmp_path: Path, ups: list[Up]) -> None:
    if subprocess.run(["unshare", "-Urm", "true"], capture_output=True, timeout=10, check=False).returncode:
        pytest.skip("this system allows no mounts in namespaces")
    folder = tmp_path / "up"
    up = Up(folder, FAKES, shlex.split(DISK.format(shlex.quote(str(folder / "var")))))
    ups.append(up)
    up.wait_ready()
    assert up.chat().status_code == 200
    filler = Path(f"/proc/{up.child.pid}/root") / str(folder / "var" / "filler").lstrip("/")
    fill(filler)
    wait_until(lambda: up.readyz()["status"] == "not ready", 60, "the edge says that the store fails", interval_s=0.2)
    assert "store" in up.readyz()["reason"]
    wait_until(lambda: "is full, so no request is accepted until there is space" in up.output(), 30, "up says so")
    # What is left of blocks that are in use takes a few messages more.
    wait_until(lambda: up.chat().status_code == 503, 60, "requests are refused")
    filler.unlink()
    wait_until(lambda: "callboard: nats is ready again (restart 1)" in up.output(), 60, "the bus is started again")
    wait_until(lambda: up.readyz()["status"] == "ready", 60, "the edge is ready again", interval_s=0.2)
    assert up.chat().status_code == 200
    assert "was stopped, because its store failed" in up.output()
    up.child.signal(signal.SIGTERM)
    assert up.child.wait(30) == ExitCode.OK


def test_a_child_that_cannot_start_is_named(tmp_path: Path, ups: list[Up]) -> None:
    pool = {"backend": "llamacpp", "model_file": str(tmp_path / "no-such.gguf")}
    up = start(ups, tmp_path, merged(FAKES, {"chat": {"pools": {"stage": pool}}}))
    assert up.child.wait(60) == ExitCode.CHILD_ENDED
    last = up.output().splitlines()[-1]
    assert last.startswith("callboard: chat-stage ended with code 1: callboard chat: ")
    assert "no-such.gguf" in last
    assert "Traceback" not in up.output()


def test_children_end_with_a_supervisor_that_is_killed(tmp_path: Path, ups: list[Up]) -> None:
    up = start(ups, tmp_path)
    up.wait_ready()
    up.child.kill()
    wait_until(lambda: not up.left(), 10, "every child is gone")
    assert up.left() == []


@pytest.mark.slow
@pytest.mark.skipif(bool(missing_model_files()), reason=f"model files missing: {', '.join(missing_model_files())}")
def test_the_printed_examples_work_as_they_stand(tmp_path: Path, ups: list[Up]) -> None:
    up = start(ups, tmp_path, None)
    banner = up.wait_ready()
    commands = [shlex.split(line) for line in banner.splitlines() if line.startswith("    curl ")]
    assert len(commands) == 2
    chat, speech = (
        subprocess.run([*command, "-sS", "-m", "60"], cwd=tmp_path, capture_output=True, timeout=90, check=True)
        for command in commands
    )
    assert chat.stdout.count(b"data: {") > 2
    assert chat.stdout.endswith(b"data: [DONE]\n\n")
    assert speech.stdout == b""
    voice = (tmp_path / "places.mp3").read_bytes()
    assert len(voice) > 10_000
    assert voice[:2] in {b"\xff\xf3", b"\xff\xfb", b"ID"}
    docs = next(line.strip() for line in banner.splitlines() if line.endswith("/docs"))
    page = subprocess.run(["curl", "-sSf", "-m", "10", docs], capture_output=True, timeout=20, check=True)
    assert page.stdout.lower().startswith(b"<!doctype html")
    for key in ("none", up.command("keys", "create", "--name", "me").strip()):
        with openai.OpenAI(base_url=f"http://127.0.0.1:{up.edge_port}/v1", api_key=key, max_retries=0) as client:
            # The recogniser is offered where its files are.
            assert {model.id for model in client.models.list()} - {"whisper"} == {"smollm2", "kokoro"}
            question: Any = [{"role": "user", "content": "Say yes."}]
            spoken = client.post("/audio/speech", body={"input": "Hello.", "voice": "alloy"}, cast_to=httpx.Response)
            assert spoken.status_code == 200
            reply = client.chat.completions.create(model="smollm2", messages=question, max_tokens=8)
            assert reply.choices[0].message.content
    up.child.signal(signal.SIGINT)
    assert up.child.wait(60) == ExitCode.OK
    assert up.left() == []


@pytest.mark.slow
@pytest.mark.skipif(bool(missing_model_files()), reason=f"model files missing: {', '.join(missing_model_files())}")
def test_a_folder_with_one_model_is_served_as_its_launch_variables_say(tmp_path: Path, ups: list[Up]) -> None:
    models = tmp_path / "models"
    models.mkdir()
    (models / "Owl-135M-Q4_1.gguf").symlink_to(model_file("chat.model_file"))
    flags = "--contextsize 1024 --threads 2 --multiuser 5 --password sesame --quiet --gpulayers 99 --warp 9"
    environ = {"KCPP_ARGS": flags, "LLAMA_ARG_N_PARALLEL": "1", "CALLBOARD_MODEL_DIR": str(models)}
    for key in ("sesame", "open sesame"):
        environ["KCPP_ARGS"] = shlex.join(shlex.split(flags)).replace("sesame", shlex.quote(key))
        up = Up(tmp_path / "site", None, options=("--container", "--models", str(models)), environ=environ)
        ups.append(up)
        up.wait_ready()
        assert "callboard: without effect here: --warp of KCPP_ARGS\n" in up.output()
        assert "callboard: serving Owl-135M-Q4_1.gguf as owl-135m, 1 replies at once of 1024 tokens each" in up.output()
        assert "callboard: no speech: " in up.output()
        body: Table = {"messages": [{"role": "user", "content": "Say yes."}], "max_tokens": 8}
        for wrong in ({}, {"Authorization": "Bearer guess"}):
            assert up.post("/v1/chat/completions", body, wrong).status_code == 401
        reply = up.post("/v1/chat/completions", body, {"Authorization": f"Bearer {key}"})
        assert reply.status_code == 200, reply.text
        assert reply.json()["model"] == "owl-135m"
        listed = [line.split() for line in up.command("keys", "list").splitlines()]
        assert [line[-1] for line in listed if line[1] == "password"].count("active") == 1
        up.child.signal(signal.SIGTERM)
        assert up.child.wait(60) == ExitCode.OK
        assert up.left() == []
    assert "sesame" not in (tmp_path / "site" / "var" / "one-model.toml").read_text()
