"""A WebSocket on which JSON events go both ways, with bounds on what may wait and how long."""

import asyncio
from collections import deque
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal

from aiohttp import WSCloseCode, WSMsgType, web

from callboard_contracts.errors import CallboardError, ErrorCode
from callboard_edge.http.call import WRITE_TIMEOUT_S, Call

CLOSE_TIMEOUT_S = 2.0
PROTOCOLS = "Sec-WebSocket-Protocol"


def offered_protocols(headers: str) -> list[str]:
    """The subprotocols of a request's header."""
    return [name.strip() for name in headers.split(",") if name.strip()]


@dataclass(frozen=True, slots=True)
class Received:
    """What a client sent; `expired` where it sent nothing in time, `closed` where it never will again."""

    kind: Literal["text", "binary", "expired", "closed"]
    text: bytes = b""


class EventSocket:
    """One client's socket: events are queued at once and sent in order by `run`.

    An event may be tagged, so that it can be taken back while it waits. A client that reads nothing for 30 s is gone.
    """

    def __init__(self, call: Call, socket: web.WebSocketResponse, max_unsent_bytes: int) -> None:
        self._call = call
        self._socket = socket
        self._max_unsent_bytes = max_unsent_bytes
        self._queue: deque[tuple[str, str | None]] = deque()
        self._unsent_bytes = 0
        self._wakened = asyncio.Event()
        self._has_room = asyncio.Event()
        self._has_room.set()
        self.said_goodbye = False
        """Whether the client has closed the connection in order."""

    @classmethod
    async def accept(
        cls, call: Call, protocols: Collection[str], *, heartbeat_s: float, max_bytes: int, max_unsent_bytes: int
    ) -> "EventSocket":
        """Takes the connection over; `protocols` are the subprotocols of which one is chosen where some are offered.

        Raises:
            CallboardError: the request does not ask for a WebSocket, or for none that is spoken here.
        """
        headers = call.request.headers
        offered = offered_protocols(headers.get(PROTOCOLS, ""))
        # The HTTP library would log what is offered, which may hold a key.
        if offered and not set(offered) & set(protocols):
            raise _invalid(f"Of the subprotocols offered none is spoken here; offer '{next(iter(protocols))}'.")
        socket = web.WebSocketResponse(
            protocols=tuple(protocols), heartbeat=heartbeat_s, compress=False, max_msg_size=max_bytes, decode_text=False
        )
        socket.headers.update(call.headers)
        try:
            await socket.prepare(call.request)
        except web.HTTPException:
            raise _invalid("This path takes WebSocket connections of version 13.") from None
        call.response, call.mode = socket, "stream"
        return cls(call, socket, max_unsent_bytes)

    def send(self, event: str, tag: str | None = None) -> None:
        """Queues an event."""
        self._queue.append((event, tag))
        self._unsent_bytes += len(event)
        self._wakened.set()
        if self._unsent_bytes > self._max_unsent_bytes:
            self._has_room.clear()

    def take_back(self, tag: str) -> None:
        """Drops what waits under a tag."""
        self._queue = deque(one for one in self._queue if one[1] != tag)
        self._unsent_bytes = sum(len(event) for event, _ in self._queue)
        self._check_room()

    async def room(self) -> None:
        """Waits while too much waits to be sent."""
        await self._has_room.wait()

    async def receive(self, timeout_s: float) -> Received:
        """The client's next event."""
        try:
            message = await self._socket.receive(timeout_s)
        except TimeoutError:
            return Received("expired")
        match message.type:
            case WSMsgType.TEXT:
                return Received("text", message.data)
            case WSMsgType.BINARY:
                return Received("binary")
            case _:
                self.said_goodbye = message.type is WSMsgType.CLOSE
                return Received("closed")

    async def run(self) -> None:
        """Sends what is queued, until it is cancelled.

        Raises:
            ConnectionError: the client is gone, or does not read.
        """
        while True:
            await self._wakened.wait()
            self._wakened.clear()
            while self._queue:
                event, _ = self._queue.popleft()
                self._unsent_bytes -= len(event)
                try:
                    async with asyncio.timeout(WRITE_TIMEOUT_S):
                        await self._socket.send_str(event)
                except TimeoutError:
                    self._call.abort()
                    raise ConnectionResetError("the client does not read") from None
                self._call.sent_bytes += len(event)
                self._check_room()

    async def close(self, code: int = WSCloseCode.OK, reason: str = "") -> None:
        """Sends what is queued and says goodbye; the client has two seconds for both."""
        with suppress(TimeoutError, ConnectionError):
            async with asyncio.timeout(CLOSE_TIMEOUT_S):
                while self._queue:
                    await self._socket.send_str(self._queue.popleft()[0])
                await self._socket.close(code=code, message=reason.encode())
        if not self._socket.closed:
            self._call.abort()

    def _check_room(self) -> None:
        if self._unsent_bytes <= self._max_unsent_bytes // 2:
            self._has_room.set()


def _invalid(message: str) -> CallboardError:
    return CallboardError(ErrorCode.INVALID_REQUEST, message)
