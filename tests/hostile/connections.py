"""What clients do to connections, by design or by accident: flood, dribble, vanish, send what is no HTTP."""

import asyncio
import contextlib
import random
import socket
import struct
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager

from tests.hostile.site import MAX_CONNECTIONS, STRANGER
from tests.protocols.dialect import JSON, Dialect, Request

READ_TIMEOUT_S = 20.0
HOLD_S = 3.0
BODY_BYTES = 4 * 1024 * 1024
RESET_ON_CLOSE = struct.pack("ii", 1, 0)


class Connection:
    """One raw connection from an attacker's address."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def send(self, data: bytes) -> bool:
        """Sends, and says whether the other end still takes it."""
        try:
            self._writer.write(data)
            async with asyncio.timeout(READ_TIMEOUT_S):
                await self._writer.drain()
        except (ConnectionError, TimeoutError):
            return False
        return True

    def finish_sending(self) -> None:
        """Closes the sending side alone."""
        with contextlib.suppress(OSError):
            self._writer.write_eof()

    def reset(self) -> None:
        """Ends the connection with a reset."""
        endpoint = self._writer.get_extra_info("socket")
        endpoint.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
        self._writer.transport.abort()

    async def answer(self, timeout_s: float = READ_TIMEOUT_S) -> bytes:
        """What comes until the connection ends; raises TimeoutError where it does not."""
        found = b""
        with contextlib.suppress(ConnectionError):
            async with asyncio.timeout(timeout_s):
                while part := await self._reader.read(65_536):
                    found = (found + part)[-1_000_000:]
        return found

    async def read(self, size: int) -> None:
        """Reads so many bytes, or fewer where no more come."""
        with contextlib.suppress(ConnectionError, TimeoutError, asyncio.IncompleteReadError):
            async with asyncio.timeout(READ_TIMEOUT_S):
                await self._reader.readexactly(size)

    def close(self) -> None:
        """Hangs up, also where the other end does not take what is still to be sent."""
        self._writer.transport.abort()


@asynccontextmanager
async def connected(port: int) -> AsyncGenerator[Connection]:
    """A connection to the edge."""
    reader, writer = await asyncio.wait_for(
        asyncio.open_connection("127.0.0.1", port, local_addr=(STRANGER, 0)), READ_TIMEOUT_S
    )
    one = Connection(reader, writer)
    try:
        yield one
    finally:
        one.close()


def head(path: str, *headers: str, method: str = "POST") -> bytes:
    """The beginning of a request."""
    lines = (f"{method} {path} HTTP/1.1", "Host: edge", f"Content-Type: {JSON}", *headers)
    return "".join(f"{line}\r\n" for line in lines).encode() + b"\r\n"


def whole(request: Request, *headers: str) -> bytes:
    """A whole request."""
    return head(request.path, f"Content-Length: {len(request.body)}", *headers) + request.body


def no_requests(dialect: Dialect, chance: random.Random) -> Iterator[bytes]:
    """Bytes that are no request, or one that no server should take."""
    path = dialect.path
    close = "Connection: close"
    chunked = "Transfer-Encoding: chunked"
    yield bytes(chance.randrange(256) for _ in range(chance.randrange(1, 5000)))
    yield b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + chance.randbytes(500)
    yield b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + chance.randbytes(100)
    yield b"\r\n" * 100_000
    yield b"GET " + b"/" * 1_000_000 + b" HTTP/1.1\r\n\r\n"
    yield f"GET {path}?{'a=b&' * 2000} HTTP/1.1\r\nHost: x\r\n\r\n".encode()
    yield f"POST {path} HTTP/9.9\r\nHost: x\r\n\r\n".encode()
    yield f"{'X' * 100_000} {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode()
    yield b"GET \xff\xfe\x00 HTTP/1.1\r\nHost: x\r\n\r\n"
    yield head(f"{path}/%ff%00%ed%a0%80", close, method="GET")
    yield head(f"http://[::1/{path}", close, method="GET")
    yield head(path, *(f"X-{number}: {number}" for number in range(10_000)))
    yield head(path, "X-Long: " + "x" * 1_000_000)
    yield head(path, *("Cookie: " + "c=d; " * 1500 for _ in range(100)))
    yield head(path, "X-Null: a\0b", close)
    yield head(path, "X-Bytes: \udcff".encode("utf-8", "surrogateescape").decode("latin-1"), close)
    yield head(path, "Authorization: Bearer \xff\xfe", "Content-Length: 2", close) + b"{}"
    yield head(path, "Content-Length: -1", close)
    yield head(path, "Content-Length: 9" + "9" * 400, close)
    yield head(path, "Content-Length: 5", "Content-Length: 6", close) + b"{}   "
    yield head(path, "Content-Length: 4", chunked, close) + b"0\r\n\r\n"
    yield head(path, "Transfer-Encoding: gzip, chunked", close) + b"0\r\n\r\n"
    yield head(path, chunked, close) + b"ffffffffffffffffff\r\n{}\r\n0\r\n\r\n"
    yield head(path, chunked, close) + b"-2\r\n{}\r\n0\r\n\r\n"
    yield head(path, chunked, close) + b"2;" + b"x" * 1_000_000 + b"\r\n{}\r\n0\r\n\r\n"
    yield head(path, chunked, close) + b"1\r\n \r\n" * 200_000 + b"0\r\n\r\n"
    yield head(path, chunked, close) + b"2\r\n{}\r\n0\r\n" + b"X-Trailer: y\r\n" * 50_000 + b"\r\n"
    yield head(path, "Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Key: eA==") + chance.randbytes(300_000)
    yield head(path, "Expect: a-miracle", "Content-Length: 2", close) + b"{}"
    yield head("/v1/models", method="GET") * 2000 + head("/v1/models", close, method="GET")


async def unfinished_bodies(port: int, path: str, count: int) -> list[bytes]:
    """Bodies of 4 MB of which the end never comes; returns the answers that came all the same."""

    async def one() -> bytes:
        async with connected(port) as connection:
            await connection.send(head(path, f"Content-Length: {BODY_BYTES - 1}"))
            await connection.send(b" " * (BODY_BYTES - 2))
            with contextlib.suppress(TimeoutError):
                return await connection.answer(HOLD_S)
            return b""

    return await asyncio.gather(*(one() for _ in range(count)))


async def idle_connections(port: int) -> None:
    """More connections than the edge may have, on which nothing or half a request is sent."""

    async def one(number: int) -> None:
        with contextlib.suppress(OSError, TimeoutError):
            async with connected(port) as connection:
                if number % 2:
                    await connection.send(b"POST /v1/chat/completions HTTP/1.1\r\nHost: ")
                await asyncio.sleep(HOLD_S)

    await asyncio.gather(*(one(number) for number in range(MAX_CONNECTIONS + 200)))


async def dribbled_headers(port: int, path: str, count: int) -> None:
    """Headers that come byte by byte."""

    async def one() -> None:
        async with connected(port) as connection:
            for byte in head(path, "Content-Length: 2")[:30]:
                if not await connection.send(bytes([byte])):
                    return
                await asyncio.sleep(HOLD_S / 30)

    await asyncio.gather(*(one() for _ in range(count)))


async def vanishing(port: int, raw: bytes, count: int, chance: random.Random) -> None:
    """Clients that leave: after a part of the request, after all of it, or in the middle of the answer."""

    async def one(at: int, after_s: float) -> None:
        async with connected(port) as connection:
            await connection.send(raw[:at])
            await asyncio.sleep(after_s)
            if at % 2:
                connection.reset()

    cuts = [chance.choice([len(raw), len(raw) - 1, chance.randrange(1, len(raw))]) for _ in range(count)]
    await asyncio.gather(*(one(at, chance.choice([0, 0.05, 0.5])) for at in cuts))


async def cut_streams(port: int, raw: bytes, count: int, chance: random.Random) -> None:
    """Clients that leave once they have so many bytes of the answer."""

    async def one(size: int, *, reset: bool) -> None:
        async with connected(port) as connection:
            await connection.send(raw)
            await connection.read(size)
            if reset:
                connection.reset()

    await asyncio.gather(*(one(chance.randrange(1, 4000), reset=chance.random() < 0.5) for _ in range(count)))


async def half_closed(port: int, raw: bytes) -> bytes:
    """The answer to a client that has only finished sending."""
    async with connected(port) as connection:
        await connection.send(raw)
        connection.finish_sending()
        return await connection.answer()


async def not_reading(port: int, raw: bytes, count: int) -> None:
    """Clients that send request after request and read no answer."""

    async def one() -> None:
        async with connected(port) as connection:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(HOLD_S):
                    while await connection.send(raw * 50):
                        pass

    await asyncio.gather(*(one() for _ in range(count)))
