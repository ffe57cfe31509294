"""Reads request bodies within bounds: bytes as sent, bytes once decompressed, and bytes that all open bodies hold."""

import asyncio
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import zstandard
from aiohttp import web

from callboard_contracts.errors import CallboardError, ErrorCode

OFF_LOOP_BYTES = 64 * 1024
"""A larger compressed body is decompressed in a thread; so much takes under a millisecond."""
MAX_OPEN_BODY_BYTES = 64 * 1024 * 1024
"""What all bodies that are being read may hold together."""
MAX_GZIP_MEMBERS = 64
"""Each member costs a copy of all that follow it."""
RETRY_AFTER_S = 1.0


class BodyBudget:
    """The memory that bodies may hold while they arrive."""

    def __init__(self, limit_bytes: int = MAX_OPEN_BODY_BYTES) -> None:
        self._limit_bytes = limit_bytes
        self.held_bytes = 0

    def take(self, size_bytes: int) -> None:
        """Counts more bytes.

        Raises:
            CallboardError: `overloaded`, when the bodies of all requests hold too much.
        """
        if self.held_bytes + size_bytes > self._limit_bytes:
            raise CallboardError(
                ErrorCode.OVERLOADED,
                "The server is receiving too many large requests; try again shortly.",
                retry_after_s=RETRY_AFTER_S,
            )
        self.held_bytes += size_bytes

    def give_back(self, size_bytes: int) -> None:
        """Counts bytes out again."""
        self.held_bytes -= size_bytes


@dataclass(frozen=True, slots=True)
class BodyReader:
    """Reads the bodies of one edge; sizes in bytes, times in seconds."""

    max_body_bytes: int
    body_timeout_s: float
    budget: BodyBudget

    async def read(self, request: web.BaseRequest) -> bytes:
        """A request's body, decompressed.

        Raises:
            CallboardError: the body is too large, did not arrive in time, is broken, or is encoded in another way
                than gzip and zstd.
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
            if request.content.is_eof():
                raw = await self._collect(request)
            else:
                async with asyncio.timeout(self.body_timeout_s):
                    raw = await self._collect(request)
        except TimeoutError:
            raise CallboardError(
                ErrorCode.REQUEST_TIMEOUT, f"The body did not arrive within {self.body_timeout_s:g} s."
            ) from None
        except web.RequestPayloadError:
            raise _broken() from None
        return raw if encoding is None else await self._decompressed(raw, encoding)

    async def _collect(self, request: web.BaseRequest) -> bytes:
        chunks: list[bytes] = []
        size_bytes = 0
        try:
            async for chunk in request.content.iter_any():
                size_bytes += len(chunk)
                if size_bytes > self.max_body_bytes:
                    size_bytes -= len(chunk)
                    raise self._too_large()
                try:
                    self.budget.take(len(chunk))
                except CallboardError:
                    size_bytes -= len(chunk)
                    raise
                chunks.append(chunk)
        finally:
            self.budget.give_back(size_bytes)
        return chunks[0] if len(chunks) == 1 else b"".join(chunks)

    async def _decompressed(self, raw: bytes, encoding: str) -> bytes:
        expand = _DECODERS[encoding]
        self.budget.take(self.max_body_bytes)
        try:
            if len(raw) <= OFF_LOOP_BYTES // 64:
                return self._expanded(expand, raw)
            return await asyncio.to_thread(self._expanded, expand, raw)
        finally:
            self.budget.give_back(self.max_body_bytes)

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


def _broken() -> CallboardError:
    return CallboardError(ErrorCode.INVALID_REQUEST, "The body cannot be read as it was sent.")
