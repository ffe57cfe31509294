"""Child processes that never outlive the test run."""

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Protocol

PR_SET_PDEATHSIG = 1
STOP_TIMEOUT_S = 20.0

# The kernel sends the death signal when the *thread* that forked ends, so one thread that lives as long as the test
# run starts every child.
spawner = ThreadPoolExecutor(max_workers=1, thread_name_prefix="spawner")
_libc = ctypes.CDLL(None) if sys.platform == "linux" else None


def die_with_parent() -> None:
    """Has the kernel kill this process when the one that started it ends."""
    if _libc is not None:
        _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def _popen(argv: Sequence[str], environ: Mapping[str, str] | None, log: Path) -> subprocess.Popen[bytes]:
    with log.open("ab") as sink:
        return subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=sink,
            env=None if environ is None else dict(environ),
            start_new_session=True,
            preexec_fn=die_with_parent,
        )


class Process(Protocol):
    """What a test does with a process, in the words of `subprocess.Popen`."""

    pid: int

    @property
    def returncode(self) -> int | None: ...

    def poll(self) -> int | None: ...

    def wait(self, timeout: float | None = None) -> int: ...

    def send_signal(self, sig: int) -> None: ...


class Child:
    """One child process whose output goes to a file."""

    def __init__(
        self,
        argv: Sequence[str],
        log: Path,
        environ: Mapping[str, str] | None = None,
        process: Process | None = None,
    ) -> None:
        self.argv = list(argv)
        self.log = log
        self.process: Process = process or spawner.submit(_popen, self.argv, environ, log).result(timeout=30)
        self.pid = self.process.pid

    @property
    def alive(self) -> bool:
        """Whether the process still runs."""
        return self.process.poll() is None

    @property
    def resident_mb(self) -> float:
        """The process's resident memory, in millions of bytes."""
        pages = int(Path(f"/proc/{self.pid}/statm").read_text(encoding="ascii").split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 1e6

    @property
    def cpu_s(self) -> float:
        """The processor time that the process has used, in user and system mode."""
        fields = Path(f"/proc/{self.pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def signal(self, number: signal.Signals) -> None:
        """Sends a signal if the process still runs."""
        if self.alive:
            self.process.send_signal(number)

    def wait(self, timeout_s: float = STOP_TIMEOUT_S) -> int:
        """Waits for the end and returns the exit code; raises TimeoutExpired."""
        return self.process.wait(timeout_s)

    def kill(self) -> None:
        """Ends the process at once, as a crash would."""
        self.signal(signal.SIGKILL)
        self.process.wait(STOP_TIMEOUT_S)

    def stop(self, timeout_s: float = STOP_TIMEOUT_S) -> int:
        """Asks the process to stop and returns its exit code; one that does not stop is killed and -9 returned."""
        self.signal(signal.SIGTERM)
        try:
            return self.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.kill()
            return -signal.SIGKILL

    def output(self) -> str:
        """What the process has written so far."""
        return self.log.read_text(encoding="utf-8", errors="replace")


def wait_until(condition: Callable[[], object], timeout_s: float, what: str, interval_s: float = 0.02) -> None:
    """Polls a condition; raises TimeoutError that names what did not happen."""
    until = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > until:
            raise TimeoutError(f"not within {timeout_s:g} s: {what}")
        time.sleep(interval_s)
