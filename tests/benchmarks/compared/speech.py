"""Callboard's speech and other servers of Kokoro with the same model file, in turn."""

import http.client
import json
import math
import os
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from tests.benchmarks.compared.others import (
    NotThereError,
    cpu_s,
    end,
    environ,
    python_program,
    resident_mb,
    start,
    told,
    version_of,
)
from tests.benchmarks.figures import table_of
from tests.benchmarks.machine import package_version
from tests.benchmarks.speech_cost import BYTES_PER_SECOND, PARAGRAPH, REST_S, SHORT_LINE
from tests.support.children import Child
from tests.support.deployment import Deployment
from tests.support.models import SPEECH_MODEL, VOICE, built_in_config, missing_model_files, model_file
from tests.support.ports import free_port

ANSWER_TIMEOUT_S = 180.0
QUIET_SHARE, QUIET_S, QUIET_TIMEOUT_S = 0.1, 0.6, 60.0
"""A server is done when it used less of a core than that for so long."""
TIMES_LONGER = 3
QUICK_TEXT = SHORT_LINE
NOTES = f"""\
The same Kokoro file (int8) and voice through Callboard with one slot, through fastkokoro (an OpenAI-compatible server
of Kokoro, with its own way of cutting a text into sentences), and through kokoro-onnx's own stream behind forty lines
of server. fastkokoro has a model file of its own that is in no package, so it runs on this one, which its authors did
not tune for it. All are asked for PCM, in turn: a text of {len(PARAGRAPH)} characters alone and twice at once, then
one {TIMES_LONGER} times as long whose client hangs up at the first byte. The real-time factor is the time for the whole
text by the length of its sound; the time after the hang-up is the processor's for a text that nobody hears any more.
Callboard holds the first sound of one of several texts back until the rest will not come too late; the silence in the
middle is what a client that plays from the first byte on hears where a server does not.
"""


@dataclass(frozen=True, slots=True)
class Heard:
    """One speech as its client got it."""

    first_s: float
    whole_s: float
    audio_s: float
    silent_s: float
    """How long it is silent in the middle for who plays it from the first byte on."""


@dataclass(slots=True)
class Server:
    """A server of speech and what was measured of it."""

    name: str
    port: int
    processes: Sequence[Child]
    asked: dict[str, Any]
    key: str = "none"
    alone: list[Heard] = field(default_factory=list[Heard])
    together: list[list[Heard]] = field(default_factory=list[list[Heard]])
    unheard_s: float = 0.0

    def row(self) -> list[str]:
        """Its row in the table."""
        pairs = [(min(one.first_s for one in pair), max(one.first_s for one in pair)) for pair in self.together]
        rates = [max(one.whole_s for one in pair) / sum(one.audio_s for one in pair) for pair in self.together]
        return [
            self.name,
            f"{median(one.first_s for one in self.alone):.2f}",
            f"{median(one.whole_s / one.audio_s for one in self.alone):.2f}",
            f"{median(first for first, _ in pairs):.2f}",
            f"{median(second for _, second in pairs):.2f}",
            f"{median(max(one.silent_s for one in pair) for pair in self.together):.2f}",
            f"{median(rates):.2f}",
            f"{self.unheard_s:.1f}",
            f"{resident_mb(self.processes):,.0f}",
        ]


HEAD = (
    "server",
    "first byte s",
    "real-time factor",
    "two at once: first byte of one, s",
    "of the other, s",
    "silence in the middle of one, s",
    "real-time factor of both",
    "processor s after the hang-up",
    "memory MB",
)


def measure(folder: Path, packages: Path, *, quick: bool) -> list[str]:
    """The lines of the section; starts everything and stops it again."""
    if missing := missing_model_files():
        return [f"Not measured: model files missing: {', '.join(missing)}."]
    voices = folder / "voices.npz"
    styles = np.fromfile(model_file("tts.voices_file") / f"{VOICE}.bin", np.float32).reshape(-1, 1, 256)
    named: dict[str, Any] = {VOICE: styles}
    np.savez(voices, **named)
    left_out: list[str] = []
    with ExitStack() as stack:
        servers = [_callboard(stack, folder / "speech")]
        for begin in (_fastkokoro, _kokoro_onnx):
            try:
                server = begin(packages, folder, voices)
            except NotThereError as error:
                left_out.append(str(error))
                continue
            stack.callback(end, server.processes[0])
            servers.append(server)
        _measure(servers, QUICK_TEXT if quick else PARAGRAPH, rounds=1 if quick else 2)
        lines = table_of([HEAD, *(server.row() for server in servers)])
    return [*lines, *(f"\nNot measured: {text}." for text in left_out)]


def _callboard(stack: ExitStack, folder: Path) -> Server:
    deployment = Deployment(folder, built_in_config(), sync="processes", log_level="info")
    stack.callback(deployment.abandon)
    deployment.start(chats=0)
    port = int(deployment.edges[0].config["edge"]["port"])
    processes = list(deployment.children.values())
    return Server("Callboard", port, processes, {"model": SPEECH_MODEL}, deployment.create_key("standard"))


def _fastkokoro(packages: Path, folder: Path, voices: Path) -> Server:
    site, port = packages / "fastkokoro", free_port()
    program = python_program(site)
    variables = environ(
        folder,
        PYTHONPATH=str(site),
        FASTKOKORO_MODEL_PATH=str(model_file("tts.model_file")),
        FASTKOKORO_VOICES_PATH=str(voices),
        FASTKOKORO_HOST="127.0.0.1",
        FASTKOKORO_PORT=str(port),
        HF_HUB_OFFLINE="1",
        **_blas(),
    )
    argv = [*program, "-c", "from fastkokoro.cli import main; main()"]
    child = start("fastkokoro", argv, folder / "fastkokoro.log", variables, f"http://127.0.0.1:{port}/health")
    name = f"fastkokoro {version_of(site, 'fastkokoro')}"
    return Server(name, port, [child], {"model": "kokoro", "stream": True})


def _kokoro_onnx(packages: Path, folder: Path, voices: Path) -> Server:
    del packages
    port, module = free_port(), "tests.benchmarks.compared.kokoro_server"
    argv = [sys.executable, "-m", module, str(port), str(model_file("tts.model_file")), str(voices)]
    child = start("kokoro-onnx", argv, folder / "kokoro-onnx.log", os.environ, f"http://127.0.0.1:{port}/health")
    return Server(f"kokoro-onnx {package_version('kokoro-onnx')}, its own stream", port, [child], {})


def _blas() -> dict[str, str]:
    """What tells numpy's library which kernels work on this processor, where the machine says so."""
    return {name: value for name, value in os.environ.items() if name.startswith("OPENBLAS_")}


def _measure(servers: Sequence[Server], text: str, rounds: int) -> None:
    for server in servers:
        _hear(server, text)
    for number in range(rounds):
        told(f"speech, round {number + 1} of {rounds}")
        # Each is first in turn, since the threads of one keep the processor busy for a while after its work.
        order = [*servers[number % len(servers) :], *servers[: number % len(servers)]]
        for server in order:
            time.sleep(REST_S)
            server.alone.append(_hear(server, text))
        for server in order:
            time.sleep(REST_S)
            server.together.append(_both(lambda server=server: _hear(server, text)))
    for server in servers:
        told(f"hanging up on {server.name}")
        server.unheard_s = _unheard_s(server, text * TIMES_LONGER)


def _ask(server: Server, text: str) -> tuple[float, http.client.HTTPConnection, http.client.HTTPResponse]:
    body = json.dumps({**server.asked, "voice": VOICE, "input": text, "response_format": "pcm"})
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=ANSWER_TIMEOUT_S)
    headers = {"Authorization": f"Bearer {server.key}", "Content-Type": "application/json"}
    begun = time.monotonic()
    connection.request("POST", "/v1/audio/speech", body, headers)
    reply = connection.getresponse()
    if reply.status != 200:
        raise RuntimeError(f"{server.name}: {reply.status}: {reply.read()[:500]!r}")
    return begun, connection, reply


def _hear(server: Server, text: str) -> Heard:
    begun, connection, reply = _ask(server, text)
    first_s, size, silent_s, dry_at = 0.0, 0, 0.0, math.inf
    while part := reply.read1(65_536):
        now = time.monotonic()
        first_s = first_s or now - begun
        silent_s += max(0.0, now - dry_at)
        dry_at = (now if dry_at == math.inf else max(dry_at, now)) + len(part) / BYTES_PER_SECOND
        size += len(part)
    whole_s = time.monotonic() - begun
    connection.close()
    if not size:
        raise RuntimeError(f"{server.name} sent no sound")
    return Heard(first_s, whole_s, size / BYTES_PER_SECOND, silent_s)


def _both(hear: Callable[[], Heard]) -> list[Heard]:
    """Asks twice at once."""
    found: list[Heard] = []
    threads = [threading.Thread(target=lambda: found.append(hear())) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(2 * ANSWER_TIMEOUT_S)
    if len(found) != 2:
        raise RuntimeError("one of two speeches failed")
    return found


def _unheard_s(server: Server, text: str) -> float:
    """The processor time that a server spends after its client has hung up, until it is quiet."""
    _, connection, reply = _ask(server, text)
    reply.read1(2)
    connection.close()
    reply.close()
    begun_s = last_s = cpu_s(server.processes)
    until = time.monotonic() + QUIET_TIMEOUT_S
    while time.monotonic() < until:
        time.sleep(QUIET_S)
        now_s = cpu_s(server.processes)
        if now_s - last_s < QUIET_SHARE * QUIET_S:
            return last_s - begun_s
        last_s = now_s
    return last_s - begun_s
