"""A child process: its start, output and end."""

import asyncio
import ctypes
import json
import logging
import os
import re
import signal
import sys
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from logging.handlers import RotatingFileHandler
from pathlib import Path

from callboard_cli.failures import CommandError, ExitCode

LOG_BYTES = 5_000_000
LOGS_KEPT = 1
MAX_LINE_BYTES = 64 * 1024
LAST_LINES = 20
KILL_TIMEOUT_S = 5.0
PR_SET_PDEATHSIG = 1
_PLAIN_LINE = re.compile(r"callboard |\[\d+\] ")
SHOWN_LEVELS = frozenset({"warning", "error", "critical"})

_libc = ctypes.CDLL(None) if sys.platform == "linux" else None

OnWarning = Callable[[str, str], None]
"""Called with a child's name and the event of a warning or error that it logged."""


def _die_with_parent(parent_pid: int) -> None:
    """Runs in the child before exec: the kernel kills the child when its parent ends."""
    if _libc is not None:
        _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent_pid:
            os._exit(1)


class LogFile(RotatingFileHandler):
    """A bounded log file of a child; a full disk must not stop the child."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, maxBytes=LOG_BYTES, backupCount=LOGS_KEPT, encoding="utf-8", errors="replace")

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - the base class names it so
        """Drops the line."""


class Child:
    """A process in its own session, so that Ctrl-C in a terminal reaches only its supervisor."""

    def __init__(self, name: str, process: asyncio.subprocess.Process, file: LogFile, on_warning: OnWarning) -> None:
        self.name = name
        self.log = Path(file.baseFilename)
        self._file = file
        self._process = process
        self._on_warning = on_warning
        self._last_lines: deque[str] = deque(maxlen=LAST_LINES)
        self._pump = asyncio.get_running_loop().create_task(self._read(), name=f"output of {name}")

    @classmethod
    async def start(
        cls, name: str, argv: Sequence[str], environ: Mapping[str, str], logs: Path, on_warning: OnWarning
    ) -> "Child":
        """Starts the process; its output goes to a bounded file in the folder `logs`."""
        parent_pid = os.getpid()
        file = LogFile(logs / f"{name}.log")
        try:
            process = await asyncio.create_subprocess_exec(
                *argv,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
                limit=MAX_LINE_BYTES,
                env=dict(environ),
                start_new_session=True,
                preexec_fn=lambda: _die_with_parent(parent_pid),
            )
        except OSError as error:
            file.close()
            raise CommandError(f"{name} cannot be started: {error.strerror}", ExitCode.MISSING_PROGRAM) from None
        return cls(name, process, file, on_warning)

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether the process is running."""
        return self._process.returncode is None

    @property
    def killed(self) -> bool:
        """Whether a signal ended the process."""
        return (self._process.returncode or 0) < 0

    async def ended(self) -> int:
        """Waits for the end of the process and of its output, and returns the exit code."""
        code = await self._process.wait()
        # A grandchild may keep the pipe open.
        await asyncio.wait({self._pump}, timeout=1.0)
        return code

    def exit_report(self) -> str:
        """Returns one line about a process that ended: how, its last message, and where its log is."""
        code = self._process.returncode
        how = (
            f"was ended by {signal.Signals(-code).name}" if code is not None and code < 0 else f"ended with code {code}"
        )
        message = next((line for line in map(_message, reversed(self._last_lines)) if line), "")
        return f"{self.name} {how}{f': {message}' if message else ''} (log: {self.log})"

    async def stop(self, timeout_s: float) -> bool:
        """Terminates the process and waits; kills it after the timeout and returns False then."""
        if self.alive:
            self._process.terminate()
        in_time = True
        try:
            async with asyncio.timeout(timeout_s):
                await self._process.wait()
        except TimeoutError:
            in_time = False
            self.kill()
            await self._process.wait()
        await self._finish()
        return in_time

    def kill(self) -> None:
        """Kills the process."""
        if self.alive:
            self._process.kill()

    async def _finish(self) -> None:
        await asyncio.wait({self._pump}, timeout=1.0)
        self._pump.cancel()
        await asyncio.gather(self._pump, return_exceptions=True)

    async def _read(self) -> None:
        output = self._process.stdout
        if output is None:
            return
        try:
            while True:
                try:
                    line = await output.readline()
                except ValueError:
                    continue  # A line over the limit: the part that was read is dropped, the rest follows.
                if not line:
                    return
                self._handle_line(line.decode(errors="replace").rstrip())
        finally:
            self._file.close()

    def _handle_line(self, line: str) -> None:
        self._last_lines.append(line)
        self._file.emit(logging.makeLogRecord({"msg": "%s", "args": (line,)}))
        event = _event(line)
        if event.get("level") in SHOWN_LEVELS:
            self._on_warning(self.name, str(event.get("event", "")))


def _event(line: str) -> dict[str, object]:
    if not line.startswith("{"):
        return {}
    try:
        event: dict[str, object] = json.loads(line)
    except ValueError:
        return {}
    return event


def _message(line: str) -> str:
    """Returns the event and reason of a logged error, and a plain line of a service's own or of nats-server.

    Any other line may be a library's, which may quote a client.
    """
    event = _event(line)
    if not event:
        return line.strip() if _PLAIN_LINE.match(line) else ""
    if event.get("level") not in {"error", "critical"}:
        return ""
    details = [str(event[key]) for key in ("reason", "exception") if key in event]
    return " ".join([str(event.get("event", "")), *details])
