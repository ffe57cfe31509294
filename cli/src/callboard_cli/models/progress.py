"""Progress of downloads: a bar on a terminal, plain lines anywhere else."""

import sys
import time
from typing import TextIO

BAR_WIDTH = 28
REDRAW_S = 0.1
CLEAR_LINE = "\r\x1b[K"
MEGABYTE = 1_000_000


class Progress:
    """One line for each download: a file, or all files of a folder."""

    def __init__(self, stream: TextIO = sys.stderr) -> None:
        self._stream = stream
        self._bar = stream.isatty()
        self._label = ""
        self._total_bytes = 0
        self._finished_bytes = 0
        self._started_at = 0.0
        self._drawn_at = 0.0

    def start(self, label: str, total_bytes: int) -> None:
        """Starts the line of a download."""
        self._label, self._total_bytes, self._finished_bytes = label, total_bytes, 0
        self._started_at, self._drawn_at = time.monotonic(), 0.0
        if not self._bar:
            self.note(f"fetching {label} ({total_bytes / MEGABYTE:.1f} MB)")

    def file_done(self, size_bytes: int) -> None:
        """Counts a file of the download as complete."""
        self._finished_bytes += size_bytes
        self.update(0)

    def update(self, done_bytes: int) -> None:
        """Redraws the bar with so many bytes of the current file, at most ten times a second."""
        now = time.monotonic()
        if not self._bar or now - self._drawn_at < REDRAW_S:
            return
        self._drawn_at = now
        done_bytes += self._finished_bytes
        share = min(1.0, done_bytes / self._total_bytes) if self._total_bytes else 1.0
        filled = int(share * BAR_WIDTH)
        rate = done_bytes / MEGABYTE / max(now - self._started_at, 0.001)
        print(
            f"{CLEAR_LINE}{self._label}  [{'#' * filled}{'.' * (BAR_WIDTH - filled)}] {share:4.0%}"
            f" of {self._total_bytes / MEGABYTE:.1f} MB, {rate:.1f} MB/s",
            end="",
            file=self._stream,
            flush=True,
        )

    def finish(self, outcome: str) -> None:
        """Ends the line with its outcome."""
        self.note(f"{self._label}: {outcome}, {time.monotonic() - self._started_at:.1f} s")

    def note(self, text: str) -> None:
        """Writes a line of its own."""
        print(f"{CLEAR_LINE if self._bar else ''}{text}", file=self._stream, flush=True)
