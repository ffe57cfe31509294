"""`/socket.io/`: handshakes, polls and WebSockets of all sessions."""

import json

from aiohttp import web

from callboard_contracts.errors import CallboardError, ErrorCode
from callboard_edge.domain.spirit_box import SpiritBox
from callboard_edge.http.call import Call
from callboard_edge.http.context import EdgeContext
from callboard_edge.http.cors import Cors
from callboard_edge.http.route import Route
from callboard_edge.protocols.spiritbox.door import Door
from callboard_edge.protocols.spiritbox.seance import Seance
from callboard_edge.protocols.spiritbox.session import CLOSE_TIMEOUT_S, PING_INTERVAL_S, PING_TIMEOUT_S, Session

PATH = "/socket.io"
ENGINE_VERSION = "4"
TEXT = "text/plain; charset=UTF-8"
ROOM_BYTES = 64 * 1024
"""What a message may have beyond the largest recording, so that one a little larger is refused with words."""


class Connections:
    """All sessions of one edge process."""

    def __init__(self, context: EdgeContext, box: SpiritBox) -> None:
        self._box = box
        self._door = Door(box.settings, context.admission)
        self._cors = Cors(context.settings.cors_origins)
        self._max_message_bytes = box.max_contact_bytes + ROOM_BYTES
        self._open: dict[str, Seance] = {}

    def routes(self) -> list[Route]:
        """A page polls and opens its WebSocket with GET, and sends with POST while it polls."""
        max_body_bytes = self._max_message_bytes * 4 // 3 + ROOM_BYTES
        return [
            Route("GET", PATH, self._get, "spirit_box", "Hear from a spirit box", security="none", documented=False),
            Route(
                "POST",
                PATH,
                self._post,
                "spirit_box_send",
                "Send to a spirit box",
                security="none",
                documented=False,
                max_body_bytes=max_body_bytes,
            ),
        ]

    async def _get(self, call: Call) -> web.StreamResponse:
        query = call.request.query
        if query.get("EIO") != ENGINE_VERSION:
            raise CallboardError(ErrorCode.INVALID_REQUEST, "Only protocol 4 of Engine.IO is spoken here.")
        transport = query.get("transport")
        if transport == "websocket":
            return await self._websocket(call, query.get("sid"))
        if transport != "polling":
            raise CallboardError(ErrorCode.INVALID_REQUEST, "A transport is 'polling' or 'websocket'.")
        if "sid" in query:
            return _text(await self._session(query["sid"]).poll())
        session = self._opened(call)
        return _text(self._handshake(session, ["websocket"]))

    async def _post(self, call: Call) -> web.StreamResponse:
        session = self._session(call.request.query.get("sid", ""))
        try:
            payload = (await call.read()).decode()
        except UnicodeDecodeError:
            raise CallboardError(ErrorCode.INVALID_REQUEST, "The body is not UTF-8.") from None
        session.posted(payload)
        return _text("ok")

    async def _websocket(self, call: Call, sid: str | None) -> web.StreamResponse:
        request = call.request
        if not self._cors.allows(request.headers.get("Origin"), request.headers.get("Host", "")):
            raise CallboardError(ErrorCode.INVALID_REQUEST, "Pages of this origin may not connect.")
        session = None if sid is None else self._session(sid)
        websocket = web.WebSocketResponse(timeout=CLOSE_TIMEOUT_S, max_msg_size=self._max_message_bytes, compress=False)
        if not websocket.can_prepare(request):
            raise CallboardError(ErrorCode.INVALID_REQUEST, "A WebSocket begins with an upgrade of the connection.")
        fresh = session is None
        if session is None:
            session = self._opened(call)
        call.mode = "stream"
        try:
            await websocket.prepare(request)
            if fresh:
                await websocket.send_str(self._handshake(session, []))
            elif not await session.upgrade(websocket):
                await websocket.close()
                return websocket
        except BaseException:
            if fresh:
                session.end()
            raise
        await session.serve(websocket, request.transport)
        return websocket

    def _opened(self, call: Call) -> Session:
        """A new session.

        Raises:
            CallboardError: there are too many.
        """
        seance = Seance(self._box, self._door, call.caller.address, self._hung_up)
        self._box.pick_up(seance, call.caller.address)
        session = seance.session
        self._open[session.sid] = seance
        self._box.background.start(session.beat(), "spirit-heartbeat")
        return session

    def _hung_up(self, seance: Seance) -> None:
        self._box.hang_up(seance)
        self._open.pop(seance.session.sid, None)

    def _session(self, sid: str) -> Session:
        seance = self._open.get(sid)
        if seance is None:
            raise CallboardError(ErrorCode.INVALID_REQUEST, "There is no session of this id.")
        return seance.session

    def _handshake(self, session: Session, upgrades: list[str]) -> str:
        told = {
            "sid": session.sid,
            "upgrades": upgrades,
            "pingInterval": round(PING_INTERVAL_S * 1000),
            "pingTimeout": round(PING_TIMEOUT_S * 1000),
            "maxPayload": self._max_message_bytes,
        }
        return f"0{json.dumps(told, separators=(',', ':'))}"


def _text(packets: str) -> web.Response:
    return web.Response(body=packets.encode(), headers={"Content-Type": TEXT, "Cache-Control": "no-store"})
