"""Modules in processes that are forked off one interpreter which has imported Callboard, so that each starts at once.

What runs is what `python -m MODULE` runs, in a session of its own; only the imports are not made again. Its memory is
shared in part, so what measures memory starts an interpreter instead.
"""

import importlib
import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from multiprocessing.connection import wait
from pathlib import Path

from tests.support.children import Child, die_with_parent, spawner

# No service's metrics: they join the registry where they are imported, and every process would show them.
PRELOADED = (
    "av.filter",
    "callboard_admin.usage_records",
    "callboard_cli.__main__",
    "callboard_edge.app",
    "callboard_worker.runtime",
    "numpy",
    "tests.support.fork_server",
)
FIRST_MODULE = "CALLBOARD_FIRST_MODULE"
"""The environment variable that names a module which a process imports before it begins."""
START_TIMEOUT_S = 120.0

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(list(PRELOADED))
# The library's own table of processes is not made for several threads.
_lock = threading.Lock()


def _run(module: str, arguments: Sequence[str], output: Path, errors: Path, environ: Mapping[str, str] | None) -> None:
    # What came with the fork belongs to the server, the sign that the test run still lives among it.
    os.closerange(3, os.sysconf("SC_OPEN_MAX"))
    die_with_parent()
    os.setsid()
    for number, file in ((1, output), (2, errors)):
        sink = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
        os.dup2(sink, number)
        os.close(sink)
    if environ is not None:
        os.environ.clear()
        os.environ.update(environ)
    sys.argv = [module, *arguments]
    if FIRST_MODULE in os.environ:
        importlib.import_module(os.environ[FIRST_MODULE])
    # The command's own parser was imported as a module, and is run as the program.
    sys.modules.pop(f"{module}.__main__", None)
    runpy.run_module(module, run_name="__main__", alter_sys=True)


class ForkedProcess:
    """A forked process with the methods of `subprocess.Popen`."""

    def __init__(
        self, module: str, arguments: Sequence[str], output: Path, errors: Path, environ: Mapping[str, str] | None
    ) -> None:
        self.argv = [module, *arguments]
        self._process = _context.Process(target=_run, args=(module, arguments, output, errors, environ), daemon=True)
        with _lock:
            self._process.start()
        assert self._process.pid is not None
        self.pid = self._process.pid
        self._code: int | None = None

    @property
    def returncode(self) -> int | None:
        """The exit code, once it was asked for."""
        return self._code

    def poll(self) -> int | None:
        """The exit code, or None while the process runs."""
        with _lock:
            if self._code is None:
                self._code = self._process.exitcode
        return self._code

    def wait(self, timeout: float | None = None) -> int:
        """Waits for the end and returns the exit code; raises TimeoutExpired."""
        wait([self._process.sentinel], timeout)
        code = self.poll()
        if code is None:
            raise subprocess.TimeoutExpired(self.argv, timeout or 0.0)
        return code

    def send_signal(self, sig: int) -> None:
        """Sends a signal unless the process has ended."""
        if self.poll() is None:
            os.kill(self.pid, sig)


class ForkedChild(Child):
    """`python -m module`, forked; its output, and its errors unless they have a file of their own, go to a file."""

    def __init__(
        self,
        module: str,
        arguments: Sequence[str],
        log: Path,
        environ: Mapping[str, str] | None = None,
        errors: Path | None = None,
    ) -> None:
        log.touch()
        # Its thread may block, even while the caller's runs an event loop.
        started = spawner.submit(ForkedProcess, module, arguments, log, errors or log, environ)
        super().__init__([module, *arguments], log, process=started.result(START_TIMEOUT_S))


def run_forked(
    module: str, arguments: Sequence[str], timeout_s: float, environ: Mapping[str, str] | None = None
) -> "subprocess.CompletedProcess[str]":
    """Runs a module to its end and returns what it printed; raises TimeoutExpired."""
    with tempfile.TemporaryDirectory() as folder:
        output, errors = Path(folder, "output"), Path(folder, "errors")
        child = ForkedChild(module, arguments, output, environ, errors)
        try:
            code = child.wait(timeout_s)
        finally:
            child.kill()
        return subprocess.CompletedProcess(child.argv, code, child.output(), errors.read_text(encoding="utf-8"))
