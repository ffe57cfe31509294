"""A key-value bucket, read from its stream and changed by compare-and-set."""

from collections.abc import AsyncGenerator
from dataclasses import dataclass

from callboard_contracts.headers import MESSAGE_TTL
from callboard_kit.bus import Bus, PublishRefused
from callboard_kit.stream_reads import StoredMessage, read_batches, read_last, read_subject

EXPECTED_REVISION = "Nats-Expected-Last-Subject-Sequence"
OPERATION = "KV-Operation"
WRONG_REVISION = frozenset({10071, 10164})


class Conflict(Exception):  # noqa: N818 - a state, not a failure
    """The entry was changed since it was read."""


@dataclass(frozen=True, slots=True)
class Entry:
    """An entry at a revision, which a change must name; a deleted one has no value."""

    key: str
    value: bytes
    revision: int
    deleted: bool = False


class Bucket:
    """A bucket by its name; without watches on purpose, since they lag after a server restart."""

    def __init__(self, bus: Bus, name: str) -> None:
        self._bus = bus
        self._stream = f"KV_{name}"
        self._prefix = f"$KV.{name}."

    async def get(self, key: str, timeout_s: float = 2.0, *, deleted: bool = False) -> Entry | None:
        """Reads one entry, or None; with `deleted` also what is left of one that was. Raises BusUnavailable."""
        found = await read_last(self._bus, self._stream, self._prefix + key, timeout_s, stream_may_miss=False)
        entry = self._entry(found) if found else None
        return entry if entry and (deleted or not entry.deleted) else None

    async def changes(self, after_revision: int) -> AsyncGenerator[list[Entry]]:
        """Yields, some at a time, the entries that were changed or deleted after a revision; raises BusUnavailable."""
        async for batch in read_batches(self._bus, self._stream, f"{self._prefix}>", after_revision + 1):
            yield [self._entry(message) for message in batch]

    async def list(self, pattern: str, limit: int = 100_000, timeout_s: float = 5.0) -> list[Entry]:
        """Reads the newest value of every entry that matches, wildcards allowed; raises BusUnavailable."""
        messages = await read_subject(
            self._bus, self._stream, self._prefix + pattern, limit=limit, timeout_s=timeout_s, stream_may_miss=False
        )
        newest = {message.subject: message for message in messages}
        entries = map(self._entry, newest.values())
        return [entry for entry in entries if not entry.deleted]

    async def put(
        self,
        key: str,
        value: bytes,
        revision: int | None,
        timeout_s: float = 5.0,
        life_s: int | None = None,
        msg_id: str | None = None,
    ) -> int:
        """Writes an entry and returns its new revision.

        `revision` is the one that was read, 0 for an entry that must not exist yet, or None to overwrite. With
        `life_s`, in a bucket that allows it, the entry expires after that time; each put starts it again. With a new
        `msg_id` the write is repeated until it is acknowledged.

        Raises:
            Conflict: the entry is at another revision.
            BusUnavailable: no acknowledgement in time; the write may have happened.
        """
        return await self._store(key, value, _life(life_s), revision, timeout_s, msg_id)

    async def delete(
        self, key: str, timeout_s: float = 5.0, marker_life_s: int | None = None, revision: int | None = None
    ) -> int:
        """Deletes an entry and returns the revision of the marker that takes its place.

        The marker is gone after `marker_life_s`, where the bucket allows it.

        Raises:
            Conflict: the entry is at another revision than the one named.
            BusUnavailable: no acknowledgement in time.
        """
        headers = {OPERATION: "DEL", **_life(marker_life_s)}
        return await self._store(key, b"", headers, revision, timeout_s)

    async def _store(
        self,
        key: str,
        value: bytes,
        headers: dict[str, str],
        revision: int | None,
        timeout_s: float,
        msg_id: str | None = None,
    ) -> int:
        if revision is not None:
            headers[EXPECTED_REVISION] = str(revision)
        try:
            return (await self._bus.publish_stored(self._prefix + key, value, msg_id, timeout_s, headers)).seq
        except PublishRefused as refused:
            if refused.err_code in WRONG_REVISION:
                raise Conflict(key) from None
            raise

    def _entry(self, message: StoredMessage) -> Entry:
        key = message.subject.removeprefix(self._prefix)
        return Entry(key, message.data, message.seq, deleted=OPERATION in message.headers)


def _life(life_s: int | None) -> dict[str, str]:
    return {} if life_s is None else {MESSAGE_TTL: f"{life_s}s"}
