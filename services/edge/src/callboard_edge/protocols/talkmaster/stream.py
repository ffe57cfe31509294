"""What is heard of rooms: live streams, and pages that play them."""

from collections.abc import Sequence
from typing import Literal

from aiohttp import web

from callboard_contracts.errors import CallboardError
from callboard_edge.http.call import Call
from callboard_edge.http.context import EdgeContext
from callboard_edge.http.room_stream import PLAYLIST
from callboard_edge.http.route import Answer, Route
from callboard_edge.protocols.talkmaster.errors import Refusal
from callboard_edge.protocols.talkmaster.requests import room_key, split_key

TAG = "AI Talkmaster"
ARTIST = "AIT "
"""What stands before the characters' names in the tags of recordings."""
StreamKind = Literal["ait", "translation"]
KINDS: tuple[StreamKind, ...] = ("ait", "translation")
_NO_ROOM = Answer("No room of that key is open.", media_types=("text/plain",))


def stream_path(kind: StreamKind) -> str:
    """The beginning of a stream's path, before the key."""
    return f"/{kind}/stream/"


def stream_url(context: EdgeContext, call: Call, kind: StreamKind, key: str) -> str:
    """The address of a room's stream, as clients are told; empty where it cannot be known."""
    return context.room_streams.address(call, stream_path(kind), key)


def _refused(error: CallboardError) -> Refusal:
    """An error of a recording: players know its status, which scripts never see."""
    return Refusal(error.info.code, error.info.kind.status, {"error": error.info.message})


def routes(context: EdgeContext) -> list[Route]:
    """The routes of this module."""
    return [route for kind in KINDS for route in _routes(context, kind)]


def _routes(context: EdgeContext, kind: StreamKind) -> Sequence[Route]:
    streams = context.room_streams
    name = f"{kind}_stream"

    def named_publicly(call: Call) -> None:
        key = call.params["key"]
        name, secret = split_key(key)
        suffix = PLAYLIST if secret.endswith(PLAYLIST) else ""
        call.params = {**call.params, "key": name + suffix}

    async def stream(call: Call) -> web.StreamResponse:
        named_publicly(call)
        return await streams.stream(call, name, kind, stream_path(kind))

    async def page(call: Call) -> web.StreamResponse:
        named_publicly(call)
        return await streams.page(call, kind)

    async def events(call: Call) -> web.StreamResponse:
        named_publicly(call)
        return await streams.events(call, kind)

    async def recording(call: Call) -> web.StreamResponse:
        room = room_key(call, call.params["key"])
        try:
            return await context.room_recordings.mp3(call, kind, room.key, room.secret or None, ARTIST)
        except CallboardError as error:
            raise _refused(error) from error

    async def dialogue(call: Call) -> web.StreamResponse:
        room = room_key(call, call.params["key"])
        try:
            return await context.room_recordings.vtt(kind, room.key, room.secret or None)
        except CallboardError as error:
            raise _refused(error) from error

    live = {
        200: Answer("Endless MP3, or a playlist for a path that ends in .m3u.", media_types=("audio/mpeg",)),
        404: _NO_ROOM,
    }
    shown = {200: Answer("The page.", media_types=("text/html",)), 404: _NO_ROOM}
    told = {200: Answer("Server-sent events.", media_types=("text/event-stream",)), 404: _NO_ROOM}
    recorded = {200: Answer("The file.", media_types=("audio/mpeg",))}
    written = {200: Answer("WebVTT.", media_types=("text/vtt",))}
    return [
        Route(
            "GET",
            f"/{kind}/recording/{{key}}.mp3",
            recording,
            f"{kind}_recording",
            "What was said in a room, as one file",
            tag=TAG,
            security="none",
            answers=recorded,
        ),
        Route(
            "GET",
            f"/{kind}/recording/{{key}}.vtt",
            dialogue,
            f"{kind}_recording_text",
            "What was said in a room, as text with times",
            tag=TAG,
            security="none",
            answers=written,
        ),
        Route(
            "GET",
            stream_path(kind) + "{key}",
            stream,
            name,
            "Listen to a room",
            tag=TAG,
            security="none",
            answers=live,
        ),
        Route(
            "GET",
            f"/{kind}/rooms/{{key}}",
            page,
            f"{kind}_room_page",
            "A page that plays a room",
            tag=TAG,
            security="none",
            answers=shown,
        ),
        Route(
            "GET",
            f"/{kind}/rooms/{{key}}/events",
            events,
            f"{kind}_room_events",
            "Who speaks in a room",
            tag=TAG,
            security="none",
            answers=told,
        ),
    ]
