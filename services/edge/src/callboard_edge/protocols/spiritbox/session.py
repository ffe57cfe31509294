"""One session of Engine.IO (protocol 4): a connection by long polling that becomes a WebSocket, with heartbeats."""

import asyncio
import binascii
from base64 import b64decode, b64encode
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from aiohttp import WSMsgType, web

from callboard_contracts.errors import CallboardError, ErrorCode
from callboard_edge.http.call import WRITE_TIMEOUT_S
from callboard_kit.lifecycle import is_set_within

PING_INTERVAL_S = 25.0
PING_TIMEOUT_S = 60.0
"""Long enough for the answer to a ping that waits behind a recording on a slow line."""
JOIN_TIMEOUT_S = 20.0
"""How long a session may be open without a visitor."""
PROBE_TIMEOUT_S = 10.0
CLOSE_TIMEOUT_S = 2.0
MAX_WAITING = 128
MAX_WAITING_BYTES = 8 * 1024 * 1024
"""What may wait for a page that does not read; answers are sent at the pace at which they are heard."""
MAX_PACKETS_AT_ONCE = 64
SEPARATOR = "\x1e"

CLOSE, PING, PONG, MESSAGE, UPGRADE, NOOP = "123456"
PROBE = "probe"


class Receiver(Protocol):
    """Who takes what a page sends."""

    def text(self, packet: str) -> None:
        """Takes a message."""
        ...

    def binary(self, data: bytes) -> None:
        """Takes a binary message."""
        ...

    def ended(self) -> None:
        """Learns that the session is over; called once."""
        ...


@dataclass(frozen=True, slots=True)
class _Waiting:
    """Packets that go out together; `answer` where they are part of one, and can be taken back."""

    packets: tuple[str | bytes, ...]
    answer: bool

    @property
    def size(self) -> int:
        return sum(map(len, self.packets))


class Session:
    """What is on its way to a page and from it, whatever carries it.

    `joined` is set by the receiver once the session is a visitor's. Nothing but the methods that carry packets waits.
    """

    def __init__(self, sid: str, receiver: Receiver) -> None:
        self.sid = sid
        self.joined = asyncio.Event()
        self._receiver = receiver
        self._waiting: deque[_Waiting] = deque()
        self._waiting_bytes = 0
        self._wake = asyncio.Event()
        self._answered_ping = asyncio.Event()
        self._over = asyncio.Event()
        self._polled = False
        self._upgrading = False
        self._on_websocket = False

    @property
    def is_over(self) -> bool:
        """Whether the session has ended."""
        return self._over.is_set()

    def send(self, *packets: str | bytes, answer: bool = False) -> None:
        """Sends messages, one after the other; a page that does not read is disconnected."""
        framed = (MESSAGE + packet if isinstance(packet, str) else packet for packet in packets)
        self._put(_Waiting(tuple(framed), answer))

    def take_back(self) -> None:
        """Forgets the answers that have not left yet."""
        kept = [one for one in self._waiting if not one.answer]
        self._waiting = deque(kept)
        self._waiting_bytes = sum(one.size for one in kept)

    def end(self) -> None:
        """Ends the session once what waits is sent; safe to repeat."""
        if self.is_over:
            return
        self._over.set()
        for event in (self._wake, self._answered_ping, self.joined):
            event.set()
        self._receiver.ended()

    async def beat(self) -> None:
        """Asks the page now and then whether it is still there, and ends a session that never becomes a visitor's."""
        if not await is_set_within(self.joined, JOIN_TIMEOUT_S):
            self.end()
        while not await is_set_within(self._over, PING_INTERVAL_S):
            self._answered_ping.clear()
            self._put(_Waiting((PING,), answer=False))
            if not await is_set_within(self._answered_ping, PING_TIMEOUT_S):
                self.end()

    async def poll(self) -> str:
        """What waits for a page that polls, as soon as there is something.

        Raises:
            CallboardError: the page polls already, or has a WebSocket; the first ends the session.
        """
        if self._on_websocket:
            raise CallboardError(ErrorCode.INVALID_REQUEST, "The session has a WebSocket.")
        if self._polled:
            self.end()
            raise CallboardError(ErrorCode.INVALID_REQUEST, "The session is polled already.")
        self._polled = True
        try:
            while not (self._waiting or self.is_over or self._upgrading or self._on_websocket):
                self._wake.clear()
                await is_set_within(self._wake, PING_INTERVAL_S + PING_TIMEOUT_S)
        except asyncio.CancelledError:
            self.end()
            raise
        finally:
            self._polled = False
        if (self._upgrading or self._on_websocket) and not self.is_over:
            return NOOP
        packets = [packet for one in self._all() for packet in one.packets]
        if self.is_over:
            packets.append(CLOSE)
        return SEPARATOR.join(one if isinstance(one, str) else f"b{b64encode(one).decode()}" for one in packets)

    def posted(self, payload: str) -> None:
        """Takes the packets of a page that polls.

        Raises:
            CallboardError: they cannot be read; the session has ended.
        """
        if self._on_websocket:
            raise CallboardError(ErrorCode.INVALID_REQUEST, "The session has a WebSocket.")
        packets = payload.split(SEPARATOR, MAX_PACKETS_AT_ONCE)
        for packet in packets:
            if self.is_over:
                return
            if packet.startswith("b"):
                try:
                    data = b64decode(packet[1:], validate=True)
                except (binascii.Error, ValueError):
                    raise self._broken("A binary packet is not valid base64.") from None
                self._receiver.binary(data)
            else:
                self._take(packet)

    async def upgrade(self, websocket: web.WebSocketResponse) -> bool:
        """Moves the session onto a WebSocket, if the page means to; returns whether it does."""
        try:
            async with asyncio.timeout(PROBE_TIMEOUT_S):
                if await _text(websocket) != PING + PROBE:
                    return False
                await websocket.send_str(PONG + PROBE)
                self._upgrading = True
                self._wake.set()
                if await _text(websocket) != UPGRADE or self._on_websocket or self.is_over:
                    return False
        except (TimeoutError, ConnectionError):
            return False
        finally:
            self._upgrading = False
            self._wake.set()
        return True

    async def serve(self, websocket: web.WebSocketResponse, transport: asyncio.BaseTransport | None) -> None:
        """Carries packets over a WebSocket until either end closes it."""
        self._on_websocket = True
        self._wake.set()
        async with asyncio.TaskGroup() as group:
            group.create_task(self._write(websocket, transport))
            try:
                await self._read(websocket)
            finally:
                self.end()

    async def _read(self, websocket: web.WebSocketResponse) -> None:
        while not self.is_over:
            message = await websocket.receive()
            if message.type is WSMsgType.TEXT:
                try:
                    self._take(message.data)
                except CallboardError:
                    return
            elif message.type is WSMsgType.BINARY:
                self._receiver.binary(message.data)
            else:
                return

    async def _write(self, websocket: web.WebSocketResponse, transport: asyncio.BaseTransport | None) -> None:
        try:
            while self._waiting or not self.is_over:
                if not self._waiting:
                    self._wake.clear()
                    await self._wake.wait()
                    continue
                one = self._waiting.popleft()
                self._waiting_bytes -= one.size
                for packet in one.packets:
                    async with asyncio.timeout(WRITE_TIMEOUT_S):
                        await (websocket.send_str(packet) if isinstance(packet, str) else websocket.send_bytes(packet))
            await websocket.close()
        except (TimeoutError, ConnectionError):
            # The page does not read, or is gone.
            self.end()
            if isinstance(transport, asyncio.WriteTransport):
                transport.abort()

    def _take(self, packet: str) -> None:
        kind, content = packet[:1], packet[1:]
        if kind == MESSAGE:
            self._receiver.text(content)
        elif kind == PONG:
            self._answered_ping.set()
        elif kind == CLOSE:
            self.end()
        elif kind == PING:
            self._put(_Waiting((PONG + content[:MAX_PACKETS_AT_ONCE],), answer=False))
        elif kind not in (UPGRADE, NOOP):
            raise self._broken("There is no packet of this type.")

    def _broken(self, message: str) -> CallboardError:
        self.end()
        return CallboardError(ErrorCode.INVALID_REQUEST, message)

    def _put(self, one: _Waiting) -> None:
        if self.is_over:
            return
        self._waiting.append(one)
        self._waiting_bytes += one.size
        if len(self._waiting) > MAX_WAITING or self._waiting_bytes > MAX_WAITING_BYTES:
            self._all()
            self.end()
        self._wake.set()

    def _all(self) -> Sequence[_Waiting]:
        taken, self._waiting, self._waiting_bytes = self._waiting, deque(), 0
        return tuple(taken)


async def _text(websocket: web.WebSocketResponse) -> str | None:
    message = await websocket.receive()
    return message.data if message.type is WSMsgType.TEXT else None
