"""Keeps what native libraries write to the process's own output out of the logs, since it may quote prompts.

Engines inside the process write to standard output and error past Python's logging. From `capture` on, both lead into a
pipe. Until `hide`, its lines are logged as they are: what an engine says while it loads can quote no client. After
that, lines are only counted, and named by the known phrases in them.
"""

import contextlib
import faulthandler
import fcntl
import logging
import os
import sys
import threading
import time
from typing import IO

log = logging.getLogger(__name__)

PIPE_BYTES = 1024 * 1024
READ_BYTES = 65_536
MAX_LINE_CHARACTERS = 500
REPORT_INTERVAL_S = 10.0
CLOSE_TIMEOUT_S = 1.0
PHRASES = ("out of memory", "failed to allocate", "cuda error", "assert", "bad_alloc", "grammar")
"""What an operator wants to know of, in lower case; a phrase is logged in these words, never in the library's."""
OUTPUTS = (1, 2)
F_SETPIPE_SZ = 1031


class LibraryOutput:
    """The pipe in place of the process's standard output and error, and the thread that empties it."""

    def __init__(self) -> None:
        self.hidden = False
        self._lines = 0
        self._phrases: set[str] = set()
        self._told: set[str] = set()
        self._has_news = False
        self._kept = os.dup(2)
        self.stream: IO[str] = os.fdopen(self._kept, "w", encoding="utf-8", buffering=1)
        """What standard error was, for the logs."""
        self._read_end, write_end = os.pipe()
        with contextlib.suppress(OSError):
            fcntl.fcntl(write_end, F_SETPIPE_SZ, PIPE_BYTES)
        # A library that holds the interpreter while it writes would otherwise wait for ever for the thread to read.
        os.set_blocking(write_end, False)
        for output in OUTPUTS:
            os.dup2(write_end, output)
        os.close(write_end)
        # Of a crash in native code, the places in the program are shown, and no values.
        faulthandler.enable(self._kept)
        self._thread = threading.Thread(target=self._read, name="library-output", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Restores standard output and error, and waits until what was written is handled."""
        for output in OUTPUTS:
            os.dup2(self._kept, output)
        self._thread.join(CLOSE_TIMEOUT_S)

    def _read(self) -> None:
        reported_at = -REPORT_INTERVAL_S
        rest = b""
        while data := os.read(self._read_end, READ_BYTES):
            *lines, rest = (rest[-READ_BYTES:] + data).split(b"\n")
            for line in lines:
                self._handle_line(line.decode(errors="replace"))
            # A phrase that was not told yet may be the last that the process says.
            if self._has_news or time.monotonic() - reported_at >= REPORT_INTERVAL_S:
                reported_at = time.monotonic()
                self._report()
        self._report()

    def _handle_line(self, line: str) -> None:
        if self.hidden:
            self._lines += 1
            found = {phrase for phrase in PHRASES if phrase in line.lower()} - self._phrases
            self._phrases |= found
            self._has_news = self._has_news or bool(found - self._told)
        else:
            log.info("library_output", extra={"text": line[:MAX_LINE_CHARACTERS]})

    def _report(self) -> None:
        if self._lines:
            log.info("library_output_hidden", extra={"lines": self._lines, "phrases": sorted(self._phrases)})
        self._told |= self._phrases
        self._lines = 0
        self._phrases.clear()
        self._has_news = False


_captured: LibraryOutput | None = None


def capture() -> LibraryOutput:
    """Begins to capture; the logs go where standard error went. Only a process's own start may call it."""
    global _captured
    _captured = LibraryOutput()
    for handler in logging.getLogger().handlers:
        if isinstance(handler, logging.StreamHandler) and handler.stream is sys.stderr:
            handler.setStream(_captured.stream)
    return _captured


def hide() -> None:
    """Shows no more of what libraries write, from the moment on when the process may hear of clients' words."""
    if _captured is not None:
        _captured.hidden = True
