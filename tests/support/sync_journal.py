"""Notes what a process brings to the disk, for `tests.support.power_cut`; a forked process imports it before all else.

Each sync appends what it made last to the journal, after it has succeeded: a file's size as it was before, or the names
in a folder. What somebody else syncs, as a nats-server does now and then, is not known, and counts as lost.
"""

import json
import os
import random
import sys
import time
from collections.abc import Callable
from pathlib import Path
from stat import S_ISDIR

JOURNAL = "CALLBOARD_SYNC_JOURNAL"
"""The environment variable that names the journal."""
DELAYS = "CALLBOARD_SYNC_DELAYS"
"""The environment variable with a seed and the longest time that a sync takes, in seconds."""

Sync = Callable[[int], None]


class SyncJournal:
    """Wraps the calls that sync. Each folder has a delay of its own, the same each time, as of a slower disk."""

    def __init__(self, journal: Path, name: str, seed: str = "", longest_s: float = 0.0) -> None:
        self._descriptor = os.open(journal, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o666)
        self._name = name
        self._seed = seed
        self._longest_s = longest_s

    def wrapped(self, sync: Sync) -> Sync:
        """A call that syncs and notes it."""

        def noting(descriptor: int) -> None:
            path = str(Path(f"/proc/self/fd/{descriptor}").readlink())
            status = os.fstat(descriptor)
            if S_ISDIR(status.st_mode):
                lines = [line("name", entry.path, entry.inode()) for entry in os.scandir(path)]
            else:
                lines = [line("file", path, status.st_ino, status.st_size)]
            # What is written meanwhile may or may not be on the disk afterwards.
            time.sleep(self._delay_s(path))
            sync(descriptor)
            os.write(self._descriptor, "".join(lines).encode())

        return noting

    def _delay_s(self, path: str) -> float:
        if not self._longest_s:
            return 0.0
        chance = random.Random(f"{self._seed} {self._name} {Path(path).parent}")
        return chance.choice((0.0, chance.uniform(0.0, self._longest_s)))


def line(kind: str, path: str, inode: int, size: int = 0) -> str:
    """One line of the journal."""
    return json.dumps([kind, path, inode, size]) + "\n"


def _install() -> None:
    seed, _, longest_s = os.environ.get(DELAYS, "").partition(" ")
    journal = SyncJournal(Path(os.environ[JOURNAL]), sys.argv[0], seed, float(longest_s or 0))
    os.fdatasync, os.fsync = journal.wrapped(os.fdatasync), journal.wrapped(os.fsync)


if JOURNAL in os.environ:
    _install()
