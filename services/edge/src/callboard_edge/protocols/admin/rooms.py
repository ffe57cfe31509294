"""The admin API's view of rooms, with the operations of `callboard rooms`."""

import logging

from aiohttp import web

from callboard_admin.room_records import CONTENT_TYPES, dialogue, export, summary
from callboard_edge.domain.administration import Administration
from callboard_edge.http.bodies import parse_query
from callboard_edge.http.call import Call
from callboard_edge.http.error_objects import ErrorAnswer
from callboard_edge.http.route import Answer, Route
from callboard_edge.protocols.admin.auth import AdminAuth
from callboard_edge.protocols.admin.bodies import (
    RoomExportQuery,
    RoomListObject,
    RoomObject,
    RoomQuery,
    RoomSummaryObject,
)

log = logging.getLogger(__name__)

UNKNOWN = Answer("No room is called so.", ErrorAnswer)


def routes(admin: Administration, guard: AdminAuth) -> list[Route]:
    """The routes of this module."""

    async def listing(call: Call) -> web.StreamResponse:
        query = parse_query(RoomQuery, call.request.query)
        found = await admin.rooms.all()
        return call.answer({"count": len(found), "rooms": [summary(room) for room in found[: query.limit]]})

    async def show(call: Call) -> web.StreamResponse:
        room = await admin.rooms.find(call.params["room"])
        return call.answer({"room": summary(room), "dialogue": dialogue(room)})

    async def end(call: Call) -> web.StreamResponse:
        room = await admin.rooms.find(call.params["room"])
        await admin.rooms.end(room)
        log.info("admin_change", extra={"request_id": call.request_id, "action": "room_end", "room": room.id})
        return call.answer(summary(room))

    async def exported(call: Call) -> web.StreamResponse:
        query = parse_query(RoomExportQuery, call.request.query)
        room = await admin.rooms.find(call.params["room"])
        return web.Response(
            text=export(room, query.format),
            headers={
                "Content-Type": CONTENT_TYPES[query.format],
                "Content-Disposition": f'attachment; filename="{room.id}.{query.format}"',
            },
        )

    one = "/rooms/{room}"
    return [
        guard.route(
            "GET",
            "/rooms",
            listing,
            "admin_rooms",
            "List the rooms, the one that was last active first",
            query=RoomQuery,
            answers={200: Answer("The rooms.", RoomListObject)},
        ),
        guard.route(
            "GET",
            one,
            show,
            "admin_room",
            "Show a room and its dialogue, by its id or key",
            answers={200: Answer("The room.", RoomObject), 404: UNKNOWN},
        ),
        guard.route(
            "DELETE",
            one,
            end,
            "admin_room_end",
            "End a room, claimed or not, and forget it",
            answers={200: Answer("The room as it was.", RoomSummaryObject), 404: UNKNOWN},
        ),
        guard.route(
            "GET",
            f"{one}/export",
            exported,
            "admin_room_export",
            "Export a room's dialogue",
            query=RoomExportQuery,
            answers={200: Answer("The dialogue.", media_types=tuple(CONTENT_TYPES.values())), 404: UNKNOWN},
        ),
    ]
