"""The live sound of rooms."""

from urllib.parse import quote

from callboard_edge.http.call import Call
from callboard_edge.http.context import EdgeContext
from callboard_edge.http.route import Route


def routes(context: EdgeContext) -> list[Route]:
    """The routes of this module."""
    del context
    return []


def stream_url(context: EdgeContext, call: Call, kind: str, key: str) -> str:
    """Where a room is heard."""
    del context
    return f"http://{call.request.host}/{kind}/stream/{quote(key, safe='')}"
