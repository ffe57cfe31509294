"""The lock of `site.data_dir`, which holds the store of the bus and the logs of one running Callboard."""

import fcntl
import os
from pathlib import Path
from typing import IO

from callboard_cli.failures import CommandError, ExitCode


class StoreLock:
    """A lock for the life of the process, since two nats-servers on one store would both start without an error."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "lock"
        self._file: IO[str] | None = None

    def acquire(self) -> None:
        """Takes the lock; raises CommandError if another process holds it or the folder is not writable."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            file = self.path.open("a+", encoding="ascii")
        except OSError as error:
            raise CommandError(f"{self.path.parent}: {error.strerror}; set site.data_dir") from None
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            holder = file.read().strip()
            file.close()
            by = f" by process {holder}" if holder else ""
            raise CommandError(
                f"{self.path.parent} is in use{by}; stop it or set site.data_dir", ExitCode.STORE_LOCKED
            ) from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        self._file = file

    def release(self) -> None:
        """Releases the lock; the end of the process does the same."""
        if self._file:
            self._file.close()
            self._file = None
