"""Brings what a bus on this machine has stored onto the disk; all who wait at once share one write.

A nats-server that syncs every message waits for the disk once for each. One that does not has written a message to its
files before it acknowledges it, and any process that may read these files can have them brought to the disk.
"""

import asyncio
import fcntl
import logging
import os
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from queue import SimpleQueue
from threading import Thread

from callboard_kit.bus_errors import BusUnavailable
from callboard_kit.metrics import STORE_SYNC_SECONDS

log = logging.getLogger(__name__)

SYNC_TIMEOUT_S = 10.0
BLOCK_SUFFIX = ".blk"
TICK_NS = 50_000_000
"""A file that was changed so shortly ago may change again without a newer time of change."""

FileState = tuple[int, int, int]
"""A file's inode, size and time of change."""


@dataclass(slots=True)
class _StreamFiles:
    """The files of one stream; one thread at a time works on them."""

    folder: str
    synced: dict[str, FileState] = field(default_factory=dict[str, FileState])
    """The files that were brought to the disk after their last change."""
    names: frozenset[str] = frozenset()

    def sync(self) -> None:
        """Brings every file to the disk that may have changed, and new names too; raises OSError."""
        now_ns = time.time_ns()
        states: dict[str, FileState] = {}
        try:
            entries = list(os.scandir(self.folder))
        except FileNotFoundError:
            # The stream is in memory.
            return
        for entry in entries:
            if not entry.name.endswith(BLOCK_SUFFIX):
                continue
            try:
                status = entry.stat()
                state = states[entry.name] = status.st_ino, status.st_size, status.st_mtime_ns
                if self.synced.get(entry.name) != state:
                    _sync_file(entry.path)
            except FileNotFoundError:
                # The server removes a file with the last of its messages.
                continue
        if not states.keys() <= self.names:
            _sync_file(self.folder)
        self.names = frozenset(states)
        self.synced = {name: state for name, state in states.items() if abs(now_ns - state[2]) > TICK_NS}


def _sync_file(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if sys.platform == "darwin":
            # There fsync leaves the bytes in the drive's own memory.
            fcntl.fcntl(descriptor, fcntl.F_FULLFSYNC)
        else:
            os.fdatasync(descriptor)
    finally:
        os.close(descriptor)


class StoreSync:
    """The store of a nats-server on this machine, by its `store_dir`.

    One sync runs at a time, in a thread. Whoever asks meanwhile is served by the next one, since that which runs may
    have passed the file already.
    """

    def __init__(self, store_dir: Path) -> None:
        self._folder = store_dir / "jetstream" / "$G" / "streams"
        self._files: dict[str, _StreamFiles] = {}
        self._loop = asyncio.get_running_loop()
        self._closed = False
        # An executor of one thread does the same for half as much processor time again.
        self._rounds: SimpleQueue[set[str] | None] = SimpleQueue()
        Thread(target=self._run, name="store-sync", daemon=True).start()
        self._wanted: set[str] = set()
        self._waiting: list[asyncio.Future[None]] = []
        """Those who are served by the next sync."""
        self._served: list[asyncio.Future[None]] = []
        """Those who are served by the sync that runs."""
        self._due: asyncio.Handle | None = None
        """Begins the next sync, where one is wanted and none runs."""
        self._due_at = 0.0
        self._timer: asyncio.TimerHandle | None = None
        """Fails whoever waits, while a sync runs."""

    async def on_disk(self, *streams: str, within_s: float = 0.0) -> None:
        """Waits until all that the server had acknowledged of some streams before the call is on the disk.

        Its sync begins `within_s`, so that others may join it. A stream in memory has nothing to wait for.

        Raises:
            BusUnavailable: the disk failed or takes too long, or the process ends.
        """
        waiter: asyncio.Future[None] = self._loop.create_future()
        self._waiting.append(waiter)
        self._wanted.update(streams)
        if self._timer is None:
            self._begin_at(self._loop.time() + within_s if within_s else 0.0)
        await waiter

    def close(self) -> None:
        """Ends the thread without waiting for a disk that does not answer; whoever asks from now on is failed."""
        self._closed = True
        self._rounds.put(None)

    def _begin_at(self, at: float) -> None:
        """Has the next sync begin at a time of the loop, or earlier; what is asked for until then is done together."""
        if self._due is not None:
            if self._due_at <= at:
                return
            self._due.cancel()
        self._due_at = at
        self._due = self._loop.call_at(at, self._begin) if at else self._loop.call_soon(self._begin)

    def _begin(self) -> None:
        self._due = None
        self._timer = self._loop.call_later(SYNC_TIMEOUT_S, self._late)
        self._served, self._waiting = self._waiting, []
        wanted, self._wanted = self._wanted, set()
        if self._closed:
            self._end(BusUnavailable("the process ends"))
        else:
            self._rounds.put(wanted)

    def _run(self) -> None:
        """Syncs round by round, in the thread."""
        while (streams := self._rounds.get()) is not None:
            error: BusUnavailable | None = None
            began = time.monotonic()
            try:
                for stream in streams:
                    if stream not in self._files:
                        self._files[stream] = _StreamFiles(str(self._folder / stream / "msgs"))
                    self._files[stream].sync()
            except Exception as failed:
                log.exception("store_not_synced", extra={"error": type(failed).__name__})
                error = BusUnavailable("the store of the bus was not brought to the disk")
            STORE_SYNC_SECONDS.observe(time.monotonic() - began)
            try:
                self._loop.call_soon_threadsafe(self._end, error)
            except RuntimeError:
                # The loop has ended, and with it whoever waited.
                return

    def _end(self, error: BusUnavailable | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        _answer(self._served, error)
        if self._waiting:
            self._begin()

    def _late(self) -> None:
        log.error("store_sync_late", extra={"waiting": len(self._served) + len(self._waiting)})
        self._timer = self._loop.call_later(SYNC_TIMEOUT_S, self._late)
        for waiting in (self._served, self._waiting):
            _answer(waiting, BusUnavailable("the disk of the bus takes too long"))


def _answer(waiting: list[asyncio.Future[None]], error: BusUnavailable | None) -> None:
    for waiter in waiting:
        if waiter.done():
            # Whoever waited was cancelled.
            continue
        if error is None:
            waiter.set_result(None)
        else:
            waiter.set_exception(error)
    waiting.clear()
