"""HTTP to an engine: a request goes out in one write, and its answer is read as it arrives.

`httptools` parses. A client for everything costs more for a streamed reply of 32 tokens than the rest of the worker
does for it (ADR 0054).
"""

import asyncio
import contextlib
import ssl
from collections import deque
from collections.abc import Mapping
from typing import cast
from urllib.parse import urlsplit

from httptools import HttpParserError, HttpParserUpgrade, HttpResponseParser

MAX_HEADER_BYTES = 65_536
MAX_UNREAD_BYTES = 128 * 1024
"""How much may have arrived and not be read; beyond it the engine waits. What is read together becomes one frame, which
has to fit a message of the bus, so this and one more read of the socket (256 KiB) stay far below a megabyte."""
MAX_KEPT = 256
"""Connections that are kept while nothing is asked on them."""
KEPT_S = 15.0


class EngineHttp:
    """The connections to one engine's server.

    Args:
        url: the server's address, with `http` or `https`; its path comes before that of every request.
        headers: what goes with every request.
        connect_timeout_s: how long making a connection may take, TLS included.
        keep: whether a connection is used for more than one request.

    Raises:
        ValueError: the address or a header cannot be used.
    """

    def __init__(self, url: str, headers: Mapping[str, str], connect_timeout_s: float, *, keep: bool = True) -> None:
        parts = urlsplit(url)
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise ValueError("an engine's address begins with http:// or https://")
        self._tls = ssl.create_default_context() if parts.scheme == "https" else None
        self._host = parts.hostname
        self._port = parts.port or (443 if self._tls else 80)
        self._path = parts.path.rstrip("/")
        fields = {"Host": parts.netloc.rpartition("@")[2], **headers}
        if not keep:
            fields["Connection"] = "close"
        if not all(value.isascii() and value.isprintable() for value in (self._path, *fields.values())):
            raise ValueError("an engine's address or key holds characters that HTTP cannot carry")
        self._head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
        self._connect_timeout_s = connect_timeout_s
        self._keep = keep
        self._kept: deque[EngineConnection] = deque(maxlen=MAX_KEPT)
        self._open: set[EngineConnection] = set()

    async def request(self, method: str, path: str, body: bytes = b"") -> "EngineConnection":
        """Sends a request and waits for the head of its answer; the caller closes what it gets.

        A server may have closed a kept connection at any moment, so what fails on one is sent once more on a new one.

        Raises:
            OSError: the server cannot be reached, not even in time, or broke off before its answer.
        """
        head = f"{method} {self._path}{path} HTTP/1.1\r\n{self._head}Content-Length: {len(body)}\r\n\r\n"
        request = head.encode() + body
        if (kept := self._take_kept()) is not None:
            with contextlib.suppress(ConnectionResetError):
                await kept.ask(request)
                return kept
        async with asyncio.timeout(self._connect_timeout_s):
            _, connection = await asyncio.get_running_loop().create_connection(
                lambda: EngineConnection(self._kept, self._open, keep=self._keep), self._host, self._port, ssl=self._tls
            )
        await connection.ask(request)
        return connection

    def close(self) -> None:
        """Closes all connections, also those whose answer is under way."""
        for connection in list(self._open):
            connection.abort()

    def _take_kept(self) -> "EngineConnection | None":
        while self._kept and self._kept[0].is_stale:
            self._kept.popleft().abort()
        while self._kept:
            connection = self._kept.pop()
            if connection.is_open:
                return connection
        return None


class EngineConnection(asyncio.Protocol):
    """One connection, with the answer to what was asked on it last."""

    def __init__(self, kept: "deque[EngineConnection]", connections: "set[EngineConnection]", *, keep: bool) -> None:
        self._keep = keep
        self._kept = kept
        self._connections = connections
        self._loop = asyncio.get_running_loop()
        self._body: list[bytes] = []
        self.on_body = self._body.append
        """The parser has a part of the body; it looks for this where it begins."""
        self._parser = HttpResponseParser(self)
        self._transport: asyncio.Transport | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._unread_bytes = 0
        self._is_paused = False
        self._kept_at = 0.0
        self._forget()

    def _forget(self) -> None:
        self.status = 0
        self.is_complete = False
        """Whether the whole answer has arrived."""
        self._headers: dict[bytes, bytes] = {}
        self._header_bytes = 0
        self._is_asked = self._is_begun = self._may_be_kept = False

    @property
    def is_open(self) -> bool:
        """Whether something can be asked."""
        return self._transport is not None

    @property
    def is_stale(self) -> bool:
        """Whether nothing was asked for so long that the connection is not kept any further."""
        return self._transport is None or self._loop.time() - self._kept_at > KEPT_S

    def header(self, name: str) -> str:
        """A header of the answer by its name in lower case; empty where there is none."""
        return self._headers.get(name.encode(), b"").decode("latin-1")

    async def ask(self, request: bytes) -> None:
        """Sends a request and waits for the head of its answer; raises ConnectionResetError."""
        if self._transport is None:
            raise ConnectionResetError
        self._is_asked = True
        self._transport.write(request)
        try:
            while not self._is_begun:
                await self._wait()
        except BaseException:
            self.abort()
            raise

    async def read(self) -> bytes:
        """What has arrived of the body since the last time, or nothing at its end; raises ConnectionResetError."""
        while not self._body:
            if self.is_complete:
                return b""
            await self._wait()
        data = b"".join(self._body)
        self._body.clear()
        self._unread_bytes = 0
        if self._is_paused and self._transport is not None:
            self._is_paused = False
            self._transport.resume_reading()
        return data

    async def read_all(self, limit: int) -> bytes:
        """The body to its end, or somewhat more than `limit` bytes of a longer one; raises ConnectionResetError."""
        body = bytearray()
        while len(body) <= limit and (data := await self.read()):
            body += data
        return bytes(body)

    def close(self) -> None:
        """Keeps the connection for the next request; an unfinished answer takes it along, which stops the engine."""
        if self._transport is None:
            return
        if not self._may_be_kept or self._body:
            self.abort()
            return
        self._forget()
        self._kept_at = self._loop.time()
        if len(self._kept) == MAX_KEPT:
            self._kept.popleft().abort()
        self._kept.append(self)

    def abort(self) -> None:
        """Closes the connection at once."""
        if self._transport is not None:
            self._transport.abort()
        self._lost()

    async def _wait(self) -> None:
        if self._transport is None:
            raise ConnectionResetError
        self._waiter = self._loop.create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _lost(self) -> None:
        self._transport = None
        self._connections.discard(self)
        self._wake()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The transport begins."""
        self._transport = cast(asyncio.Transport, transport)
        self._connections.add(self)

    def data_received(self, data: bytes) -> None:
        """The transport has data."""
        try:
            self._parser.feed_data(data)
        except (HttpParserError, HttpParserUpgrade):
            self.abort()
            return
        self._unread_bytes += len(data)
        if self._unread_bytes > MAX_UNREAD_BYTES and self._body and not self._is_paused and self._transport is not None:
            self._is_paused = True
            self._transport.pause_reading()
        self._wake()

    def connection_lost(self, exc: Exception | None) -> None:
        """The transport has ended, which may end a body too."""
        has_length = b"content-length" in self._headers or b"transfer-encoding" in self._headers
        if self._is_begun and exc is None and self._transport is not None and not has_length:
            self.is_complete = True
        self._lost()

    def on_message_begin(self) -> None:
        """The parser begins an answer."""
        if not self._is_asked or self._is_begun:
            # What nobody asked for would be taken for the next answer.
            raise ValueError("an answer without a request")

    def on_header(self, name: bytes, value: bytes) -> None:
        """The parser has a header."""
        self._header_bytes += len(name) + len(value)
        if self._header_bytes > MAX_HEADER_BYTES:
            raise ValueError("too many headers")
        self._headers[name.lower()] = value

    def on_headers_complete(self) -> None:
        """The parser has all headers."""
        self.status = self._parser.get_status_code()
        # What comes before an answer, as 100 and 103 do, is not one.
        self._is_begun = self.status >= 200
        if not self._is_begun:
            self._headers.clear()

    def on_message_complete(self) -> None:
        """The parser has the whole answer."""
        self.is_complete = self._is_begun
        self._may_be_kept = self.is_complete and self._keep and self._parser.should_keep_alive()
