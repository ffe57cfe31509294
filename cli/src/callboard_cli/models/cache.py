"""The folder of model files: what lies there, whether it was checked, and who may change it."""

import fcntl
import hashlib
import json
from collections.abc import Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from callboard_cli.models.catalogue import ModelFile
from callboard_cli.models.progress import Progress

State = Literal["ready", "unchecked", "missing"]
BLOCK_BYTES = 1024 * 1024


@dataclass(frozen=True, slots=True)
class ModelCache:
    """The model files of one folder. A file that was checked once is trusted while its size and time stand."""

    folder: Path

    @property
    def download_dir(self) -> Path:
        """Where downloads grow until they are whole; what lies there is continued by the next attempt."""
        return self.folder / ".downloads"

    def path(self, file: ModelFile) -> Path:
        """Where the file lies, or will."""
        return self.folder / file.name

    def state(self, file: ModelFile) -> State:
        """What is known about a file without reading it."""
        try:
            found = self.path(file).stat()
        except OSError:
            return "missing"
        if found.st_size != file.size_bytes:
            return "missing"
        try:
            stamp = json.loads(self._stamp(file).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return "unchecked"
        return "ready" if stamp == _stamp_of(file, found.st_mtime_ns) else "unchecked"

    def check(self, file: ModelFile) -> bool:
        """Reads the whole file; a right one is stamped, so that it need not be read again."""
        path = self.path(file)
        if sha256_of(path) != file.sha256:
            return False
        self._remember(file)
        return True

    def accept(self, file: ModelFile, arrived: Path) -> None:
        """Moves a whole and checked download to its place in one step."""
        path = self.path(file)
        path.parent.mkdir(parents=True, exist_ok=True)
        arrived.replace(path)
        self._remember(file)

    @contextmanager
    def changing(self, progress: Progress) -> Generator[None]:
        """Lets one process at a time change the folder; another one waits here."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / ".lock").open("ab") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                progress.note("another process is fetching models; waiting for it")
                fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _stamp(self, file: ModelFile) -> Path:
        return self.folder / ".checked" / f"{file.name.replace('/', '__')}.json"

    def _remember(self, file: ModelFile) -> None:
        stamp = self._stamp(file)
        # A folder that cannot be written to (a volume, an image) only costs reading the file again next time.
        with suppress(OSError):
            stamp.parent.mkdir(parents=True, exist_ok=True)
            stamp.write_text(json.dumps(_stamp_of(file, self.path(file).stat().st_mtime_ns)), encoding="utf-8")


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as source:
        while block := source.read(BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()


def _stamp_of(file: ModelFile, mtime_ns: int) -> dict[str, object]:
    return {"sha256": file.sha256, "bytes": file.size_bytes, "mtime_ns": mtime_ns}
