"""Usage as operators read it from the bus: sums, single events, drift, and the audit trail of a request."""

import asyncio
import json
import re
from collections.abc import AsyncGenerator
from datetime import UTC, datetime

from nats.aio.msg import Msg

from callboard_admin.periods import show_time
from callboard_contracts import subjects
from callboard_contracts.errors import CallboardError, ErrorCode
from callboard_contracts.quota import AuditEvent, UsageEvent, VerifyReply, VerifyRequest, usage_event_of
from callboard_contracts.streams import AUDIT, COUNTER_LIFE_S, QUOTA, USAGE
from callboard_kit.bus import Bus, BusUnavailable, NoResponders
from callboard_kit.stream_reads import (
    StoredMessage,
    first_seq,
    read_batches,
    read_last_of_each,
    read_subject,
    subject_names,
)

VERIFY_TIMEOUT_S = 600.0
HEARTBEAT_S = 1.0
SILENCE_S = 6.0
"""A quota process that sent no heartbeat for this long no longer works on a verification."""
READ_TIMEOUT_S = 5.0
COUNTERS_PER_BATCH = 1000
EVENTS_PER_BATCH = 512
MAX_CLOCK_SKEW_S = 60.0
"""How far the clock of the worker that wrote an event may be ahead of the bus's clock."""
HOUR_S = 3600
COLUMNS: tuple[str, ...] = (
    "seq",
    "at",
    "request_id",
    "tenant",
    "kind",
    "model",
    "pool",
    "outcome",
    "prompt_tokens",
    "completion_tokens",
    "audio_ms",
)
NUMBER_COLUMNS = frozenset({"seq", "prompt_tokens", "completion_tokens", "audio_ms"})
Row = dict[str, str | int]
TENANT = re.compile(r"[im]_[0-9a-f]{16}|k_[0-9a-f]{16}|site|anonymous")
"""A tenant, for which usage is counted: an address, a model, an account, the whole site, or anonymous callers."""


class UsageRecords:
    """Reads the usage records of an installation; every method raises BusError when the bus fails."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus

    async def used(self, since: float, until: float, tenant: str | None = None) -> dict[str, int]:
        """Sums the hour counters of each tenant, in units, over the hours that the span touches.

        Counters are kept for 70 days; older use is left out.
        """
        first = int(max(since, until - COUNTER_LIFE_S) // HOUR_S)
        hours = [datetime.fromtimestamp(hour * HOUR_S, UTC).strftime("h%Y%m%d%H") for hour in _hours(first, until)]
        if tenant is not None:
            in_span = frozenset(hours)
            names = await subject_names(self._bus, QUOTA, subjects.used_in(subjects.token(tenant), "units", "*"))
            return await self._sum_counters([name for name in names if name.rpartition(".")[2] in in_span])
        sums: dict[str, int] = {}
        for hour in hours:
            names = await subject_names(self._bus, QUOTA, subjects.used_in("*", "units", hour))
            for who, units in (await self._sum_counters(names)).items():
                sums[who] = sums.get(who, 0) + units
        return sums

    async def events(self, since: float, until: float, tenant: str | None = None) -> AsyncGenerator[list[Row]]:
        """Yields the usage events of a span in batches, in the order in which they were stored.

        Events that are stored after the call begins are left out, so that it ends although new ones keep coming.
        """
        subject = subjects.usage(tenant) if tenant else "usage.*"
        last = int((await self._bus.api(f"STREAM.INFO.{USAGE}", {}, READ_TIMEOUT_S))["state"]["last_seq"])
        seq = await first_seq(self._bus, USAGE, subject, since - MAX_CLOCK_SKEW_S, READ_TIMEOUT_S)
        if seq is None:
            return
        async for batch in read_batches(self._bus, USAGE, subject, seq, EVENTS_PER_BATCH, READ_TIMEOUT_S):
            rows = await asyncio.to_thread(_rows, [one for one in batch if one.seq <= last], since, until)
            if rows:
                yield rows
            if batch[-1].seq >= last:
                return

    async def verify(self, since: float, *, repair: bool = False) -> VerifyReply:
        """Asks quota to compare its counters with the usage events, and with `repair` to correct those that differ.

        Raises:
            NoResponders: no quota process listens.
            BusUnavailable: the process that accepted the request stopped sending heartbeats.
            CallboardError: it answered with an error.
        """
        heartbeat = asyncio.Event()
        replies: list[Msg] = []

        def on_message(message: Msg) -> None:
            if message.data or message.headers:
                replies.append(message)
            heartbeat.set()

        inbox = self._bus.connection.new_inbox()
        body = VerifyRequest(since=since, repair=repair, heartbeat_s=HEARTBEAT_S).model_dump_json().encode()
        subscription = await self._bus.subscribe_now(inbox, on_message)
        try:
            await self._bus.publish(subjects.QUOTA_VERIFY, body, reply=inbox)
            async with asyncio.timeout(VERIFY_TIMEOUT_S):
                while not replies:
                    heartbeat.clear()
                    async with asyncio.timeout(SILENCE_S):
                        await heartbeat.wait()
        except TimeoutError:
            raise BusUnavailable("the quota process that verified was not heard of again") from None
        finally:
            await self._bus.unsubscribe(subscription)
        if not replies[0].data:
            raise NoResponders(subjects.QUOTA_VERIFY)
        reply = VerifyReply.model_validate_json(replies[0].data)
        if reply.error is not None:
            raise CallboardError.of(reply.error)
        return reply

    async def audit_trail(self, request_id: str) -> list[AuditEvent]:
        """Returns what quota did for a request, in order; the id may be the value of the header `x-request-id`.

        Raises:
            CallboardError: the id is malformed or unknown.
        """
        try:
            subject = subjects.audit(request_id.removeprefix("req_"))
        except ValueError:
            raise CallboardError(ErrorCode.INVALID_REQUEST, "that is not a request id", param="request_id") from None
        messages = await read_subject(self._bus, AUDIT, subject, timeout_s=READ_TIMEOUT_S, stream_may_miss=False)
        if not messages:
            raise CallboardError(ErrorCode.NOT_FOUND, "nothing is known of that request", param="request_id")
        return sorted((AuditEvent.model_validate_json(one.data) for one in messages), key=lambda event: event.at)

    async def _sum_counters(self, names: list[str]) -> dict[str, int]:
        sums: dict[str, int] = {}
        for start in range(0, len(names), COUNTERS_PER_BATCH):
            batch = names[start : start + COUNTERS_PER_BATCH]
            for message in await read_last_of_each(self._bus, QUOTA, batch, READ_TIMEOUT_S):
                who = message.subject.split(".")[2]
                sums[who] = sums.get(who, 0) + int(json.loads(message.data)["val"])
        return sums


def _hours(first: int, until: float) -> range:
    return range(first, int(until // HOUR_S) + 1)


def _rows(messages: list[StoredMessage], since: float, until: float) -> list[Row]:
    rows: list[Row] = []
    for message in messages:
        event = usage_event_of(message.subject, message.data)
        if event is None:
            continue  # Malformed; `verify` reports it.
        if since <= event.at < until:
            rows.append(_row(message.seq, event))
    return rows


def _row(seq: int, event: UsageEvent) -> Row:
    return {
        "seq": seq,
        "at": show_time(event.at),
        "request_id": event.request_id,
        "tenant": event.tenant,
        "kind": event.kind,
        "model": event.model,
        "pool": event.pool,
        "outcome": event.outcome,
        **event.work.model_dump(),
    }
