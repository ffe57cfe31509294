"""A key-value bucket, read at its source and changed by compare-and-set."""

from dataclasses import dataclass

from callboard_kit.bus import Bus, PublishRefused
from callboard_kit.stream_reads import StoredMessage, read_last, read_subject

EXPECTED_REVISION = "Nats-Expected-Last-Subject-Sequence"
OPERATION = "KV-Operation"
WRONG_REVISION = frozenset({10071, 10164})


class Conflict(Exception):  # noqa: N818 - a state, not a failure
    """Somebody else changed the entry since it was read."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry as it stands; `revision` is what a change must name."""

    key: str
    value: bytes
    revision: int


class Bucket:
    """One bucket by its name; watches are left out on purpose, since they lag after a server restart."""

    def __init__(self, bus: Bus, name: str) -> None:
        self._bus = bus
        self._stream = f"KV_{name}"
        self._prefix = f"$KV.{name}."

    async def get(self, key: str, timeout_s: float = 2.0) -> Entry | None:
        """Reads one entry, or None; raises BusUnavailable."""
        found = await read_last(self._bus, self._stream, self._prefix + key, timeout_s, stream_may_miss=False)
        return self._entry(found) if found else None

    async def list(self, pattern: str, limit: int = 100_000, timeout_s: float = 5.0) -> list[Entry]:
        """Reads the newest value of every entry that matches, wildcards allowed; raises BusUnavailable."""
        messages = await read_subject(
            self._bus, self._stream, self._prefix + pattern, limit=limit, timeout_s=timeout_s, stream_may_miss=False
        )
        newest = {message.subject: message for message in messages}
        return [entry for message in newest.values() if (entry := self._entry(message))]

    async def put(self, key: str, value: bytes, revision: int | None, timeout_s: float = 5.0) -> int:
        """Writes an entry and returns its new revision.

        `revision` is the one that was read, 0 for an entry that must not exist yet, or None to write regardless.

        Raises:
            Conflict: the entry stands at another revision.
            BusUnavailable: no acknowledgement in time; the write may have happened.
        """
        headers = None if revision is None else {EXPECTED_REVISION: str(revision)}
        try:
            stored = await self._bus.publish_stored(
                self._prefix + key, value, msg_id=None, timeout_s=timeout_s, headers=headers
            )
        except PublishRefused as refused:
            if refused.err_code in WRONG_REVISION:
                raise Conflict(key) from None
            raise
        return stored.seq

    def _entry(self, message: StoredMessage) -> Entry | None:
        if OPERATION in message.headers:
            return None
        return Entry(message.subject.removeprefix(self._prefix), message.data, message.seq)
