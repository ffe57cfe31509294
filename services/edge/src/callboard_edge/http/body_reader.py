"""Reads request bodies within bounds: bytes as sent, bytes once decompressed, and bytes that all open bodies hold."""

import asyncio
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import zstandard
from aiohttp import web

from callboard_contracts.errors import CallboardError, ErrorCode

ON_LOOP_BYTES = 1024
"""A larger compressed body is decompressed in a thread; so much makes a megabyte at most, in a millisecond or two."""
MAX_OPEN_BODY_BYTES = 64 * 1024 * 1024
"""What all bodies that are being read may hold together."""
MAX_DECOMPRESSING = 2
"""How many large bodies are decompressed at once; each may become as large as a body may be."""
MAX_GZIP_MEMBERS = 64
"""Each member costs a copy of all that follow it."""
RETRY_AFTER_S = 1.0


class OpenBody:
    """A body and what it holds of the budget; `whole` once all of it is here."""

    def __init__(self) -> None:
        self.held_bytes = 0
        self.gave_way = False
        self.whole = False
        self.time_limit: asyncio.Timeout | None = None

    def give_way(self) -> None:
        """Ends the wait for the rest of the body."""
        self.gave_way = True
        if self.time_limit is not None:
            self.time_limit.reschedule(asyncio.get_running_loop().time())


class BodyBudget:
    """The memory that bodies may hold while they arrive.

    When there is too little, the largest body gives way: whoever sends a small one is served beside senders of large
    bodies that never end. One that is whole has paid its time and is left alone.
    """

    def __init__(self, limit_bytes: int = MAX_OPEN_BODY_BYTES) -> None:
        self._limit_bytes = limit_bytes
        self._open: set[OpenBody] = set()
        self.held_bytes = 0

    def take(self, body: OpenBody, size_bytes: int) -> None:
        """Counts more bytes of a body.

        Raises:
            CallboardError: `overloaded`, when the bodies of all requests hold too much and this one is the largest.
        """
        self._open.add(body)
        body.held_bytes += size_bytes
        self.held_bytes += size_bytes
        while self.held_bytes > self._limit_bytes:
            largest = max((one for one in self._open if not one.whole), key=lambda one: one.held_bytes, default=body)
            self.give_back(largest)
            if largest is body:
                raise _overloaded()
            largest.give_way()

    def give_back(self, body: OpenBody) -> None:
        """Counts a body out again."""
        self.held_bytes -= body.held_bytes
        body.held_bytes = 0
        self._open.discard(body)


@dataclass(frozen=True, slots=True)
class BodyReader:
    """Reads the bodies of one edge; sizes in bytes, times in seconds."""

    max_body_bytes: int
    body_timeout_s: float
    budget: BodyBudget
    decompressing: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(MAX_DECOMPRESSING))

    async def read(self, request: web.BaseRequest) -> bytes:
        """A request's body, decompressed.

        Raises:
            CallboardError: the body is too large, did not arrive in time, is broken, or is encoded in another way
                than gzip and zstd.
        """
        content = request.content
        if content.is_eof() and content.exception() is None and request.headers.get("Content-Encoding") is None:
            # What is here whole, in the bounds of the connection's own buffer, is waited for by nobody.
            raw = content.read_nowait()
            if len(raw) > self.max_body_bytes:
                raise self._too_large()
            return raw
        body = OpenBody()
        try:
            return await self.read_into(body, request)
        finally:
            self.budget.give_back(body)

    async def read_into(
        self, body: OpenBody, request: web.BaseRequest, feed: Callable[[bytes], None] | None = None
    ) -> bytes:
        """The same, for a body that counts until the caller gives it back to the budget.

        With `feed`, the bytes go there as they arrive and nothing is returned.
        """
        encoding = _encoding(request.headers)
        announced = request.content_length
        if announced is not None and announced > self.max_body_bytes:
            raise self._too_large()
        if request.headers.get("Expect", "").lower() == "100-continue":
            await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            # The interim response is no part of the answer's own size.
            request.writer.output_size = 0
        try:
            if encoding is None and request.content.is_eof():
                return await self._collect(request, body, feed)
            async with asyncio.timeout(self.body_timeout_s) as body.time_limit:
                if encoding is None:
                    return await self._collect(request, body, feed)
                raw = await self._decompressed(await self._collect(request, body, None), encoding)
                self.budget.take(body, len(raw))
                if feed is None:
                    return raw
                feed(raw)
                return b""
        except TimeoutError:
            if body.gave_way:
                raise _overloaded() from None
            raise CallboardError(
                ErrorCode.REQUEST_TIMEOUT, f"The body did not arrive within {self.body_timeout_s:g} s."
            ) from None
        except web.RequestPayloadError:
            raise _broken() from None

    async def _collect(self, request: web.BaseRequest, body: OpenBody, feed: Callable[[bytes], None] | None) -> bytes:
        content = request.content
        chunks: list[bytes] = []
        take = feed or chunks.append
        if content.is_eof():
            raw = content.read_nowait()
            self._take(body, raw)
            take(raw)
        else:
            async for chunk in content.iter_any():
                self._take(body, chunk)
                take(chunk)
        body.whole = True
        return chunks[0] if len(chunks) == 1 else b"".join(chunks)

    def _take(self, body: OpenBody, chunk: bytes) -> None:
        if body.held_bytes + len(chunk) > self.max_body_bytes:
            raise self._too_large()
        self.budget.take(body, len(chunk))

    async def _decompressed(self, raw: bytes, encoding: str) -> bytes:
        expand = _DECODERS[encoding]
        if len(raw) <= ON_LOOP_BYTES:
            return self._expanded(expand, raw)
        async with self.decompressing:
            return await asyncio.to_thread(self._expanded, expand, raw)

    def _expanded(self, expand: Callable[[bytes, int], bytes | None], raw: bytes) -> bytes:
        try:
            body = expand(raw, self.max_body_bytes)
        except (zlib.error, zstandard.ZstdError):
            raise _broken() from None
        if body is None:
            raise self._too_large()
        return body

    def _too_large(self) -> CallboardError:
        return CallboardError(
            ErrorCode.BODY_TOO_LARGE, f"The body is larger than the limit of {self.max_body_bytes} bytes."
        )


def _gunzip(raw: bytes, limit_bytes: int) -> bytes | None:
    """The content of a gzip stream of one or more members, or None when it is larger than the limit."""
    found: list[bytes] = []
    left = limit_bytes
    while raw:
        if len(found) == MAX_GZIP_MEMBERS:
            raise zlib.error("too many members")
        inflate = zlib.decompressobj(wbits=31)
        part = inflate.decompress(raw, left + 1)
        left -= len(part)
        if left < 0:
            return None
        if not inflate.eof:
            raise zlib.error("incomplete")
        found.append(part)
        raw = inflate.unused_data
    return b"".join(found)


def _unzstd(raw: bytes, limit_bytes: int) -> bytes | None:
    """The content of zstd frames, or None when it is larger than the limit."""
    reader = zstandard.ZstdDecompressor(max_window_size=8 * 1024 * 1024).stream_reader(raw, read_across_frames=True)
    body = reader.read(limit_bytes + 1)
    if not body and raw:
        raise zstandard.ZstdError("incomplete")
    return None if len(body) > limit_bytes else body


_DECODERS: dict[str, Callable[[bytes, int], bytes | None]] = {
    "gzip": _gunzip,
    "x-gzip": _gunzip,
    "zstd": _unzstd,
}


def _encoding(headers: Mapping[str, str]) -> str | None:
    encoding = headers.get("Content-Encoding", "").strip().lower()
    if encoding in {"", "identity"}:
        return None
    if encoding not in _DECODERS:
        raise CallboardError(
            ErrorCode.UNSUPPORTED_MEDIA_TYPE,
            "The body's content encoding is not offered; send it plain, or as gzip or zstd.",
            offered=("gzip", "zstd"),
        )
    return encoding


def _overloaded() -> CallboardError:
    return CallboardError(
        ErrorCode.OVERLOADED,
        "The server is receiving too many large requests; try again shortly.",
        retry_after_s=RETRY_AFTER_S,
    )


def _broken() -> CallboardError:
    return CallboardError(ErrorCode.INVALID_REQUEST, "The body cannot be read as it was sent.")
