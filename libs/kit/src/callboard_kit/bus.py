"""One connection to the message bus, with the operations that Callboard uses."""

import asyncio
import json
import logging
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Self

import nats
import nats.errors
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from pydantic_core import from_json

from callboard_contracts.config import NatsSection
from callboard_contracts.headers import MSG_ID
from callboard_contracts.streams import QUOTA
from callboard_kit import tracing
from callboard_kit.bus_clock import BusClock
from callboard_kit.bus_errors import (
    ApiError,
    BusError,
    BusUnavailable,
    NoResponders,
    PublishRefused,
)
from callboard_kit.connecting import ConnectAttempts, identity, inbox_prefix, is_refused, why_not
from callboard_kit.connection import Connection, OnMessage, OutgoingMessage
from callboard_kit.payload_cipher import PayloadCipher
from callboard_kit.store_sync import StoreSync

__all__ = ["ApiError", "Bus", "BusError", "BusUnavailable", "NoResponders", "PublishRefused", "Stored"]

log = logging.getLogger(__name__)

CONNECT_TIMEOUT_S = 30.0
RECONNECT_WAIT_S = 0.25
CLOSE_TIMEOUT_S = 5.0
PUBLISH_ATTEMPT_S = 2.0
PUBLISH_PAUSE_S = 0.1
MAX_PENDING_BYTES = 32 * 1024 * 1024
RETRYABLE_ERROR_CODES = frozenset({10008, 10023})
"""Server errors that pass: no leader yet, insufficient resources for the moment."""
MESSAGE_TOO_LARGE = 10054
"""The server's error code for a message that is larger than a stream takes."""

TRANSPORT_ERRORS = (OSError, RuntimeError)
"""What a write raises after a connection is lost and before the client notices."""

Callback = Callable[[Msg], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Stored:
    """A stream's acknowledgement; `value` is the counter's new value where the stream counts."""

    stream: str
    seq: int
    duplicate: bool
    value: int | None


class Bus:
    """A connection that reconnects by itself and calls back when it has."""

    def __init__(self, connection: Connection, store_sync: StoreSync | None = None) -> None:
        self.connection = connection
        self._store_sync = store_sync
        self.clock = BusClock(self._time)
        self.cipher = PayloadCipher(self)
        self._on_reconnect: list[Callable[[], None]] = []
        self._closing = False

    @classmethod
    async def connect(cls, settings: NatsSection, name: str, on_closed: Callable[[], None]) -> Self:
        """Connects; `on_closed` is called if the connection ends for good.

        Raises:
            BusUnavailable: there is no bus within 30 s, or, at once, what it is told will never please it.
        """
        key, context = await asyncio.to_thread(identity, settings)
        if settings.store_dir is not None and not (settings.store_dir / "jetstream").is_dir():
            raise BusUnavailable(f"nats.store_dir: {settings.store_dir} is not the store of a nats-server")
        store_sync = None if settings.store_dir is None else StoreSync(settings.store_dir)
        bus = cls(Connection(key, requires_tls=settings.uses_tls), store_sync)
        connecting = True
        attempts = ConnectAttempts(settings, bus.connection)
        user, password = settings.credentials or (None, None)

        async def reconnected() -> None:
            log.info("bus_reconnected", extra={"connection": name})
            for callback in bus._on_reconnect:
                callback()

        async def disconnected() -> None:
            if not bus._closing:
                log.warning("bus_disconnected", extra={"connection": name})

        async def closed() -> None:
            on_closed()

        async def failed(error: Exception) -> None:
            if connecting:
                attempts.failed(error)
            elif is_refused(error, bus.connection):
                log.error("bus_refused", extra={"connection": name, "reason": "authorization refused"})
                return
            # Permission violations and slow consumers are reported here and nowhere else.
            log.warning("bus_error", extra={"connection": name, "error": type(error).__name__}, exc_info=error)

        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                await bus.connection.connect(
                    servers=[server.strip() for server in settings.url.split(",")],
                    name=name,
                    user=user,
                    password=password,
                    tls=context,
                    inbox_prefix=inbox_prefix(settings),
                    max_reconnect_attempts=-1,
                    reconnect_time_wait=RECONNECT_WAIT_S,  # pyright: ignore[reportArgumentType] - a float works
                    reconnected_cb=reconnected,
                    disconnected_cb=disconnected,
                    closed_cb=closed,
                    error_cb=failed,
                    pending_size=MAX_PENDING_BYTES,
                    ping_interval=10,
                    max_outstanding_pings=2,
                )
        except (TimeoutError, OSError, nats.errors.Error) as error:
            await bus.close()
            raise BusUnavailable(why_not(error, attempts.last, settings)) from error
        connecting = False
        return bus

    @property
    def connected(self) -> bool:
        """Whether the connection stands at this moment."""
        return self.connection.is_connected

    @property
    def syncs_store(self) -> bool:
        """Whether the server leaves it to its clients to bring what it has stored to the disk."""
        return self._store_sync is not None

    async def on_disk(self, *streams: str, within_s: float = 0.0) -> None:
        """Waits until all that was acknowledged of streams is on the disk, where the server does not see to it itself.

        Its sync begins `within_s`, so that others may join it.

        Raises:
            BusUnavailable: the disk failed or takes too long.
        """
        if self._store_sync is not None:
            await self._store_sync.on_disk(*streams, within_s=within_s)

    def on_reconnect(self, callback: Callable[[], None]) -> None:
        """Calls back, on the event loop, each time the connection is restored."""
        self._on_reconnect.append(callback)

    def send(
        self,
        subject: str,
        payload: bytes = b"",
        headers: dict[str, str] | None = None,
        reply: str = "",
        *,
        flush: bool = False,
    ) -> None:
        """Sends a message without an acknowledgement; while reconnecting it is kept, up to 32 MiB, then refused.

        It goes out at the end of this turn of the event loop. With `flush` it goes out at once, unless another message
        of this turn has. Whoever sends much and waits for no answer uses `publish`, which a server that does not read
        slows down.

        Raises:
            BusUnavailable: too much is waiting for the connection to come back, or it ended.
        """
        try:
            self.connection.send(subject, payload, reply, headers)
        except nats.errors.Error as error:
            raise BusUnavailable(f"cannot publish: {type(error).__name__}") from error
        if flush:
            self.connection.write_at_once()

    def send_all(self, messages: Iterable[OutgoingMessage]) -> None:
        """Sends several messages as `send` does, all or none of them; raises as it does."""
        try:
            self.connection.send_all(messages)
        except nats.errors.Error as error:
            raise BusUnavailable(f"cannot publish: {type(error).__name__}") from error

    async def publish(
        self,
        subject: str,
        payload: bytes = b"",
        headers: dict[str, str] | None = None,
        reply: str = "",
        *,
        flush: bool = False,
    ) -> None:
        """Sends a message as `send` does, and waits while the server does not read and 32 MiB are queued.

        Raises:
            BusUnavailable: too much is waiting for the connection to come back, or it ended.
        """
        self.send(subject, payload, headers, reply, flush=flush)
        if self.connection.is_congested:
            try:
                await self.connection.until_written()
            except TRANSPORT_ERRORS as error:
                # The client notices a lost connection only a moment later; the message is in its buffer and goes out
                # with the reconnection, unless the connection has ended for good.
                if self.connection.is_closed:
                    raise BusUnavailable("the connection has ended") from error

    async def publish_stored(
        self,
        subject: str,
        payload: bytes,
        msg_id: str | None,
        timeout_s: float = 10.0,
        headers: dict[str, str] | None = None,
        *,
        sync_within_s: float = 0.0,
    ) -> Stored:
        """Publishes into a stream and waits until it is on the disk, repeating under the same id until the timeout.

        Where the server leaves the disk to its clients, the sync begins within `sync_within_s`.

        Raises:
            PublishRefused: the stream does not take it.
            BusUnavailable: no acknowledgement came in time; only with `msg_id` is a repeat safe.
        """
        all_headers = tracing.carried(headers) or {}
        if msg_id is not None:
            all_headers[MSG_ID] = msg_id
        deadline = time.monotonic() + timeout_s
        while True:
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                raise BusUnavailable("no acknowledgement in time")
            try:
                reply = await self.connection.ask(subject, payload, min(PUBLISH_ATTEMPT_S, left_s), all_headers or None)
                stored = _stored(from_json(reply.data))
                break
            except nats.errors.MaxPayloadError:
                raise PublishRefused(MESSAGE_TOO_LARGE, "larger than a message may be") from None
            except PublishRefused as refused:
                if refused.err_code not in RETRYABLE_ERROR_CODES:
                    raise
            except (nats.errors.Error, TimeoutError, *TRANSPORT_ERRORS) as error:
                if msg_id is None:
                    raise BusUnavailable("no acknowledgement") from error
            await asyncio.sleep(min(PUBLISH_PAUSE_S, max(0.0, left_s)))
        await self.on_disk(stored.stream, within_s=sync_within_s)
        return stored

    async def request(
        self,
        subject: str,
        payload: bytes,
        timeout_s: float,
        on_late: Callable[[bytes], None] | None = None,
        late_s: float = 0.0,
        wait_s: float = 0.0,
    ) -> bytes:
        """Sends a request and returns the answer; an answer up to `late_s` after the timeout goes to `on_late`.

        With `wait_s` whoever works on it may send empty messages, after each of which the timeout begins anew, up to
        `wait_s` in all.

        Raises:
            NoResponders: nobody listens.
            BusUnavailable: no answer in time.
        """
        headers = None if subject.startswith("$") else tracing.carried()
        try:
            answer = await self.connection.ask(
                subject, payload, timeout_s, headers, on_late=on_late, late_s=late_s, wait_s=wait_s
            )
        except nats.errors.NoRespondersError:
            raise NoResponders(subject) from None
        except (nats.errors.Error, TimeoutError, *TRANSPORT_ERRORS) as error:
            raise BusUnavailable("no answer in time") from error
        return answer.data

    def request_later(
        self, subject: str, payload: bytes, on_end: Callable[[bytes | None], None], wait_s: float
    ) -> None:
        """Sends a request that no task waits for: `on_end` gets the answer, or None where there is none in `wait_s`.

        The answer is empty where nobody listens.

        Raises:
            BusUnavailable: it cannot be sent.
        """
        try:
            self.connection.ask_later(subject, payload, on_end, wait_s, tracing.carried())
        except nats.errors.Error as error:
            raise BusUnavailable(f"cannot ask: {type(error).__name__}") from error

    async def api(self, operation: str, body: dict[str, Any], timeout_s: float = 5.0) -> dict[str, Any]:
        """Calls the server's stream API, for instance `STREAM.INFO.CHAT`.

        Raises:
            ApiError: the server answered with an error; 404 means that there is no such thing.
            BusUnavailable: no answer in time, or no server keeps streams.
        """
        payload = json.dumps(body).encode() if body else b""
        try:
            answer = json.loads(await self.request(f"$JS.API.{operation}", payload, timeout_s))
        except NoResponders:
            raise BusUnavailable("no server keeps streams") from None
        if error := answer.get("error"):
            raise ApiError(error.get("code", 0), error.get("err_code", 0), error.get("description", ""))
        return answer

    async def subscribe(self, subject: str, callback: Callback, queue: str = "") -> Subscription:
        """Calls back for every message; the callback must not wait, since the next message waits for it.

        Raises:
            BusUnavailable: the connection has ended.
        """
        try:
            return await self.connection.subscribe(subject, queue=queue, cb=callback)
        except nats.errors.Error as error:
            raise BusUnavailable(f"cannot subscribe: {type(error).__name__}") from error

    async def subscribe_now(self, subject: str, on_message: OnMessage, queue: str = "") -> Subscription:
        """Calls back for every message where the socket is read; for short work only, since all other messages wait.

        Raises:
            BusUnavailable: the connection has ended.
        """
        try:
            return await self.connection.subscribe_now(subject, on_message, queue)
        except nats.errors.Error as error:
            raise BusUnavailable(f"cannot subscribe: {type(error).__name__}") from error

    async def unsubscribe(self, subscription: Subscription) -> None:
        """Ends a subscription; a lost connection is no error."""
        try:
            await subscription.unsubscribe()
        except (nats.errors.Error, *TRANSPORT_ERRORS):
            log.debug("unsubscribe_failed")

    async def drain(self, subscription: Subscription) -> None:
        """Ends a subscription once every message sent to it has arrived; a lost connection ends it at once."""
        try:
            async with asyncio.timeout(CLOSE_TIMEOUT_S):
                await subscription.drain()
        except (TimeoutError, nats.errors.Error, *TRANSPORT_ERRORS):
            log.debug("drain_failed")

    async def delete_message(self, stream: str, seq: int) -> bool:
        """Deletes one message of a stream, on the disk too; false when it is already gone."""
        try:
            answer = await self.api(f"STREAM.MSG.DELETE.{stream}", {"seq": seq})
        except ApiError:
            return False
        await self.on_disk(stream)
        return bool(answer.get("success"))

    async def _time(self) -> float:
        # The leader of one stream answers, so that all processes hear one clock, whatever server they are connected to.
        return datetime.fromisoformat((await self.api(f"STREAM.INFO.{QUOTA}", {}))["ts"]).timestamp()

    async def close(self) -> None:
        """Flushes and closes the connection, within 5 s for each."""
        self._closing = True
        try:
            async with asyncio.timeout(CLOSE_TIMEOUT_S):
                if self.connection.is_connected:
                    await self.connection.flush(timeout=2)
        except (TimeoutError, nats.errors.Error, *TRANSPORT_ERRORS):
            log.warning("bus_flush_failed")
        try:
            async with asyncio.timeout(CLOSE_TIMEOUT_S):
                await self.connection.close()
        except (TimeoutError, nats.errors.Error, *TRANSPORT_ERRORS):
            # The client tries to write its last bytes even when the server is gone.
            log.debug("bus_close_failed")
        if self._store_sync is not None:
            self._store_sync.close()


def _stored(answer: dict[str, Any]) -> Stored:
    if error := answer.get("error"):
        raise PublishRefused(error.get("err_code", 0), error.get("description", ""))
    value = answer.get("val")
    return Stored(answer["stream"], answer["seq"], bool(answer.get("duplicate")), None if value is None else int(value))
