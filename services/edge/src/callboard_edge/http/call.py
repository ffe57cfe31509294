"""One HTTP request as a handler sees it."""

import asyncio
import json
import time
import urllib.parse
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from aiohttp import web
from multidict import CIMultiDict
from pydantic import BaseModel

from callboard_contracts.characters import speaker_name
from callboard_contracts.quota import LimitState
from callboard_edge.domain.caller import Caller
from callboard_edge.http.bodies import parse
from callboard_edge.http.body_reader import BodyReader, OpenBody
from callboard_edge.http.rate_limits import rate_limit_headers

WRITE_TIMEOUT_S = 30.0
"""How long a client may leave what is sent to it unread before it counts as gone."""
PIECE_BYTES = 256 * 1024
PART_BYTES = 256 * 1024
"""How much a client has that time for; one that reads slowly is not gone."""
ROOMY_BYTES = 16 * 1024
"""Far less than a connection buffers before a write has to wait."""

SPEAKER = "X-Callboard-Speaker"
MESSAGE_ID = "Idempotency-Key"
MAX_MESSAGE_ID = 128

LimitHeaders = Callable[[Sequence[LimitState]], Mapping[str, str]]
M = TypeVar("M", bound=BaseModel)


@dataclass(slots=True)
class HeldBody:
    """A body, and how to say that its bytes are no longer kept."""

    raw: bytes
    release: Callable[[], None]

    def take(self) -> bytes:
        """The bytes, which are then no longer kept here."""
        raw, self.raw = self.raw, b""
        return raw


class _Stream(web.StreamResponse):
    """An answer whose headers go out together with its first content, which saves the client a wake-up."""

    _send_headers_immediately = False


class _Broadcast(web.StreamResponse):
    """An answer without an end, as Icecast gives it: HTTP/1.0, without a length, and not in chunks.

    Some players play the marks between chunks.
    """

    _length_check = False

    async def _write_headers(self) -> None:
        writer = self._payload_writer
        assert writer is not None
        await writer.write_headers(f"HTTP/1.0 {self.status} {self.reason}", self.headers)
        writer.send_headers()


class Call:
    """A request, who sent it, and what its answer has in common with all others.

    `request_id` is the name under which the client knows the request: its own, or else one made of the fresh id
    that the request has on the bus. `headers` go out with the answer, whatever it is. `body_bytes` is the size of the
    body once it was read and decompressed.
    """

    __slots__ = (
        "_bodies",
        "_limit_headers",
        "body_bytes",
        "caller",
        "first_byte_s",
        "fresh_id",
        "headers",
        "mode",
        "params",
        "request",
        "request_id",
        "response",
        "sent_bytes",
        "started_s",
    )

    def __init__(
        self,
        request: web.BaseRequest,
        fresh_id: str,
        request_id: str | None,
        caller: Caller,
        params: Mapping[str, str],
        headers: CIMultiDict[str],
        bodies: BodyReader,
        limit_headers: LimitHeaders | None = None,
    ) -> None:
        self.request = request
        self.fresh_id = fresh_id
        self.request_id = request_id or f"req_{self.fresh_id}"
        self.caller = caller
        self.params = params
        self.headers = headers
        self._bodies = bodies
        self._limit_headers = limit_headers
        self.body_bytes = 0
        self.mode = "whole"
        self.started_s = time.perf_counter()
        self.first_byte_s: float | None = None
        self.sent_bytes = 0
        self.response: web.StreamResponse | None = None

    @property
    def speaker(self) -> str:
        """Who speaks to a character, as a header of the request says, also percent-encoded; empty for nobody."""
        return speaker_name(urllib.parse.unquote(self.request.headers.get(SPEAKER, "")))

    @property
    def message_id(self) -> str:
        """The client's own id of what it says, by which a repeat is known; empty for none."""
        # A header may hold bytes that are no text.
        return "".join(filter(str.isprintable, self.request.headers.get(MESSAGE_ID, "")[:MAX_MESSAGE_ID]))

    def tell_limits(self, states: Sequence[LimitState]) -> None:
        """Lets the answer tell where the caller's limits stand, also in the protocol's own headers."""
        self.headers.update(rate_limit_headers(states))
        if self._limit_headers is not None:
            self.headers.update(self._limit_headers(states))

    async def read(self) -> bytes:
        """The request's body, decompressed; raises CallboardError as `BodyReader.read` does."""
        body = await self._bodies.read(self.request)
        self.body_bytes = len(body)
        return body

    @asynccontextmanager
    async def held_body(self, feed: Callable[[bytes], None] | None = None) -> AsyncGenerator[HeldBody]:
        """The request's body, which counts against what open bodies may hold until it is released, or at the end.

        With `feed`, the bytes go there as they arrive. Raises as `read` does.
        """
        body = OpenBody()
        try:
            raw = await self._bodies.read_into(body, self.request, feed)
            self.body_bytes = body.held_bytes
            yield HeldBody(raw, partial(self._bodies.budget.give_back, body))
        finally:
            self._bodies.budget.give_back(body)

    async def json(self, model: type[M]) -> M:
        """The request's body, checked.

        Raises:
            CallboardError: as `read` does, or `invalid_request` with the field at fault.
        """
        return parse(model, await self.read())

    def answer(self, content: BaseModel | Mapping[str, Any] | list[Any], status: int = 200) -> web.Response:
        """A JSON answer."""
        body = (
            content.model_dump_json(exclude_unset=True).encode()
            if isinstance(content, BaseModel)
            else json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")
        )
        return self.answer_json(body, status)

    def answer_json(self, body: bytes, status: int = 200) -> web.Response:
        """A JSON answer that is encoded already."""
        return web.Response(body=body, status=status, content_type="application/json")

    async def stream(self, content_type: str, headers: Mapping[str, str] | None = None) -> web.StreamResponse:
        """Begins an answer whose content follows with `write`; its status and headers are now decided.

        Nothing goes out before the first `write`.
        """
        return await self._begin(_Stream, content_type, headers)

    async def hold_open(self) -> None:
        """Shows a client that waits for a whole JSON answer that it still comes, by a blank before it.

        The status is decided with the first: what fails later can only cut the connection. Raises as `write` does.
        """
        if self.response is None:
            await self._begin(_Stream, "application/json")
            self.mode = "whole"
        await self.write(b"\n", content=False)

    async def answer_pieces(self, pieces: Iterable[bytes]) -> web.StreamResponse:
        """A JSON answer in pieces that are encoded as they go out, because it may be large; raises as `write` does."""
        ready = bytearray()
        for piece in pieces:
            ready += piece
            if len(ready) > PIECE_BYTES:
                if self.response is None:
                    await self._begin(_Stream, "application/json")
                    self.mode = "whole"
                await self.write(bytes(ready))
                ready.clear()
                # A client that reads as fast as this is written must not keep others waiting.
                await asyncio.sleep(0)
        return await self.answer_whole(bytes(ready))

    async def answer_whole(self, body: bytes) -> web.StreamResponse:
        """A JSON answer that is encoded already, which may have been held open; raises as `write` does."""
        return self.answer_json(body) if self.response is None else await self.finish(body)

    async def broadcast(self, content_type: str, headers: Mapping[str, str]) -> web.StreamResponse:
        """Begins an answer without an end; its content is written to the connection itself, which it closes."""
        return await self._begin(_Broadcast, content_type, {"Connection": "close", **headers})

    async def _begin(
        self, kind: type[_Stream | _Broadcast], content_type: str, headers: Mapping[str, str] | None = None
    ) -> web.StreamResponse:
        self.mode = "stream"
        own = CIMultiDict(self.headers)
        own["Content-Type"] = content_type
        own["Cache-Control"] = "no-cache"
        own["X-Accel-Buffering"] = "no"
        if headers:
            own.update(headers)
        response = self.response = kind(headers=own)
        if kind is _Broadcast:
            response.force_close()
        await response.prepare(self.request)
        return response

    async def write(self, data: bytes, *, content: bool = True) -> None:
        """Sends a part of a streamed answer; waits while the client does not read.

        `content` is false for what only keeps the connection alive, which is no first byte.

        Raises:
            ConnectionError: the client is gone, or has read nothing for 30 s.
        """
        response = self._sending(data, content=content)
        if has_room(self.request.transport, len(data)):
            await response.write(data)
            return
        for part in _parts(data):
            try:
                async with asyncio.timeout(WRITE_TIMEOUT_S):
                    await response.write(part)
            except TimeoutError:
                raise ConnectionResetError("the client does not read") from None

    async def finish(self, content: bytes = b"") -> web.StreamResponse:
        """Sends the last part of a streamed answer; raises as `write` does."""
        if has_room(self.request.transport, len(content)):
            response = self._sending(content)
            await response.write_eof(content)
            return response
        *parts, last = _parts(content)
        for part in parts:
            await self.write(part)
        response = self._sending(last)
        try:
            async with asyncio.timeout(WRITE_TIMEOUT_S):
                await response.write_eof(last)
        except TimeoutError:
            raise ConnectionResetError("the client does not read") from None
        return response

    def _sending(self, data: bytes, *, content: bool = True) -> web.StreamResponse:
        if self.response is None:
            raise RuntimeError("an answer is written before its stream has begun")
        if content and self.first_byte_s is None:
            self.first_byte_s = time.perf_counter()
        self.sent_bytes += len(data)
        return self.response

    def abort(self) -> None:
        """Cuts the connection, so that the client sees that the answer is not whole."""
        transport = self.request.transport
        if transport is not None:
            transport.abort()


def has_room(transport: asyncio.Transport | None, size_bytes: float) -> bool:
    """Whether so much can be written without waiting for the client, so that no time limit is needed."""
    return transport is not None and transport.get_write_buffer_size() + size_bytes < ROOMY_BYTES


def _parts(content: bytes) -> Sequence[bytes]:
    """Content in parts that are small enough for each to have a time limit of its own."""
    starts = range(0, max(1, len(content)), PART_BYTES)
    return [content[start : start + PART_BYTES] for start in starts]
