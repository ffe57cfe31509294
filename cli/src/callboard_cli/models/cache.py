"""The model cache: a folder of model files, which of them were verified, and the lock for changing it."""

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


@dataclass(frozen=True, slots=True)
class ModelCache:
    """The model files of one folder; a file that was verified once is trusted until its size or time changes."""

    folder: Path

    @property
    def download_dir(self) -> Path:
        """The folder of incomplete downloads, which the next attempt resumes."""
        return self.folder / ".downloads"

    def path(self, file: ModelFile) -> Path:
        """Returns the path of the file, whether it exists or not."""
        return self.folder / file.name

    def state(self, file: ModelFile) -> State:
        """Returns the state of a file without reading it."""
        try:
            found = self.path(file).stat()
        except OSError:
            return "missing"
        if found.st_size != file.size_bytes:
            return "missing"
        try:
            record = json.loads(self._record_path(file).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return "unchecked"
        return "ready" if record == _record_of(file, found.st_mtime_ns) else "unchecked"

    def verify(self, file: ModelFile) -> bool:
        """Compares the SHA-256 of a file, and records a match, so that the file need not be read again."""
        if sha256_of(self.path(file)) != file.sha256:
            return False
        self._record(file)
        return True

    def add(self, file: ModelFile, download: Path) -> None:
        """Moves a verified download into the cache in one step."""
        path = self.path(file)
        path.parent.mkdir(parents=True, exist_ok=True)
        download.replace(path)
        self._record(file)

    @contextmanager
    def lock(self, progress: Progress) -> Generator[None]:
        """Holds the lock for changing the folder; waits while another process holds it."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / ".lock").open("ab") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                progress.note("another process is fetching models; waiting for it")
                fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _record_path(self, file: ModelFile) -> Path:
        return self.folder / ".checked" / f"{file.name.replace('/', '__')}.json"

    def _record(self, file: ModelFile) -> None:
        path = self._record_path(file)
        # In a read-only folder (a volume, an image) the file is read again next time.
        with suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(_record_of(file, self.path(file).stat().st_mtime_ns)), encoding="utf-8")


def sha256_of(path: Path) -> str:
    """Returns the SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as source:
        return hashlib.file_digest(source, "sha256").hexdigest()


def _record_of(file: ModelFile, mtime_ns: int) -> dict[str, object]:
    return {"sha256": file.sha256, "bytes": file.size_bytes, "mtime_ns": mtime_ns}
