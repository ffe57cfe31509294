"""The nats-server of a single machine: its binary, configuration file and environment."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from callboard_cli.failures import CommandError, ExitCode
from callboard_cli.nats import server_config
from callboard_contracts.config import NatsSection
from callboard_kit.bus_credentials import STORE_FOLDER, private_folder, write_private

BINARY = "nats-server"
GO_THREADS = "GOMAXPROCS"
CHECK_TIMEOUT_S = 20.0
EMPTY_INDEX_BYTES = 64
"""More than the index of a stream without messages has."""


def binary() -> Path:
    """Returns the nats-server of this environment, else the one on the PATH; raises CommandError if there is none."""
    # Not the folder of the file that the interpreter links to: a virtual environment has its programs beside the link.
    beside = Path(sys.executable).parent
    found = shutil.which(BINARY, path=str(beside)) or shutil.which(BINARY)
    if found is None:
        raise CommandError(f"nats-server is not installed; it belongs in {beside}", ExitCode.MISSING_PROGRAM)
    return Path(found)


def environment(environ: Mapping[str, str]) -> dict[str, str]:
    """Returns the server's environment: half of the cores, unless the operator sets GOMAXPROCS.

    On two cores it would pass each message from thread to thread, which adds a tenth to the time of a reply.
    """
    return {GO_THREADS: str(max(1, (os.cpu_count() or 2) // 2)), **environ}


def write_configuration(nats: NatsSection, host: str, port: int, folder: Path) -> Path:
    """Writes the server's configuration into a folder, readable for the owner only, and returns its path."""
    private_folder(folder)
    for stale in folder.glob("nats-server_*.ports"):
        stale.unlink()
    _drop_empty_indexes(folder / STORE_FOLDER)
    path = folder / "nats.conf"
    write_private(path, configuration(nats, host, port, folder))
    return path


def _drop_empty_indexes(store: Path) -> None:
    """Drops the indexes of streams that had no message yet; the server makes them anew from the messages.

    With such an index, a server that finds the end of the newest file torn by a power cut takes the stream for empty.
    """
    for index in store.glob("jetstream/*/streams/*/msgs/index.db"):
        if index.stat().st_size <= EMPTY_INDEX_BYTES:
            index.unlink()


def configuration(nats: NatsSection, host: str, port: int, folder: Path) -> str:
    """Returns the text of the server's configuration file."""
    return server_config.configuration(
        server_config.ServerOptions(
            name="callboard",
            listen=f"[{host}]:{port}" if ":" in host else f"{host}:{port}",
            # The monitor uses any free port and writes it into a file in this folder, which `up` reads.
            monitor="127.0.0.1:-1",
            ports_folder=str(folder.absolute()),
            store=str(folder.absolute() / STORE_FOLDER),
            clients_sync=nats.store_dir is not None,
            credentials=nats.credentials,
        )
    )


def check_configuration(server: Path, path: Path) -> None:
    """Lets the server check the file; raises CommandError with its error."""
    try:
        run = subprocess.run(
            [str(server), "-t", "-c", str(path)], capture_output=True, text=True, timeout=CHECK_TIMEOUT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise CommandError(f"{server} does not run: {type(error).__name__}", ExitCode.MISSING_PROGRAM) from None
    if run.returncode:
        lines = (run.stderr or run.stdout).strip().splitlines()
        raise CommandError(f"nats-server refuses {path}: {lines[-1] if lines else 'no reason given'}")


def monitor_port(folder: Path, pid: int) -> int | None:
    """Returns the port of a started server's monitor, or None until the server has written it."""
    try:
        ports = json.loads((folder / f"nats-server_{pid}.ports").read_text(encoding="utf-8"))
        return int(ports["monitoring"][0].rsplit(":", 1)[1])
    except (OSError, ValueError, KeyError, IndexError):
        return None
