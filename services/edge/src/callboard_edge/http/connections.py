"""Connections that no client can hold open by sending slowly or reading nothing, and that never run out."""

import asyncio
import math
import os
import resource
import socket
from typing import Any

from aiohttp import web

from callboard_edge.http.call import WRITE_TIMEOUT_S, has_room

_TIMED_OUT = b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
KEEP_ALIVE_S = 75.0
FIRST_PROBE_S = 0.05
PROBE_INTERVAL_S = 1.0
OTHER_FILES = 256
"""How many files and connections the process may need beside those of clients."""
LINGER_S = 2.0
"""How long what is left of a refused body is read, so that the client gets to see the answer."""


class GuardedConnection(web.RequestHandler):
    """A connection whose request line and headers must arrive within a time limit.

    The HTTP library bounds neither the first request's headers nor those that follow on the same connection.
    """

    def __init__(self, *arguments: Any, headers_timeout_s: float, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._headers_timeout_s = headers_timeout_s
        self._headers_timer: asyncio.TimerHandle | None = None
        self._probe_timer: asyncio.TimerHandle | None = None
        self.answered_at = 0.0
        """When the last answer was sent, by the event loop's clock; 0 before the first."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begins to wait for the first request."""
        super().connection_made(transport)
        self._headers_timer = self._loop.call_later(self._headers_timeout_s, self._give_up)

    def connection_lost(self, exc: BaseException | None) -> None:
        """Stops waiting."""
        self._stop_waiting()
        if self._probe_timer is not None:
            self._probe_timer.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Takes data, and waits for the rest where it is only the beginning of a request."""
        before = self._request_count
        super().data_received(data)
        if self._request_count != before:
            if self._headers_timer is not None:
                self._stop_waiting()
        elif self._headers_timer is None and self._between_requests():
            self._headers_timer = self._loop.call_later(self._headers_timeout_s, self._give_up)

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        """Sends an answer, or what is left of it; the connection ends where the client does not read."""
        left_bytes = _left_bytes(resp)
        if not left_bytes or has_room(self.transport, left_bytes):
            finished = await super().finish_response(request, resp, start_time)
        else:
            try:
                async with asyncio.timeout(WRITE_TIMEOUT_S):
                    finished = await super().finish_response(request, resp, start_time)
            except TimeoutError:
                if self.transport is not None:
                    self.transport.abort()
                raise ConnectionResetError("the client does not read") from None
        self.answered_at = self._loop.time()
        return finished

    @property
    def waits_for_client(self) -> bool:
        """Whether a request, or the rest of one, has yet to come."""
        request = self._current_request
        return self._between_requests() or (request is not None and not request.content.is_eof())

    def eof_received(self) -> bool:  # pyright: ignore[reportIncompatibleMethodOverride] - asyncio's contract
        """Serves a client that has only finished sending, and notices one that is gone.

        Both look alike until something is sent: the system of a client that is gone answers with a reset.
        """
        if self._between_requests():
            return False
        self.close()
        self._probe(FIRST_PROBE_S)
        return True

    def _probe(self, next_s: float) -> None:
        """Sends a byte out of band, which no reader of the answer sees, and ends the connection after a reset."""
        self._probe_timer = None
        if self.transport is None:
            return
        if _is_reset(self.transport):
            self.transport.abort()
        else:
            self._probe_timer = self._loop.call_later(next_s, self._probe, PROBE_INTERVAL_S)

    def _between_requests(self) -> bool:
        return self._waiter is not None and not self._messages

    def _stop_waiting(self) -> None:
        if self._headers_timer is not None:
            self._headers_timer.cancel()
            self._headers_timer = None

    def _give_up(self) -> None:
        self._headers_timer = None
        if self.transport is not None and self._between_requests():
            self.transport.write(_TIMED_OUT)
            self.force_close()


def _left_bytes(response: web.StreamResponse) -> float:
    """How much of an answer's content is still to be sent at most."""
    if response.body_length:
        # All of it is written, which is so for whatever was streamed to its end.
        return 0
    body = response.body if isinstance(response, web.Response) else None
    return len(body) if isinstance(body, bytes) else math.inf


def _is_reset(transport: asyncio.BaseTransport) -> bool:
    # The transport's own socket object cannot send, so a copy of its handle does.
    with socket.socket(fileno=os.dup(transport.get_extra_info("socket").fileno())) as endpoint:
        endpoint.setblocking(False)
        try:
            error = endpoint.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            endpoint.send(b"\0", socket.MSG_OOB)
        except BlockingIOError:
            return False
        except OSError:
            return True
    return error != 0


def allowed_connections(wanted: int) -> int:
    """How many of the wanted connections the system allows, once it has been asked for as many."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = wanted + OTHER_FILES
    if soft < needed:
        soft = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return min(wanted, max(1, soft - OTHER_FILES))


class GuardedServer(web.Server):
    """A server of guarded connections; a handler is cancelled when its client goes away.

    Where there are too many connections, one that waits for its client is closed: the oldest that was never answered,
    else the one that was answered longest ago. So those that ask for nothing do not push out those that are in use.
    """

    def __init__(self, handler: Any, *, headers_timeout_s: float, max_connections: int) -> None:
        super().__init__(
            handler,
            handler_cancellation=True,
            # The body reader decompresses within bounds.
            auto_decompress=False,
            access_log=None,
            keepalive_timeout=KEEP_ALIVE_S,
            lingering_time=LINGER_S,
        )
        self._headers_timeout_s = headers_timeout_s
        self._max_connections = allowed_connections(max_connections)

    def __call__(self) -> web.RequestHandler:
        """Makes the protocol of one connection."""
        if len(self._connections) >= self._max_connections:
            self._make_room()
        return GuardedConnection(self, loop=self._loop, headers_timeout_s=self._headers_timeout_s, **self._kwargs)

    def _make_room(self) -> None:
        idle: GuardedConnection | None = None
        for connection in self._connections:
            transport = connection.transport
            # One that was closed in this turn of the loop is still counted, but makes no further room.
            if transport is None or transport.is_closing():
                continue
            if isinstance(connection, GuardedConnection) and connection.waits_for_client:
                if idle is None or connection.answered_at < idle.answered_at:
                    idle = connection
                if not connection.answered_at:
                    break
        if idle is not None and idle.transport is not None:
            idle.transport.abort()
