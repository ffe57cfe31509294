"""The ledger on JetStream: a counter stream, a stream of leases, and the outcomes of holds in the audit stream."""

import json
import logging
from collections.abc import AsyncIterator, Sequence
from functools import lru_cache
from typing import Any

from pydantic import ValidationError

from callboard_contracts import subjects
from callboard_contracts.headers import INCREMENT, MSG_ID
from callboard_contracts.kudos import KUDOS_METRIC
from callboard_contracts.quota import AuditEvent, Hold
from callboard_contracts.streams import (
    AUDIT,
    COUNTER_LIFE_S,
    DEDUPLICATION_WINDOW_S,
    KUDOS,
    LEASE,
    NANOSECONDS_PER_S,
    QUOTA,
    TRANSFERS,
)
from callboard_kit.bus import ApiError, Bus
from callboard_kit.stream_reads import StoredMessage, read_batches, read_last, read_last_of_each, read_subject
from callboard_quota.backends.acknowledged import AcknowledgedPublisher, Answer, Outgoing, applied_of, is_duplicate
from callboard_quota.backends.errors import bus_errors_as_unavailable
from callboard_quota.domain.ports import Applied, Change, Counter, StoreUnavailable
from callboard_quota.domain.windows import DECISION_LIFE_S

log = logging.getLogger(__name__)

SETTLE_TIMEOUT_S = 5.0
READ_TIMEOUT_S = 2.0
OUTCOME_SUFFIX = ".fate"
"""Ids of outcomes end so in the stream; under another suffix a hold could end twice during an upgrade."""
ENDINGS = frozenset({"settled", "released", "expired"})
MAX_CACHED = 1_000
READ_BATCH = 1000
"""The server reads the newest message of at most 1,024 subjects at once."""
LEASES_PER_READ = 250
"""A batch takes about a millisecond to parse, and decisions wait for it."""
TTL = "Nats-TTL"
TOMBSTONE_TTL = "1s"


class LedgerMisdeclared(Exception):  # noqa: N818 - a state, not a failure
    """A stream is not declared as the ledger's guarantees need it; the message says which and why."""


class JetStreamLedger:
    """Counters and leases on the bus."""

    def __init__(self, bus: Bus, publisher: AcknowledgedPublisher) -> None:
        self._bus = bus
        self._publisher = publisher

    async def check(self) -> None:
        """Checks the streams' declarations.

        Raises:
            LedgerMisdeclared: an id could be forgotten while it may still be repeated, or a count be dropped.
            StoreUnavailable: the server does not answer.
        """
        info = await self._stream(QUOTA)
        balances = (await self._stream(KUDOS))["config"]
        transactions = (await self._stream(TRANSFERS))["config"]
        _check_counts(QUOTA, info["config"])
        _check_counts(KUDOS, balances)
        if 0 < info["config"].get("max_age", 0) < COUNTER_LIFE_S * NANOSECONDS_PER_S:
            raise LedgerMisdeclared(f"stream {QUOTA} drops counters after less than {COUNTER_LIFE_S} s")
        for name, found in ((KUDOS, balances), (TRANSFERS, transactions)):
            if found.get("max_age", 0) > 0:
                raise LedgerMisdeclared(f"stream {name} drops messages that must be kept for ever")
        await self._stream(LEASE)
        _check_window(AUDIT, (await self._stream(AUDIT))["config"])
        _check_window(TRANSFERS, transactions)

    async def open(self, hold: Hold, changes: Sequence[Change], timeout_s: float = DECISION_LIFE_S) -> list[Applied]:
        """Records the lease of a hold and applies the changes, all in flight at once, the lease first."""
        lease = Outgoing(subjects.lease(hold.tenant, hold.id), hold.whole(), {MSG_ID: hold.id})
        _lease, *answers = await self._publisher.publish([lease, *map(_outgoing, changes)], timeout_s)
        await self._on_disk(LEASE, *map(_lasting_stream, changes))
        return list(map(applied_of, answers))

    async def apply(self, changes: Sequence[Change]) -> list[Applied]:
        """Applies the changes, all in flight at once."""
        if not changes:
            return []
        answers = await self._publisher.publish(list(map(_outgoing, changes)), SETTLE_TIMEOUT_S)
        await self._on_disk(*map(_lasting_stream, changes))
        return list(map(applied_of, answers))

    async def complete(self, changes: Sequence[Change], closing: Sequence[Hold]) -> None:
        """Applies the changes and removes leases, all in flight at once, the changes first."""
        await self._publisher.publish([*map(_outgoing, changes), *map(_tombstone, closing)], SETTLE_TIMEOUT_S)
        await self._on_disk(*map(_lasting_stream, changes))

    async def record_outcome(self, outcome: AuditEvent) -> AuditEvent:
        """Records how a hold ends, unless that is decided already; the first event of that id wins."""
        if outcome.work == "kudos":
            return await self._record_transaction(outcome)
        return (await self.record_outcomes([outcome]))[0]

    async def record_outcomes(self, outcomes: Sequence[AuditEvent]) -> list[AuditEvent]:
        """Records how several holds end, all in flight at once; for each the first event of its id wins."""
        messages = [
            Outgoing(subjects.audit(outcome.request_id), outcome.whole(), {MSG_ID: outcome.hold_id + OUTCOME_SUFFIX})
            for outcome in outcomes
        ]
        answers = await self._publisher.publish(messages, SETTLE_TIMEOUT_S)
        await self._on_disk(AUDIT)
        recorded = list(outcomes)
        for n, answer in enumerate(answers):
            if is_duplicate(answer):
                recorded[n] = await self._recorded(outcomes[n], answer)
        return recorded

    async def _recorded(self, outcome: AuditEvent, answer: Answer) -> AuditEvent:
        """What is recorded of a hold, which may be what this call itself sent before it was repeated."""
        _data, again = answer
        for event in await read_outcomes(self._bus, outcome.request_id):
            if event.hold_id == outcome.hold_id:
                return outcome if again and event == outcome else event
        raise StoreUnavailable("the outcome of a hold is recorded but cannot be read")

    async def transaction_outcome(self, transaction_id: str) -> AuditEvent | None:
        """How a kudos transaction ended, however long ago, or None."""
        with bus_errors_as_unavailable():
            message = await read_last(
                self._bus, TRANSFERS, subjects.transfer(transaction_id), READ_TIMEOUT_S, stream_may_miss=False
            )
        return AuditEvent.model_validate_json(message.data) if message else None

    async def _record_transaction(self, outcome: AuditEvent) -> AuditEvent:
        # Ids are remembered for two hours; what is older can be read, so that no transaction is ever made twice.
        known = await self.transaction_outcome(outcome.request_id)
        if known is not None:
            return known
        subject = subjects.transfer(outcome.request_id)
        message = Outgoing(subject, outcome.whole(), {MSG_ID: f"{outcome.request_id}.transaction"})
        answer = (await self._publisher.publish([message], SETTLE_TIMEOUT_S))[0]
        await self._on_disk(TRANSFERS)
        if not is_duplicate(answer):
            return outcome
        _data, again = answer
        known = await self.transaction_outcome(outcome.request_id)
        if known is None:
            raise StoreUnavailable("the outcome of a transaction is recorded but cannot be read")
        return outcome if again and known == outcome else known

    async def close(self, hold: Hold) -> None:
        """Removes a lease."""
        await self._publisher.publish([_tombstone(hold)], SETTLE_TIMEOUT_S)

    async def read(self, counters: Sequence[Counter]) -> dict[Counter, int]:
        """Reads counters; those that were never raised are left out."""
        found: dict[Counter, int] = {}
        for stream in (QUOTA, KUDOS):
            by_subject = {
                counter_subject(counter): counter for counter in counters if counter_stream(counter) == stream
            }
            names = list(by_subject)
            with bus_errors_as_unavailable():
                for start in range(0, len(names), READ_BATCH):
                    batch = names[start : start + READ_BATCH]
                    for message in await read_last_of_each(self._bus, stream, batch, READ_TIMEOUT_S):
                        found[by_subject[message.subject]] = counter_value(message)
        return found

    async def leases(self, tenant: str | None = None) -> AsyncIterator[Hold]:
        """Reads the holds of all open leases, or of one tenant's."""
        batches = read_batches(
            self._bus, LEASE, subjects.lease_filter(tenant or "*"), batch_size=LEASES_PER_READ, timeout_s=READ_TIMEOUT_S
        )
        with bus_errors_as_unavailable():
            async for batch in batches:
                for message in batch:
                    if (hold := _hold(message)) is not None:
                        yield hold

    async def _on_disk(self, *streams: str | None) -> None:
        """Waits for the disk where the server does not; counters are recomputed after a power cut, and need not."""
        if self._bus.syncs_store:
            with bus_errors_as_unavailable():
                await self._bus.on_disk(*{stream for stream in streams if stream is not None})

    async def _stream(self, name: str) -> dict[str, Any]:
        with bus_errors_as_unavailable():
            try:
                return await self._bus.api(f"STREAM.INFO.{name}", {})
            except ApiError as error:
                raise LedgerMisdeclared(f"stream {name}: {error}; run `callboard streams apply`") from error


async def read_outcomes(bus: Bus, request_id: str) -> list[AuditEvent]:
    """How the holds of a request ended, as recorded; raises StoreUnavailable."""
    with bus_errors_as_unavailable():
        messages = await read_subject(
            bus, AUDIT, subjects.audit(request_id), timeout_s=READ_TIMEOUT_S, stream_may_miss=False
        )
    events = [AuditEvent.model_validate_json(message.data) for message in messages]
    return [event for event in events if event.kind in ENDINGS]


def _check_counts(name: str, found: dict[str, Any]) -> None:
    if not found.get("allow_msg_counter"):
        raise LedgerMisdeclared(f"stream {name} does not count")
    _check_window(name, found)
    if found.get("max_msgs_per_subject", -1) > 0:
        raise LedgerMisdeclared(f"stream {name} drops messages, and with them ids, by subject")


def _check_window(name: str, found: dict[str, Any]) -> None:
    window_s = found.get("duplicate_window", 0) / NANOSECONDS_PER_S
    if window_s < DEDUPLICATION_WINDOW_S:
        raise LedgerMisdeclared(
            f"stream {name} remembers ids for {window_s:.0f} s, needed are {DEDUPLICATION_WINDOW_S} s"
        )


def counter_value(message: StoredMessage) -> int:
    """The value that a counter's message carries."""
    return int(json.loads(message.data)["val"])


def _outgoing(change: Change) -> Outgoing:
    by = f"{change.amount:+d}"
    headers = {INCREMENT: by} if change.id is None else {INCREMENT: by, MSG_ID: change.id}
    return Outgoing(counter_subject(change.counter), b"", headers)


@lru_cache(MAX_CACHED)
def counter_subject(counter: Counter) -> str:
    """The subject of a counter."""
    return subjects.kudos(counter.tenant) if counter.metric == KUDOS_METRIC else subjects.used(*counter)


def _lasting_stream(change: Change) -> str | None:
    """The stream of a counter that nothing else tells the value of, or None."""
    return KUDOS if counter_stream(change.counter) == KUDOS else None


def counter_stream(counter: Counter) -> str:
    """The stream that keeps a counter."""
    return KUDOS if counter.metric == KUDOS_METRIC else QUOTA


def _hold(message: StoredMessage) -> Hold | None:
    if not message.data:
        return None  # A tombstone.
    try:
        return Hold.model_validate_json(message.data)
    except ValidationError:
        log.exception("lease_unreadable", extra={"seq": message.seq})
        return None


def _tombstone(hold: Hold) -> Outgoing:
    """A message that replaces a lease and lives one second, so that nothing is left of either."""
    return Outgoing(subjects.lease(hold.tenant, hold.id), b"", {TTL: TOMBSTONE_TTL})
