"""A client of one edge that reads an answer piece by piece, slowly if it likes, and leaves when it likes."""

import asyncio
import socket
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import aiohttp
from multidict import CIMultiDictProxy

from tests.protocols.dialect import Dialect, Request

TIMEOUT_S = 45.0
SMALL_BUFFER_BYTES = 8 * 1024


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer; `cut` says that the connection broke before its end."""

    status: int
    headers: CIMultiDictProxy[str]
    body: bytes
    cut: bool = False


class OpenAnswer:
    """An answer that is still being read."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self._response = response
        self.status = response.status
        self._data = bytearray()
        self.cut = False

    @property
    def data(self) -> bytes:
        """What has been read."""
        return bytes(self._data)

    async def more(self) -> bool:
        """Reads what comes next; false at the end, and when the connection breaks."""
        try:
            async with asyncio.timeout(TIMEOUT_S):
                part = await self._response.content.readany()
        except aiohttp.ClientError:
            self.cut = True
            return False
        self._data += part
        return bool(part)

    async def until(self, condition: Callable[[bytes], bool]) -> None:
        """Reads until what has been read satisfies a condition; fails when the answer ends before."""
        while not condition(self.data):
            assert await self.more(), f"the answer ended: {self.status} {self.data[-500:]!r}"

    async def rest(self) -> Answer:
        """Reads the answer to its end."""
        while await self.more():
            pass
        return Answer(self.status, self._response.headers, self.data, self.cut)

    def leave(self) -> None:
        """Hangs up."""
        self._response.close()


class Client:
    """Asks an edge in one dialect with one key."""

    def __init__(self, session: aiohttp.ClientSession, url: str, dialect: Dialect, key: str) -> None:
        self._session = session
        self._url = url
        self._dialect = dialect
        self._key = key

    @asynccontextmanager
    async def open(self, request: Request) -> AsyncGenerator[OpenAnswer]:
        """Asks, and yields the answer once it has begun; leaving the context before its end hangs up."""
        headers = self._dialect.auth_headers(self._key)
        if request.body:
            headers["Content-Type"] = request.content_type
        async with self._session.request(
            request.method, self._url + request.path, data=request.body or None, headers=headers
        ) as response:
            yield OpenAnswer(response)

    async def ask(self, request: Request) -> Answer:
        """Asks and waits for the whole answer."""
        async with self.open(request) as answer:
            return await answer.rest()


def new_session() -> aiohttp.ClientSession:
    """A session whose connections are used once, as those of clients that come and go are."""
    connector = aiohttp.TCPConnector(force_close=True)
    return aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(TIMEOUT_S))


def slow_session() -> aiohttp.ClientSession:
    """A session with buffers so small that the server has to wait for whoever reads slowly."""

    def small(info: Any) -> socket.socket:
        family, kind, protocol, *_ = info
        endpoint = socket.socket(family, kind, protocol)
        endpoint.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SMALL_BUFFER_BYTES)
        return endpoint

    connector = aiohttp.TCPConnector(force_close=True, socket_factory=small)
    timeout = aiohttp.ClientTimeout(TIMEOUT_S)
    return aiohttp.ClientSession(connector=connector, timeout=timeout, read_bufsize=SMALL_BUFFER_BYTES)
