"""The log of usage events, the counters by bucket and the reconciler's checkpoint on the bus."""

import asyncio
from contextlib import suppress

from callboard_contracts import subjects
from callboard_contracts.headers import MSG_ID
from callboard_contracts.quota import AuditEvent, usage_event_of
from callboard_contracts.streams import BUCKET_ACCOUNTS, QUOTA, USAGE
from callboard_kit.bucket import Bucket, Conflict
from callboard_kit.bus import Bus
from callboard_kit.stream_reads import (
    first_seq,
    read_batches,
    read_last,
    read_last_of_each,
    read_subject,
    subject_names,
)
from callboard_quota.backends.errors import bus_errors_as_unavailable
from callboard_quota.backends.jetstream_ledger import counter_stream, counter_subject, counter_value, read_outcomes
from callboard_quota.domain.ports import Change, Counter, Logged

CHECKPOINT_KEY = "reconcile.note"
READ_EVENTS = 64
"""So few that reading the log never delays a decision by more than a millisecond or two."""
READ_PAUSE_S = 0.002
READ_TIMEOUT_S = 5.0
READ_COUNTERS = 1000
READ_HISTORY = 4096


class StreamUsageLog:
    """The stream USAGE, read directly."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus

    async def seq_at(self, at: float) -> int | None:
        """The number of the first event stored at that time or later, or None."""
        with bus_errors_as_unavailable():
            return await first_seq(self._bus, USAGE, "usage.*", at, READ_TIMEOUT_S)

    async def last_seq(self) -> int:
        """The number of the newest event, 0 when there is none."""
        with bus_errors_as_unavailable():
            info = await self._bus.api(f"STREAM.INFO.{USAGE}", {}, READ_TIMEOUT_S)
        return int(info["state"]["last_seq"])

    async def read(self, start_seq: int, tenant: str | None = None) -> list[Logged]:
        """Reads some events from a number on, after a short pause that leaves room for decisions."""
        await asyncio.sleep(READ_PAUSE_S)
        subject = subjects.usage(tenant) if tenant else "usage.*"
        with bus_errors_as_unavailable():
            messages = await read_subject(
                self._bus, USAGE, subject, start_seq, READ_EVENTS, READ_TIMEOUT_S, stream_may_miss=False
            )
        return [
            Logged(message.seq, message.stored_at, usage_event_of(message.subject, message.data))
            for message in messages
        ]


class StreamCounterStore:
    """The counters by bucket, and the checkpoint in the bucket ACCOUNTS."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._bucket = Bucket(bus, BUCKET_ACCOUNTS)

    async def counters(self, bucket: str) -> dict[Counter, int]:
        """Every counter of a bucket."""
        values: dict[Counter, int] = {}
        with bus_errors_as_unavailable():
            names = await subject_names(self._bus, QUOTA, subjects.used_in("*", "*", bucket), READ_TIMEOUT_S)
            for start in range(0, len(names), READ_COUNTERS):
                batch = names[start : start + READ_COUNTERS]
                for message in await read_last_of_each(self._bus, QUOTA, batch, READ_TIMEOUT_S):
                    values[_counter(message.subject)] = counter_value(message)
        return values

    async def drop(self, metric: str, bucket: str) -> None:
        """Drops a bucket's counters of one metric."""
        with bus_errors_as_unavailable():
            await self._bus.api(f"STREAM.PURGE.{QUOTA}", {"filter": subjects.used_in("*", metric, bucket)})

    async def is_applied(self, change: Change) -> bool:
        """Whether a change took effect already, by the ids that the counter's messages keep."""
        subject, stream = counter_subject(change.counter), counter_stream(change.counter)
        batches = read_batches(self._bus, stream, subject, batch_size=READ_HISTORY, timeout_s=READ_TIMEOUT_S)
        with bus_errors_as_unavailable():
            async for batch in batches:
                if any(message.headers.get(MSG_ID) == change.id for message in batch):
                    return True
        return False

    async def revision(self, counter: Counter) -> int:
        """The number of the counter's newest message, 0 where there is none."""
        with bus_errors_as_unavailable():
            newest = await read_last(
                self._bus, counter_stream(counter), counter_subject(counter), READ_TIMEOUT_S, stream_may_miss=False
            )
        return newest.seq if newest else 0

    async def outcomes(self, request_id: str) -> list[AuditEvent]:
        """How the holds of a request ended."""
        return await read_outcomes(self._bus, request_id)

    async def load(self) -> tuple[bytes, int]:
        """The checkpoint and its revision."""
        with bus_errors_as_unavailable():
            entry = await self._bucket.get(CHECKPOINT_KEY)
        return (entry.value, entry.revision) if entry else (b"", 0)

    async def save(self, checkpoint: bytes, revision: int) -> int | None:
        """Replaces the checkpoint of that revision."""
        with bus_errors_as_unavailable(), suppress(Conflict):
            return await self._bucket.put(CHECKPOINT_KEY, checkpoint, revision)
        return None


def _counter(subject: str) -> Counter:
    _, _, tenant, metric, bucket = subject.split(".")
    return Counter(tenant, metric, bucket)
