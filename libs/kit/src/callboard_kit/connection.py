"""nats-py's client with three short cuts for small messages on the hot path.

- A callback registered with `subscribe_now` runs where the socket is read. The client's own way is a reader task, a
  queue and a task for each subscription.
- Publishes of one turn of the event loop are written together at its end, or at once with `flush`. The client's own way
  is a flusher task.
- A request waits on one future and one timer.

A message that is incomplete, has no such callback, or cannot be written now takes the client's own way, and the
messages after it queue up behind it. ADR 0008 has the measurements.
"""

import asyncio
import logging
import ssl
from collections.abc import Callable
from typing import Any
from urllib.parse import ParseResult

import nats.errors
from nats.aio.client import Client, Srv
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.aio.transport import TcpTransport
from nats.protocol.parser import AWAITING_CONTROL_LINE

from callboard_kit.nkeys import UserKey

log = logging.getLogger(__name__)


NO_RESPONDERS = "503"
MAX_UNSENT_BYTES = 1024 * 1024
"""With more than this in the socket's buffer, the client's own flusher waits until the server has read it."""

OnMessage = Callable[[Msg], None]
Take = Callable[[bytes], int]
_HEADERS_BEGIN = "NATS/1.0"
_PLAIN_SCHEMES = ("nats", "tls")


_REFUSAL = b"-ERR 'Authorization"
"""How the server begins its answer to credentials that it does not know."""


class _Reader(asyncio.StreamReader):
    """A stream reader that offers arriving bytes to `take` before it buffers them."""

    take: Take | None = None
    refused = False
    """Whether the server refused the credentials; a reset that follows at once can hide the line from its reader."""
    _buffer: bytearray

    def feed_data(self, data: Any) -> None:
        """Buffers what `take` leaves of the data."""
        if self.take is None and _REFUSAL in data:
            self.refused = True
        # Buffered bytes are read in order, so new bytes must not overtake them.
        if self.take is not None and not self._buffer:
            data = data[self.take(data) :]
        if data:
            super().feed_data(data)


class _Transport(TcpTransport):
    """The client's transport with a `_Reader`, also under TLS."""

    def __init__(self) -> None:
        super().__init__()
        self.reader: _Reader | None = None
        self.under_tls = False

    async def connect(self, uri: ParseResult, buffer_size: int, connect_timeout: int) -> None:
        """Connects; raises TimeoutError and OSError."""
        if self._bare_io_writer is not None:
            # The client leaves a connection open that was refused.
            self._bare_io_writer.close()
        self.under_tls = False
        loop = asyncio.get_running_loop()
        reader = _Reader(limit=buffer_size, loop=loop)
        protocol = asyncio.StreamReaderProtocol(reader, loop=loop)
        async with asyncio.timeout(connect_timeout):
            # The client lets no address without a host and a port get here.
            transport, _ = await loop.create_connection(lambda: protocol, uri.hostname or "", uri.port or 0)
        writer = asyncio.StreamWriter(transport, protocol, reader, loop)
        self.reader = self._bare_io_reader = self._io_reader = reader
        self._bare_io_writer = self._io_writer = writer

    async def connect_tls(
        self, uri: str | ParseResult, ssl_context: ssl.SSLContext, buffer_size: int, connect_timeout: int
    ) -> None:
        """Goes over to TLS; raises TimeoutError and OSError, of which ssl.SSLError is one."""
        loop = asyncio.get_running_loop()
        reader = _Reader(limit=buffer_size, loop=loop)
        protocol = asyncio.StreamReaderProtocol(reader, loop=loop)
        assert self._io_writer is not None
        name = uri if isinstance(uri, str) else uri.hostname
        async with asyncio.timeout(connect_timeout):
            transport = await loop.start_tls(self._io_writer.transport, protocol, ssl_context, server_hostname=name)
        # start_tls raises where it makes none.
        assert transport is not None
        self.reader = self._io_reader = reader
        self._io_writer = asyncio.StreamWriter(transport, protocol, reader, loop)
        self.under_tls = True

    def __bool__(self) -> bool:
        return True


class TlsMissing(nats.errors.Error):
    """The server does not speak TLS, which the settings ask for."""

    def __str__(self) -> str:
        return "nats: the server does not speak TLS"


class CertificateMissing(nats.errors.Error):
    """The server ends connections right behind the TLS handshake, as one does that asks for a certificate."""

    def __str__(self) -> str:
        return "nats: the server ends connections behind the TLS handshake; it may ask for a certificate"


_SENDING = (Client.CONNECTED, Client.DRAINING_SUBS)


class Connection(Client):
    """A client for one connection to the bus.

    With `key` it answers the server's challenge by that NKey. With `requires_tls` it never sends credentials, or
    anything else, without TLS.
    """

    def __init__(self, key: UserKey | None = None, *, requires_tls: bool = False) -> None:
        super().__init__()
        self._key = key
        self._requires_tls = requires_tls
        self._on_message: dict[int, OnMessage] = {}
        self._asked = 0
        self._on_heartbeat: dict[str, Callable[[], None]] = {}
        self._write_due = False

    @property
    def refused(self) -> bool:
        """Whether the server refused the credentials at the last attempt to connect."""
        reader = self._transport.reader if isinstance(self._transport, _Transport) else None
        return reader is not None and reader.refused

    @property
    def under_tls(self) -> bool:
        """Whether the last attempt to connect came as far as TLS."""
        return isinstance(self._transport, _Transport) and self._transport.under_tls

    async def subscribe_now(self, subject: str, on_message: OnMessage, queue: str = "") -> Subscription:
        """Subscribes with a plain function that runs where the socket is read; raises as `subscribe` does."""
        subscription = await self.subscribe(subject, queue=queue)
        self._on_message[subscription._id] = on_message  # pyright: ignore[reportPrivateUsage] - it tells no other way
        return subscription

    async def publish(
        self,
        subject: str,
        payload: bytes = b"",
        reply: str = "",
        headers: dict[str, str] | None = None,
        within_s: float = 0.0,
    ) -> None:
        """Queues a message for the next write; raises as the client's own `publish` does.

        The write comes at the end of this loop turn, or after `within_s` unless another message is written before.
        """
        command = _command(subject, payload, reply, headers)
        # The server counts the headers too, and ends the connection for good over a message that is too large.
        if (command is None or len(command) > self._max_payload) and self._is_too_large(payload, headers):
            raise nats.errors.MaxPayloadError
        if command is None or not self._has_room(len(payload)):
            await super().publish(subject, payload, reply, headers)
            return
        self.stats["out_msgs"] += 1
        self.stats["out_bytes"] += len(payload)
        self._pending.append(command)
        self._pending_data_size += len(command)
        if within_s:
            asyncio.get_running_loop().call_later(within_s, self.write)
        elif not self._write_due:
            self._write_due = True
            asyncio.get_running_loop().call_soon(self.write)

    def write(self) -> None:
        """Writes queued messages to the socket, unless its send buffer is full."""
        self._write_due = False
        if not self._pending or self._transport is None or not self._has_room(0):
            return
        try:
            self._transport.writelines(self._pending)
        except (OSError, RuntimeError):
            # The connection is lost, which its reading side is about to notice; this goes out after the reconnect.
            return
        self._pending = []
        self._pending_data_size = 0

    async def ask(
        self,
        subject: str,
        payload: bytes,
        timeout_s: float,
        headers: dict[str, str] | None = None,
        on_late: OnMessage | None = None,
        late_s: float = 0.0,
        flush: bool = True,
        wait_s: float = 0.0,
    ) -> Msg:
        """Sends a request and returns the answer; an answer up to `late_s` after the timeout goes to `on_late`.

        With `flush` it is written at once, else at the end of this loop turn. With `wait_s` an empty message is a
        heartbeat of whoever works on the answer, after which the timeout begins anew, up to `wait_s` in all.

        Raises:
            nats.errors.Error: as `request` does.
        """
        if not self._resp_sub_prefix:
            await self._init_request_sub()
        assert self._resp_sub_prefix
        # The prefix is this connection's own and cannot be guessed, so numbers are enough behind it.
        self._asked += 1
        token = f"{self._asked:x}"
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Msg] = loop.create_future()
        self._resp_map[token] = answer
        timer = loop.call_later(timeout_s, _time_out, answer)
        if wait_s:
            until = loop.time() + wait_s

            def heard() -> None:
                nonlocal timer
                timer.cancel()
                timer = loop.call_later(min(timeout_s, max(0.0, until - loop.time())), _time_out, answer)

            self._on_heartbeat[token] = heard
        try:
            await self.publish(subject, payload, reply=self._resp_sub_prefix.decode() + token, headers=headers)
            if flush:
                self.write()
            message = await answer
        except nats.errors.TimeoutError:
            if on_late is not None:
                self._wait_on(token, on_late, late_s)
            raise
        finally:
            timer.cancel()
            if self._resp_map.get(token) is answer:
                del self._resp_map[token]
                self._on_heartbeat.pop(token, None)
        if not message.data and message.headers and message.headers.get("Status") == NO_RESPONDERS:
            raise nats.errors.NoRespondersError
        return message

    def _wait_on(self, token: str, on_late: OnMessage, late_s: float) -> None:
        loop = asyncio.get_running_loop()
        late: asyncio.Future[Msg] = loop.create_future()
        self._resp_map[token] = late
        if token in self._on_heartbeat:
            self._on_heartbeat[token] = _ignore
        timer = loop.call_later(late_s, late.cancel)

        def ended(found: asyncio.Future[Msg]) -> None:
            timer.cancel()
            self._resp_map.pop(token, None)
            self._on_heartbeat.pop(token, None)
            if not found.cancelled():
                on_late(found.result())

        late.add_done_callback(ended)

    def _remove_sub(self, sid: int, max_msgs: int = 0) -> None:
        self._on_message.pop(sid, None)
        super()._remove_sub(sid, max_msgs)

    async def _init_request_sub(self) -> None:
        await super()._init_request_sub()
        # The subscription for the answers to all requests, which was just made; others may have been since.
        answers = f"{(self._resp_sub_prefix or b'').decode()}*"
        sid = next(sid for sid, subscription in self._subs.items() if subscription.subject == answers)
        self._on_message[sid] = self._answered

    def _answered(self, message: Msg) -> None:
        token = message.subject.rpartition(".")[2]
        future = self._resp_map.get(token)
        if future is None or future.done():
            return
        if not message.data and not message.headers and (heard := self._on_heartbeat.get(token)) is not None:
            heard()
        else:
            future.set_result(message)

    async def _connect_to_server(self, s: Srv) -> None:
        if self._transport is None and s.uri.scheme in _PLAIN_SCHEMES:
            self._transport = _Transport()
        await super()._connect_to_server(s)

    def _connect_command(self) -> bytes:
        if self._requires_tls and not self.under_tls:
            raise TlsMissing
        if self._key is not None:
            self._signature_cb, self._public_nkey = self._key.sign, self._key.public
        return super()._connect_command()

    async def _read_loop(self) -> None:
        # Until now the client has read the server's greeting itself.
        if isinstance(self._transport, _Transport) and self._transport.reader is not None:
            self._transport.reader.take = self._take
        await super()._read_loop()

    def _take(self, data: bytes) -> int:
        """Dispatches the complete messages at the start of the data that have a callback; returns how many bytes."""
        taken = 0
        # The client must finish a message whose first bytes it has already parsed.
        if self._ps.buf or self._ps.state != AWAITING_CONTROL_LINE or not self.is_connected:
            return taken
        while (line_end := data.find(b"\r\n", taken)) >= 0:
            operation, *words = data[taken:line_end].split(b" ")
            try:
                if operation == b"MSG":
                    headers_bytes = 0
                elif operation == b"HMSG":
                    headers_bytes = int(words.pop(-2))
                else:
                    break
                subject, sid, *reply, size = words
                on_message = self._on_message.get(int(sid))
                begin = line_end + 2
                end = begin + int(size)
            except ValueError:
                break
            if on_message is None or end + 2 > len(data):
                break
            taken = end + 2
            headers = parse_headers(data[begin : begin + headers_bytes]) if headers_bytes else None
            payload = data[begin + headers_bytes : end]
            self._hand_over(on_message, int(sid), subject, b"".join(reply), payload, headers)
        return taken

    async def _process_msg(self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: bytes) -> None:
        on_message = self._on_message.get(sid)
        if on_message is None:
            await super()._process_msg(sid, subject, reply, data, headers)
        else:
            self._hand_over(on_message, sid, subject, reply, data, parse_headers(headers) if headers else None)

    def _hand_over(
        self, on_message: OnMessage, sid: int, subject: bytes, reply: bytes, data: bytes, headers: dict[str, str] | None
    ) -> None:
        self.stats["in_msgs"] += 1
        self.stats["in_bytes"] += len(data)
        try:
            on_message(self._build_message(sid, subject, reply, data, headers))
        except Exception:
            log.exception("message_failed", extra={"subject": subject.decode()})

    def _is_too_large(self, payload: bytes, headers: dict[str, str] | None) -> bool:
        block_bytes = len(_block(headers)) if headers else 0
        return block_bytes + len(payload) > self._max_payload

    def _has_room(self, payload_bytes: int) -> bool:
        """Whether a message can be written in this turn: connected, small enough, and the send buffer not full."""
        if self._status not in _SENDING or payload_bytes > self._max_payload:
            return False
        return self._unsent_bytes() < MAX_UNSENT_BYTES

    def _unsent_bytes(self) -> int:
        writer: asyncio.StreamWriter | None = getattr(self._transport, "_io_writer", None)
        return writer.transport.get_write_buffer_size() if writer else 0


def _command(subject: str, payload: bytes, reply: str, headers: dict[str, str] | None) -> bytes | None:
    """The protocol line of a publish, or None for a subject or header that the client must validate."""
    words = f"{subject} {reply}" if reply else subject
    if not words.isprintable() or words.count(" ") != (1 if reply else 0) or not subject:
        return None
    if not headers:
        return f"PUB {words} {len(payload)}\r\n".encode() + payload + b"\r\n"
    block = _block(headers)
    if block.count(b"\n") != len(headers) + 2 or block.count(b"\r") != len(headers) + 2:
        return None
    size = len(block)
    return f"HPUB {words} {size} {size + len(payload)}\r\n".encode() + block + payload + b"\r\n"


def _block(headers: dict[str, str]) -> bytes:
    lines = "".join([f"{name}: {value}\r\n" for name, value in headers.items()])
    return f"{_HEADERS_BEGIN}\r\n{lines}\r\n".encode()


def parse_headers(block: bytes) -> dict[str, str] | None:
    """A message's headers by name, including the server's status; None when there are none."""
    first, *lines = block.decode(errors="replace").split("\r\n")
    headers: dict[str, str] = {}
    status, _, description = first.removeprefix(_HEADERS_BEGIN).strip().partition(" ")
    if status:
        headers["Status"] = status
    if description:
        headers["Description"] = description
    for line in lines:
        name, colon, value = line.partition(":")
        if colon:
            headers[name.strip()] = value.strip()
    return headers or None


def _ignore() -> None:
    pass


def _time_out(answer: asyncio.Future[Msg]) -> None:
    if not answer.done():
        answer.set_exception(nats.errors.TimeoutError())
