"""nats-py's client with three short cuts for small messages on the hot path.

- A callback registered with `subscribe_now` runs where the socket is read. The client's own way is a reader task, a
  queue and a task for each subscription.
- Publishes of one turn of the event loop are written together at its end, or at once with `write`. The client's own way
  is a flusher task.
- A request waits on one future and one timer.

A message that is incomplete or has no such callback takes the client's own way, and the messages after it queue up
behind it. ADR 0008 has the measurements.
"""

import asyncio
import logging
from collections.abc import Callable, Iterable, Sequence

import nats.errors
from nats.aio.client import Client, Srv
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.protocol.parser import AWAITING_CONTROL_LINE

from callboard_kit.nkeys import UserKey
from callboard_kit.transport import Transport
from callboard_kit.wire import counted_bytes, parse_headers, publish_command

log = logging.getLogger(__name__)


NO_RESPONDERS = "503"
MAX_UNSENT_BYTES = 1024 * 1024
"""With more than this in the socket's buffer, what is sent waits until the server has read some of it."""
ROOM_CHECK_S = 0.002
"""How often a full buffer is looked at."""

OnMessage = Callable[[Msg], None]
OutgoingMessage = tuple[str, bytes, str, dict[str, str] | None]
"""A message to be sent: subject, payload, where it is answered, and headers."""
_PLAIN_SCHEMES = ("nats", "tls")


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
        self._on_end: dict[str, tuple[Callable[[bytes | None], None], asyncio.TimerHandle]] = {}
        """What answers are handed to that no task waits for."""
        self._write_due = False
        """Whether this turn of the event loop ends with a write."""
        self._flushed = False
        """Whether a message of this turn went out at once."""
        self._room_check: asyncio.TimerHandle | None = None
        self._answers_at = ""
        """How the subjects begin at which requests are answered, once there was one."""
        self._token_at = 0

    @property
    def refused(self) -> bool:
        """Whether the server refused the credentials at the last attempt to connect."""
        reader = self._transport.reader if isinstance(self._transport, Transport) else None
        return reader is not None and reader.refused

    @property
    def under_tls(self) -> bool:
        """Whether the last attempt to connect came as far as TLS."""
        return isinstance(self._transport, Transport) and self._transport.under_tls

    async def subscribe_now(self, subject: str, on_message: OnMessage, queue: str = "") -> Subscription:
        """Subscribes with a plain function that runs where the socket is read; raises as `subscribe` does."""
        subscription = await self.subscribe(subject, queue=queue)
        self._on_message[subscription._id] = on_message  # pyright: ignore[reportPrivateUsage] - it tells no other way
        return subscription

    def send(
        self,
        subject: str,
        payload: bytes = b"",
        reply: str = "",
        headers: dict[str, str] | None = None,
    ) -> None:
        """Queues a message for the write at the end of this loop turn; without a connection it waits for the next one.

        Raises:
            nats.errors.Error: it is no message that the server takes, the connection ended, or too much waits for it.
        """
        command = publish_command(subject, payload, reply, headers)
        self._queue([command], len(command))

    def send_all(self, messages: Iterable[OutgoingMessage]) -> None:
        """Queues several messages as `send` does, all or none of them; raises as it does."""
        commands = [publish_command(*message) for message in messages]
        self._queue(commands, sum(map(len, commands)))

    def _queue(self, commands: Sequence[bytes], size: int) -> None:
        # The server ends the connection for good over a message that is too large.
        if size > self._max_payload and any(counted_bytes(command) > self._max_payload for command in commands):
            raise nats.errors.MaxPayloadError
        if self._status not in _SENDING:
            self._check_may_wait(size)
        self.stats["out_msgs"] += len(commands)
        self.stats["out_bytes"] += size
        self._pending += commands
        self._pending_data_size += size
        if not self._write_due:
            self._write_due = True
            self._loop.call_soon(self._end_turn)

    async def publish(
        self, subject: str, payload: bytes = b"", reply: str = "", headers: dict[str, str] | None = None
    ) -> None:
        """Queues a message as `send` does, and waits where too much is queued."""
        self.send(subject, payload, reply, headers)
        if self.is_congested:
            await self.until_written()

    @property
    def is_congested(self) -> bool:
        """Whether so much is queued that whoever sends more should wait until it is written."""
        return self._pending_data_size > self._max_pending_size

    async def until_written(self) -> None:
        """Waits until what is queued is written, unless there is no connection; raises OSError and RuntimeError."""
        await self._flush_pending(force_flush=True)

    def write_at_once(self) -> None:
        """Writes what is queued without waiting for the end of this turn of the event loop.

        That is done once in a turn: where several are in a hurry, the others go out together at its end.
        """
        if not self._flushed:
            self._flushed = self._write_due
            self.write()

    def _end_turn(self) -> None:
        self._write_due = self._flushed = False
        self.write()

    def write(self) -> None:
        """Writes queued messages to the socket, or once its buffer has room for them."""
        if not self._pending or self._transport is None or self._status not in _SENDING:
            return
        if self._unsent_bytes() >= MAX_UNSENT_BYTES:
            if self._room_check is None:
                self._room_check = self._loop.call_later(ROOM_CHECK_S, self._check_room)
            return
        try:
            self._transport.writelines(self._pending)
        except (OSError, RuntimeError):
            # The connection is lost, which its reading side is about to notice; this goes out after the reconnect.
            return
        self._pending = []
        self._pending_data_size = 0

    async def _send_ping(self, future: asyncio.Future[bool] | None = None) -> None:
        # The client writes it past what is queued, but its answer has to say that all before it has arrived.
        self.write()
        await super()._send_ping(future)

    def _check_room(self) -> None:
        self._room_check = None
        self.write()

    def _check_may_wait(self, size: int) -> None:
        """Checks that a message may wait for the connection."""
        if self.is_closed:
            raise nats.errors.ConnectionClosedError
        if self.is_draining_pubs:
            raise nats.errors.ConnectionDrainingError
        if self._pending_data_size + size > self._max_pending_size:
            raise nats.errors.OutboundBufferLimitError

    def _unsent_bytes(self) -> int:
        writer: asyncio.StreamWriter | None = getattr(self._transport, "_io_writer", None)
        return writer.transport.get_write_buffer_size() if writer else 0

    async def ask(
        self,
        subject: str,
        payload: bytes,
        timeout_s: float,
        headers: dict[str, str] | None = None,
        on_late: Callable[[bytes], None] | None = None,
        late_s: float = 0.0,
        wait_s: float = 0.0,
    ) -> Msg:
        """Sends a request and returns the answer; an answer up to `late_s` after the timeout goes to `on_late`.

        With `wait_s` an empty message is a heartbeat of whoever works on the answer, after which the timeout begins
        anew, up to `wait_s` in all.

        Raises:
            nats.errors.Error: as `request` does.
        """
        if not self._resp_sub_prefix:
            await self._init_request_sub()
        # The prefix is this connection's own and cannot be guessed, so numbers are enough behind it.
        self._asked += 1
        token = f"{self._asked:x}"
        loop = self._loop
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
            self.send(subject, payload, self._answers_at + token, headers)
            if self._pending_data_size > self._max_pending_size:
                await self.until_written()
            message = await answer
        except nats.errors.TimeoutError:
            if on_late is not None:
                self._wait_on(token, lambda late: None if late is None else on_late(late), late_s)
            raise
        finally:
            timer.cancel()
            self._resp_map.pop(token, None)
            if wait_s and token not in self._on_end:
                del self._on_heartbeat[token]
        if not message.data and message.headers and message.headers.get("Status") == NO_RESPONDERS:
            raise nats.errors.NoRespondersError
        return message

    def ask_later(
        self,
        subject: str,
        payload: bytes,
        on_end: Callable[[bytes | None], None],
        wait_s: float,
        headers: dict[str, str] | None = None,
    ) -> None:
        """Sends a request that no task waits for: `on_end` gets the answer, or None after a time without one.

        There is none where nothing was asked before with `ask`.

        Raises:
            nats.errors.Error: as `send` does.
        """
        self._asked += 1
        token = f"{self._asked:x}"
        if self._answers_at:
            self.send(subject, payload, self._answers_at + token, headers)
        self._wait_on(token, on_end, wait_s if self._answers_at else 0.0)

    def _wait_on(self, token: str, on_end: Callable[[bytes | None], None], wait_s: float) -> None:
        """Hands the answer to a callback, or None when there is none in time."""
        self._on_end[token] = on_end, self._loop.call_later(wait_s, self._end, token, None)

    def _end(self, token: str, answer: bytes | None) -> None:
        on_end, timer = self._on_end.pop(token)
        timer.cancel()
        if token in self._on_heartbeat:
            del self._on_heartbeat[token]
        on_end(answer)

    def _remove_sub(self, sid: int, max_msgs: int = 0) -> None:
        self._on_message.pop(sid, None)
        super()._remove_sub(sid, max_msgs)

    async def _init_request_sub(self) -> None:
        await super()._init_request_sub()
        # The subscription for the answers to all requests, which was just made; others may have been since.
        self._answers_at = (self._resp_sub_prefix or b"").decode()
        self._token_at = len(self._answers_at)
        answers = f"{self._answers_at}*"
        sid = next(sid for sid, subscription in self._subs.items() if subscription.subject == answers)
        self._on_message[sid] = self._answered

    def _answered(self, message: Msg) -> None:
        token = message.subject[self._token_at :]
        future = self._resp_map.get(token)
        if future is None:
            if token in self._on_end and not (token in self._on_heartbeat and _is_heartbeat(message)):
                self._end(token, message.data)
        elif future.done():
            pass
        elif token in self._on_heartbeat and _is_heartbeat(message):
            self._on_heartbeat[token]()
        else:
            future.set_result(message)

    async def _connect_to_server(self, s: Srv) -> None:
        # Asked once, since asking costs a call of the system each time.
        self._loop = asyncio.get_running_loop()
        if self._transport is None and s.uri.scheme in _PLAIN_SCHEMES:
            self._transport = Transport()
        await super()._connect_to_server(s)

    def _connect_command(self) -> bytes:
        if self._requires_tls and not self.under_tls:
            raise TlsMissing
        if self._key is not None:
            self._signature_cb, self._public_nkey = self._key.sign, self._key.public
        return super()._connect_command()

    async def _read_loop(self) -> None:
        # Until now the client has read the server's greeting itself.
        if isinstance(self._transport, Transport) and self._transport.reader is not None:
            self._transport.reader.take = self._take
        await super()._read_loop()

    def _take(self, data: bytes) -> int:
        """Dispatches the complete messages at the start of the data that have a callback; returns how many bytes."""
        taken = 0
        # The client must finish a message whose first bytes it has already parsed.
        if self._ps.buf or self._ps.state != AWAITING_CONTROL_LINE or not self.is_connected:
            return taken
        arrived, messages, payload_bytes = len(data), 0, 0
        while (line_end := data.find(b"\r\n", taken)) >= 0:
            try:
                operation, *words = data[taken:line_end].decode().split(" ")
                if operation == "MSG":
                    headers_bytes = 0
                elif operation == "HMSG":
                    headers_bytes = int(words.pop(-2))
                else:
                    break
                subject, sid, *reply, size = words
                on_message = self._on_message.get(int(sid))
                begin = line_end + 2
                end = begin + int(size)
            except ValueError:
                break
            if on_message is None or end + 2 > arrived:
                break
            taken = end + 2
            headers = parse_headers(data[begin : begin + headers_bytes]) if headers_bytes else None
            begin += headers_bytes
            messages += 1
            payload_bytes += end - begin
            try:
                on_message(Msg(self, subject, reply[0] if reply else "", data[begin:end], headers))
            except Exception:
                _log_failed(subject)
        self._count_arrived(messages, payload_bytes)
        return taken

    async def _process_msg(self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: bytes) -> None:
        on_message = self._on_message.get(sid)
        if on_message is None:
            await super()._process_msg(sid, subject, reply, data, headers)
        else:
            self._count_arrived(1, len(data))
            found = parse_headers(headers) if headers else None
            try:
                on_message(Msg(self, subject.decode(), reply.decode(), data, found))
            except Exception:
                _log_failed(subject.decode())

    def _count_arrived(self, messages: int, payload_bytes: int) -> None:
        self.stats["in_msgs"] += messages
        self.stats["in_bytes"] += payload_bytes


def _log_failed(subject: str) -> None:
    """Logs the exception of a callback, after which the next message is handed over all the same."""
    log.exception("message_failed", extra={"subject": subject})


def _is_heartbeat(message: Msg) -> bool:
    return not message.data and not message.headers


def _time_out(answer: asyncio.Future[Msg]) -> None:
    if not answer.done():
        answer.set_exception(nats.errors.TimeoutError())
