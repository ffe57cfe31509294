"""Programs of other projects: where their packages lie, how they are started and what they use."""

import os
import sys
import urllib.request
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import psutil

from tests.support.children import Child, wait_until

START_TIMEOUT_S = 120.0


class NotThereError(Exception):
    """What is to be compared is not installed, or does not work here."""


def told(step: str) -> None:
    """Says on standard error what is done now, since a comparison takes minutes."""
    sys.stderr.write(f"{step}\n")


def python_program(site: Path) -> list[str]:
    """The start of a command line that runs a module out of such a folder; raises NotThereError."""
    if not site.is_dir():
        raise NotThereError(f"{site.name} is not installed")
    return [sys.executable]


def environ(folder: Path, **more: str) -> dict[str, str]:
    """An environment without what this run's own has, and with its home where it may write."""
    return {"PATH": os.environ["PATH"], "HOME": str(folder), "TMPDIR": str(folder), "LANG": "C.UTF-8", **more}


def version_of(site: Path, package: str) -> str:
    """The version of a package that pip put into a folder."""
    for found in site.glob("*.dist-info"):
        name, _, version = found.name.removesuffix(".dist-info").rpartition("-")
        if name.replace("_", "-").lower() == package:
            return version
    return "unknown"


def start(name: str, argv: Sequence[str], log: Path, variables: Mapping[str, str], ready: str) -> Child:
    """Starts a server and waits until an address of it answers; raises NotThereError."""
    told(f"starting {name}")
    child = Child(argv, log, variables)

    def answers() -> bool:
        if not child.alive:
            raise NotThereError(f"{name} ended at its start")
        try:
            with urllib.request.urlopen(ready, timeout=2) as reply:
                return reply.status == 200
        except OSError:
            return False

    try:
        wait_until(answers, START_TIMEOUT_S, f"{name} listens", interval_s=0.2)
    except (TimeoutError, NotThereError) as error:
        end(child)
        sys.stderr.write(f"{name}: {child.output()[-2000:]}\n")
        raise NotThereError(str(error)) from error
    return child


def _families(children: Sequence[Child]) -> list[psutil.Process]:
    found: list[psutil.Process] = []
    for child in children:
        process = psutil.Process(child.pid)
        found += [process, *process.children(recursive=True)]
    return found


def cpu_s(children: Sequence[Child]) -> float:
    """The processor time that processes and those that they started have used."""
    used_s = 0.0
    for process in _families(children):
        with suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            used_s += times.user + times.system
    return used_s


def resident_mb(children: Sequence[Child]) -> float:
    """The resident memory of processes and those that they started, in millions of bytes."""
    held = 0
    for process in _families(children):
        with suppress(psutil.NoSuchProcess):
            held += process.memory_info().rss
    return held / 1e6


def end(child: Child) -> None:
    """Stops a process, and kills what it started and left behind."""
    family = _families([child]) if child.alive else []
    child.stop(timeout_s=5)
    for process in family:
        with suppress(psutil.NoSuchProcess):
            process.kill()
