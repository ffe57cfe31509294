"""A key-value bucket in memory."""

from collections.abc import Callable
from fnmatch import fnmatchcase

from callboard_kit.bucket import Conflict, Entry


class FakeBucket:
    """Behaves like `Bucket`; `before_put` is called before each write, so that a test can write first."""

    def __init__(self) -> None:
        self._entries: dict[str, Entry] = {}
        self._revision = 0
        self.before_put: Callable[[str], object] = lambda _key: None

    async def get(self, key: str) -> Entry | None:
        """Reads one entry, or None."""
        return self._entries.get(key)

    async def list(self, pattern: str, limit: int = 100_000) -> list[Entry]:
        """Reads every entry that matches."""
        return [entry for key, entry in self._entries.items() if fnmatchcase(key, pattern)][:limit]

    async def put(self, key: str, value: bytes, revision: int | None) -> int:
        """Writes an entry that is at a revision, 0 for one that must not exist yet; raises Conflict."""
        self.before_put(key)
        known = self._entries.get(key)
        if revision is not None and revision != (known.revision if known else 0):
            raise Conflict(key)
        return self.set(key, value)

    def set(self, key: str, value: bytes) -> int:
        """Overwrites an entry and returns its new revision."""
        self._revision += 1
        self._entries[key] = Entry(key, value, self._revision)
        return self._revision
