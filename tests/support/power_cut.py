"""What a power cut leaves of the store of a nats-server: of each file at least what was synced, of the rest some.

Processes that note their syncs in a journal (`tests.support.sync_journal`) and the server are killed; then the files
lose a random part of what nobody has brought to the disk. The cut is harder than most real ones: each file is cut
alone, also between what was written before and after it in others.
"""

import json
import os
import random
import signal
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from tests.support import sync_journal
from tests.support.children import Child
from tests.support.fork_server import FIRST_MODULE
from tests.support.sync_journal import DELAYS, JOURNAL, line

STREAMS = "jetstream/$G/streams"
COPIES_KEPT = 50
EMPTY_INDEX_BYTES = 40
"""An index is no larger while its stream has no block."""


@dataclass(slots=True)
class Synced:
    """What a journal says: sizes and names that are on the disk, of files by path and inode."""

    sizes: dict[tuple[str, int], int] = field(default_factory=dict[tuple[str, int], int])
    names: set[tuple[str, int]] = field(default_factory=set[tuple[str, int]])

    def was_rewritten(self, file: tuple[str, int]) -> bool:
        """Whether a file has taken the place of one that was synced, and has not been synced itself."""
        path, _inode = file
        return file not in self.sizes and any(path == other for other, _ in self.sizes)

    @classmethod
    def read(cls, journal: Path) -> "Synced":
        """Reads a journal."""
        synced = cls()
        for text in journal.read_text(encoding="utf-8").splitlines():
            kind, path, inode, size = json.loads(text)
            if kind == "name":
                synced.names.add((path, inode))
            else:
                synced.sizes[path, inode] = max(size, synced.sizes.get((path, inode), 0))
        return synced


class PowerCut:
    """The cuts of one store, all of them repeatable by the same `chance` as far as the processes are."""

    def __init__(self, store: Path, journal: Path, chance: random.Random) -> None:
        self._streams = store / STREAMS
        self._journal = journal
        self._chance = chance
        self._copies: dict[Path, list[bytes]] = {}
        journal.touch()

    def environ(self, longest_sync_s: float = 0.0) -> dict[str, str]:
        """What a process needs to note its syncs; each folder's take up to so long."""
        delays = f"{self._chance.randrange(10**9)} {longest_sync_s}"
        return {FIRST_MODULE: sync_journal.__name__, JOURNAL: str(self._journal), DELAYS: delays}

    def begin(self) -> None:
        """Counts all that is in the store as on the disk, as it is after a machine has started."""
        lines: list[str] = []
        for block in self._blocks():
            status = block.stat()
            lines.append(line("file", str(block), status.st_ino, status.st_size))
            lines.append(line("name", str(block), status.st_ino))
        self._journal.write_text("".join(lines), encoding="utf-8")
        self._copies.clear()

    def copy_consumers(self) -> None:
        """Remembers the positions of consumers as they are; each may be what is on the disk at a cut."""
        for file in self._streams.glob("*/obs/*/o.dat"):
            try:
                copies = self._copies.setdefault(file, [])
                copies.append(file.read_bytes())
            except FileNotFoundError:
                # The server replaces it.
                continue
            del copies[:-COPIES_KEPT]

    def cut(self) -> list[str]:
        """Takes from the files what was not synced, some of it or all; says what was done, line by line.

        The server and all who sync must have been killed.
        """
        synced, done = Synced.read(self._journal), list[str]()
        for block in self._blocks():
            done += self._cut_block(block, synced)
        for stream in sorted(self._streams.iterdir()):
            index = stream / "msgs" / "index.db"
            if index.exists() and (index.stat().st_size <= EMPTY_INDEX_BYTES or self._chance.random() < 0.5):
                # One that tells of no block at all makes the server overlook a block that ends in zeros.
                index.unlink()
                done.append(f"{stream.name}: no index")
        for file in sorted(self._streams.glob("*/obs/*/o.dat")):
            done += self._put_back(file)
        return done

    def _blocks(self) -> list[Path]:
        return sorted(self._streams.glob("*/msgs/*.blk"))

    def _cut_block(self, block: Path, synced: Synced) -> Iterable[str]:
        status = block.stat()
        file, size = (str(block), status.st_ino), status.st_size
        if synced.was_rewritten(file):
            # The file systems on which processes sync the store write such a file before it takes another's place.
            return
        durable = min(size, synced.sizes.get(file, 0))
        name = f"{block.parent.parent.name}/{block.name}"
        if (durable == 0 or file not in synced.names) and self._chance.random() < 0.3:
            block.unlink()
            yield f"{name}: {size} bytes, removed"
            return
        if durable == size:
            return
        kept = self._chance.choice((durable, size, *(self._chance.randint(durable, size) for _ in range(3))))
        os.truncate(block, kept)
        if zeros := kept < size and self._chance.random() < 0.3:
            os.truncate(block, size)
        yield f"{name}: {size} bytes, {durable} synced, {kept} kept{', then zeros' if zeros else ''}"

    def _put_back(self, file: Path) -> Iterable[str]:
        name = f"{file.parent.parent.parent.name}/{file.parent.name}"
        what = self._chance.choice(("newest", "older", "older", "none"))
        copies = self._copies.get(file, [])
        if what == "older" and copies:
            file.write_bytes(self._chance.choice(copies))
            yield f"{name}: an older position"
        elif what == "none":
            file.unlink()
            yield f"{name}: no position"


def kill_at_once(children: Mapping[str, Child], chance: random.Random) -> None:
    """Kills processes as near to the same moment as can be, in any order."""
    running = [child for child in children.values() if child.alive]
    chance.shuffle(running)
    for child in running:
        # One may end by itself when another is gone.
        with suppress(ProcessLookupError):
            os.kill(child.pid, signal.SIGKILL)
    for child in running:
        child.wait()
