"""Answers those who listen to a room: its live MP3, a playlist, a page that plays it, and who speaks."""

import asyncio
import json
import re
import socket
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from urllib.parse import quote

from aiohttp import web

from callboard_contracts.config import RoomStreamSection
from callboard_contracts.errors import CallboardError, ErrorCode
from callboard_contracts.rooms import RoomKind, room_id
from callboard_edge.domain.ports import RoomReader
from callboard_edge.http.call import Call
from callboard_edge.media.listener import METADATA_INTERVAL_BYTES, Listener, metadata_text
from callboard_edge.media.room_streams import RoomStreams
from callboard_edge.metrics import EdgeMetrics
from callboard_kit.lifecycle import is_set_within

PAGE = "room.html"
PLAYLIST = ".m3u"
BYTES_PER_KBIT = 125
CHECK_INTERVAL_S = 60.0
KEEP_ALIVE_S = 15.0
PAGE_POLICY = "default-src 'self'; script-src 'unsafe-inline'; style-src 'unsafe-inline'"
_HOST = re.compile(r"[A-Za-z0-9._:\[\]-]{1,255}")


class RoomStreamResponder:
    """What all protocols with rooms share; the paths are theirs."""

    def __init__(
        self, streams: RoomStreams, rooms: RoomReader, settings: RoomStreamSection, metrics: EdgeMetrics
    ) -> None:
        self._streams = streams
        self._rooms = rooms
        self._settings = settings
        self._metrics = metrics

    def address(self, call: Call, path: str, key: str) -> str:
        """The whole address of a stream, for clients; empty where it cannot be known. `path` ends with a slash."""
        prefix = self._settings.url
        if prefix is None:
            host = call.request.headers.get("Host", "")
            prefix = f"http://{host}" if _HOST.fullmatch(host) else ""
        return f"{prefix.rstrip('/')}{path}{quote(key, safe='')}" if prefix else ""

    async def stream(self, call: Call, route: str, kind: RoomKind, path: str) -> web.StreamResponse:
        """A room's stream; for a key that ends in `.m3u` and is no room's, the playlist of the room without it.

        Raises:
            CallboardError: another bitrate is asked for than is on offer, or too many listen.
        """
        key, bitrate_kbps = call.params["key"], self._bitrate_kbps(call.request.query)
        if await self._rooms.room(kind, key) is None:
            name = key.removesuffix(PLAYLIST)
            if name != key and await self._rooms.room(kind, name) is not None:
                return self._playlist(call, path, name)
            return no_room()
        titles = call.request.headers.get("Icy-MetaData", "").strip() == "1"
        headers = {
            "Accept-Ranges": "none",
            "icy-name": metadata_text(key).decode(),
            "icy-br": str(bitrate_kbps),
            "icy-pub": "0",
        }
        if titles:
            headers["icy-metaint"] = str(METADATA_INTERVAL_BYTES)
        if call.request.method == "HEAD":
            return await call.broadcast("audio/mpeg", headers)
        with self._streams.place(room_id(kind, key), bitrate_kbps) as place:
            response = await call.broadcast("audio/mpeg", headers)
            ended = asyncio.Event()
            listener = self._listener(call, bitrate_kbps, ended, titles=titles)
            place.join(listener)
            try:
                with self._metrics.streaming(route):
                    while not await is_set_within(ended, CHECK_INTERVAL_S):
                        pass
            finally:
                place.leave(listener)
                call.sent_bytes += listener.sent_bytes
        if listener.too_slow:
            self._metrics.room_listeners_dropped.inc()
            call.abort()
        return response

    async def page(self, call: Call, kind: RoomKind) -> web.StreamResponse:
        """A page that plays a room and shows who speaks; it finds the stream and the events by its own path."""
        if await self._rooms.room(kind, call.params["key"]) is None:
            return no_room()
        headers = {"Content-Security-Policy": PAGE_POLICY}
        return web.Response(body=_page(), content_type="text/html", charset="utf-8", headers=headers)

    async def events(self, call: Call, kind: RoomKind) -> web.StreamResponse:
        """Who speaks in a room, as server-sent events; raises CallboardError when too many listen."""
        key = call.params["key"]
        if await self._rooms.room(kind, key) is None:
            return no_room()
        with self._streams.watching(room_id(kind, key)) as watch:
            response = await call.stream("text/event-stream")
            changed = True
            while not self._streams.closing:
                speaking = watch.speaking
                event = {"number": speaking.number, "speaker": speaking.speaker} if speaking else {"speaker": None}
                await call.write(f"data: {json.dumps(event)}\n\n".encode() if changed else b":\n\n", content=changed)
                changed = await watch.change(KEEP_ALIVE_S)
            await call.finish()
        return response

    def _playlist(self, call: Call, path: str, key: str) -> web.StreamResponse:
        title = metadata_text(key).decode()
        # As it came: decoded it could hold a line of its own.
        query = call.request.rel_url.raw_query_string
        address = self.address(call, path, key) + (f"?{query}" if query else "")
        text = f"#EXTM3U\n#EXTINF:-1,{title}\n{address}\n"
        return web.Response(text=text, content_type="audio/x-mpegurl", charset="utf-8")

    def _bitrate_kbps(self, query: Mapping[str, str]) -> int:
        asked = query.get("bitrate")
        if asked is None:
            return self._settings.default_bitrate_kbps
        found = next((one for one in self._settings.bitrates_kbps if str(one) == asked), None)
        if found is None:
            offered = tuple(map(str, self._settings.bitrates_kbps))
            message = f"The bitrate must be one of {', '.join(offered)}."
            raise CallboardError(ErrorCode.INVALID_REQUEST, message, param="bitrate", offered=offered)
        return found

    def _listener(self, call: Call, bitrate_kbps: int, ended: asyncio.Event, *, titles: bool) -> Listener:
        transport = call.request.transport
        if transport is None:
            raise ConnectionResetError("the client is gone")

        def write(data: bytes) -> None:
            if not transport.is_closing():
                transport.write(data)

        settings = self._settings
        bytes_per_s = bitrate_kbps * BYTES_PER_KBIT
        endpoint = transport.get_extra_info("socket")
        # The system would take megabytes, which for a client that reads slowly are minutes.
        unsent_bytes = max(4096, int(settings.max_waiting_s * bytes_per_s / 2))
        endpoint.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, unsent_bytes)
        return Listener(
            write,
            transport.get_write_buffer_size,
            ended.set,
            max_waiting_bytes=int((settings.max_waiting_s / 2 + settings.burst_s) * bytes_per_s),
            timeout_s=settings.slow_listener_timeout_s,
            titles=titles,
        )


def no_room() -> web.Response:
    """The answer where no room is called so, as players are used to it."""
    return web.Response(text="No room of that name is open.\n", status=404)


@cache
def _page() -> bytes:
    return (Path(__file__).parent / PAGE).read_bytes()
