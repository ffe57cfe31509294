"""The nats-server of a single machine: its binary and its configuration file."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from callboard_cli.failures import CommandError, ExitCode
from callboard_contracts.config import NatsSection

BINARY = "nats-server"
GO_THREADS = "GOMAXPROCS"
CHECK_TIMEOUT_S = 20.0


def binary() -> Path:
    """The nats-server of this environment, else the one on the PATH; raises CommandError where there is none."""
    # The interpreter's own folder, not that of the file it links to: a virtual environment's programs lie beside it.
    beside = Path(sys.executable).parent
    found = shutil.which(BINARY, path=str(beside)) or shutil.which(BINARY)
    if found is None:
        raise CommandError(f"nats-server is not installed; it belongs in {beside}", ExitCode.MISSING_PROGRAM)
    return Path(found)


def environment(environ: Mapping[str, str]) -> dict[str, str]:
    """The server's environment: half of the cores are its own, unless the operator says otherwise.

    On two cores it would hand each message from thread to thread, which costs a reply a tenth of its time.
    """
    return {GO_THREADS: str(max(1, (os.cpu_count() or 2) // 2)), **environ}


def write_configuration(nats: NatsSection, host: str, port: int, folder: Path) -> Path:
    """Writes the server's configuration into a folder and returns its path; only the owner can read it."""
    folder.mkdir(parents=True, exist_ok=True)
    for stale in folder.glob("nats-server_*.ports"):
        stale.unlink()
    path = folder / "nats.conf"
    path.touch(mode=0o600)
    path.write_text(configuration(nats, host, port, folder), encoding="utf-8")
    return path


def configuration(nats: NatsSection, host: str, port: int, folder: Path) -> str:
    """The text of the server's configuration file."""
    lines = [
        "server_name: callboard",
        f"listen: {_text(f'[{host}]:{port}' if ':' in host else f'{host}:{port}')}",
        # The monitor takes any free port and writes it into the folder, where `up` reads it.
        'http: "127.0.0.1:-1"',
        f"ports_file_dir: {_text(str(folder.absolute()))}",
        "jetstream {",
        f"  store_dir: {_text(str((folder / 'store').absolute()))}",
        "  max_mem: 1G",
        "  max_file: 16G",
        # A single node: what is acknowledged is on the disk.
        "  sync_interval: always",
        "}",
        # Flow control of acknowledgements, version 2, is not yet to be relied on.
        "feature_flags { js_ack_fc_v2: false }",
    ]
    if nats.user is not None and nats.password is not None:
        lines.append(
            f"authorization {{ user: {_text(nats.user)}, password: {_text(nats.password.get_secret_value())} }}"
        )
    return "\n".join(lines) + "\n"


def check_configuration(server: Path, path: Path) -> None:
    """Has the server itself read the file; raises CommandError with its complaint."""
    try:
        tried = subprocess.run(
            [str(server), "-t", "-c", str(path)], capture_output=True, text=True, timeout=CHECK_TIMEOUT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise CommandError(f"{server} does not run: {type(error).__name__}", ExitCode.MISSING_PROGRAM) from None
    if tried.returncode:
        said = (tried.stderr or tried.stdout).strip().splitlines()
        raise CommandError(f"nats-server refuses {path}: {said[-1] if said else 'no reason given'}")


def monitor_port(folder: Path, pid: int) -> int | None:
    """The port of a started server's monitor, or None while it has not written it yet."""
    try:
        opened = json.loads((folder / f"nats-server_{pid}.ports").read_text(encoding="utf-8"))
        return int(opened["monitoring"][0].rsplit(":", 1)[1])
    except (OSError, ValueError, KeyError, IndexError):
        return None


def _text(value: str) -> str:
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
