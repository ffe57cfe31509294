"""Shows how far a download is: a bar on a terminal, plain lines anywhere else."""

import sys
import time
from typing import TextIO

BAR_WIDTH = 28
REDRAW_S = 0.1
MEGABYTE = 1_000_000


class Progress:
    """One line for each file, or for the files of one folder."""

    def __init__(self, stream: TextIO = sys.stderr) -> None:
        self._stream = stream
        self._bar = stream.isatty()
        self._label = ""
        self._total = 0
        self._passed = 0
        self._began = 0.0
        self._drawn = 0.0

    def begin(self, label: str, total_bytes: int) -> None:
        """Starts a line."""
        self._label, self._total, self._passed = label, total_bytes, 0
        self._began, self._drawn = time.monotonic(), 0.0
        if not self._bar:
            self._write(f"fetching {label} ({total_bytes / MEGABYTE:.1f} MB)\n")

    def passed(self, size_bytes: int) -> None:
        """Counts one file of the line as whole."""
        self._passed += size_bytes
        self.show(0)

    def show(self, done_bytes: int) -> None:
        """Redraws the bar for so much of the present file, at most ten times a second."""
        now = time.monotonic()
        if not self._bar or now - self._drawn < REDRAW_S:
            return
        self._drawn = now
        done_bytes += self._passed
        share = min(1.0, done_bytes / self._total) if self._total else 1.0
        filled = int(share * BAR_WIDTH)
        rate = done_bytes / MEGABYTE / max(now - self._began, 0.001)
        self._write(
            f"\r\x1b[K{self._label}  [{'#' * filled}{'.' * (BAR_WIDTH - filled)}] {share:4.0%}"
            f" of {self._total / MEGABYTE:.1f} MB, {rate:.1f} MB/s"
        )

    def end(self, remark: str) -> None:
        """Ends the line with what came of it."""
        start = "\r\x1b[K" if self._bar else ""
        self._write(f"{start}{self._label}: {remark}, {time.monotonic() - self._began:.1f} s\n")

    def note(self, text: str) -> None:
        """Writes a line of its own."""
        start = "\r\x1b[K" if self._bar else ""
        self._write(f"{start}{text}\n")

    def _write(self, text: str) -> None:
        self._stream.write(text)
        self._stream.flush()
