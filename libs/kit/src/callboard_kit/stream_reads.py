"""Direct reads from streams: history without a consumer."""

import asyncio
import json
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import nats.errors
from nats.aio.msg import Msg

from callboard_kit.bus import TRANSPORT_ERRORS, Bus, BusUnavailable

_SUBJECT = "Nats-Subject"
_SEQUENCE = "Nats-Sequence"
_TIME = "Nats-Time-Stamp"
_PENDING = "Nats-Num-Pending"
_STATUS = "Status"
_END_OF_BATCH = "204"
_NO_MESSAGES = "404"
MAX_BATCH_BYTES = 8 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class StoredMessage:
    """A message as a stream keeps it."""

    subject: str
    seq: int
    data: bytes
    headers: dict[str, str]

    @property
    def stored_at(self) -> float:
        """When it was stored, in Unix seconds."""
        return datetime.fromisoformat(self.headers[_TIME]).timestamp()


async def read_subject(
    bus: Bus,
    stream: str,
    subject: str,
    start_seq: int = 1,
    limit: int = 4096,
    timeout_s: float = 2.0,
    *,
    stream_may_miss: bool = True,
) -> list[StoredMessage]:
    """Reads the messages of a subject, wildcards allowed, in order from a stream sequence on.

    A missing stream reads as empty, because a memory stream is gone for a moment after the server restarts; with
    `stream_may_miss` false it is an error, for readers to whom empty means something.

    Raises:
        BusUnavailable: the server did not answer within the timeout.
    """
    found: list[StoredMessage] = []
    while len(found) < limit:
        body = {
            "seq": start_seq,
            "next_by_subj": subject,
            "batch": limit - len(found),
            "max_bytes": MAX_BATCH_BYTES,
        }
        messages, more = await _batch(bus, stream, body, timeout_s, stream_may_miss=stream_may_miss)
        found += messages
        if not more or not messages:
            break
        start_seq = messages[-1].seq + 1
    return found


async def read_batches(
    bus: Bus, stream: str, subject: str, start_seq: int = 1, batch_size: int = 1000, timeout_s: float = 5.0
) -> AsyncGenerator[list[StoredMessage]]:
    """Reads all messages of a subject, wildcards allowed, in order from a stream sequence on, some at a time.

    Raises:
        BusUnavailable: the server did not answer within the timeout, which counts for each batch.
    """
    while True:
        batch = await read_subject(bus, stream, subject, start_seq, batch_size, timeout_s, stream_may_miss=False)
        if batch:
            yield batch
        if len(batch) < batch_size:
            return
        start_seq = batch[-1].seq + 1


async def subject_names(bus: Bus, stream: str, pattern: str, timeout_s: float = 5.0) -> list[str]:
    """The subjects of a stream's messages that match a pattern; raises ApiError and BusUnavailable."""
    names: list[str] = []
    while True:
        body = {"subjects_filter": pattern, "offset": len(names)}
        info = await bus.api(f"STREAM.INFO.{stream}", body, timeout_s)
        found = list(info["state"].get("subjects") or ())
        names += found
        if not found or len(names) >= info.get("total", 0):
            return names


async def read_last(
    bus: Bus, stream: str, subject: str, timeout_s: float = 2.0, *, stream_may_miss: bool = True
) -> StoredMessage | None:
    """Reads the newest message of one subject, or None.

    Raises:
        BusUnavailable: no answer in time, or nobody serves the stream and `stream_may_miss` is false.
    """
    try:
        message = await bus.connection.request(f"$JS.API.DIRECT.GET.{stream}.{subject}", b"", timeout=timeout_s)
    except nats.errors.NoRespondersError:
        if stream_may_miss:
            return None
        raise BusUnavailable(f"nobody serves {stream}") from None
    except (nats.errors.Error, TimeoutError, *TRANSPORT_ERRORS) as error:
        raise BusUnavailable("no answer in time") from error
    return None if _status(message) else _message(message)


async def first_seq(bus: Bus, stream: str, subject: str, since: float, timeout_s: float = 2.0) -> int | None:
    """The sequence of a subject's first message that was stored at a Unix time or later, or None.

    Raises:
        BusUnavailable: no answer in time, or nobody serves the stream.
    """
    begin = datetime.fromtimestamp(max(0.0, since), UTC).isoformat().replace("+00:00", "Z")
    body = json.dumps({"start_time": begin, "next_by_subj": subject}).encode()
    try:
        message = await bus.connection.request(f"$JS.API.DIRECT.GET.{stream}", body, timeout=timeout_s)
    except (nats.errors.Error, TimeoutError, *TRANSPORT_ERRORS) as error:
        raise BusUnavailable("no answer in time") from error
    return None if _status(message) else _message(message).seq


async def read_last_of_each(
    bus: Bus, stream: str, subjects: Sequence[str], timeout_s: float = 2.0
) -> list[StoredMessage]:
    """Reads the newest message of every subject that matches; at most 1,024 subjects.

    Raises:
        BusUnavailable: no answer in time, nobody serves the stream, or too many subjects match.
    """
    body = {"multi_last": list(subjects)}
    messages, _ = await _batch(bus, stream, body, timeout_s, stream_may_miss=False)
    return messages


async def _batch(
    bus: Bus, stream: str, body: dict[str, Any], timeout_s: float, *, stream_may_miss: bool
) -> tuple[list[StoredMessage], bool]:
    """One batch, and whether the server has more that match."""
    found: list[StoredMessage] = []
    ended = ""
    done: asyncio.Future[bool] = asyncio.get_running_loop().create_future()

    def collect(message: Msg) -> None:
        nonlocal ended
        status = _status(message)
        if status is None:
            found.append(_message(message))
        elif not done.done():
            ended = status
            pending = (message.headers or {}).get(_PENDING, "0")
            done.set_result(status == _END_OF_BATCH and pending != "0")

    inbox = bus.connection.new_inbox()
    subscription = await bus.subscribe_now(inbox, collect)
    try:
        await bus.publish(f"$JS.API.DIRECT.GET.{stream}", json.dumps(body).encode(), reply=inbox)
        async with asyncio.timeout(timeout_s):
            more = await done
    except TimeoutError as error:
        raise BusUnavailable("no answer in time") from error
    finally:
        await bus.unsubscribe(subscription)
    if not stream_may_miss and ended not in {_END_OF_BATCH, _NO_MESSAGES}:
        raise BusUnavailable(f"{stream} answered {ended}")
    return found, more


def _status(message: Msg) -> str | None:
    headers = message.headers
    if not headers or _SEQUENCE in headers:
        return None if headers else "404"
    return headers.get(_STATUS, "404")


def _message(message: Msg) -> StoredMessage:
    headers = dict(message.headers or {})
    subject = headers.pop(_SUBJECT)
    seq = int(headers.pop(_SEQUENCE))
    return StoredMessage(subject, seq, message.data, headers)
