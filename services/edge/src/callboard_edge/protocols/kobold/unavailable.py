"""What KoboldCpp has and this server has not, answered so that clients go on without it."""

from aiohttp import web

from callboard_contracts.errors import CallboardError, ErrorCode
from callboard_edge.http.call import Call
from callboard_edge.http.context import EdgeContext
from callboard_edge.http.route import Answer, Handler, Route
from callboard_edge.protocols.kobold.bodies import AnyBody
from callboard_edge.protocols.kobold.errors import ANSWERS
from callboard_edge.protocols.kobold.info import TAG, fixed

NO_MULTIPLAYER = {"error": "Shared stories are not offered here."}


def routes(context: EdgeContext) -> list[Route]:
    """The routes of this module."""
    del context

    async def mcp(_call: Call) -> web.StreamResponse:
        raise CallboardError(ErrorCode.NOT_FOUND, "No tools are offered here.")

    def post(path: str, handler: Handler, name: str, summary: str) -> Route:
        return Route(
            "POST",
            path,
            handler,
            f"kobold_{name}",
            summary,
            TAG,
            body=AnyBody,
            security="none",
            answers={200: Answer("Nothing, or why there is none."), 400: ANSWERS[400]},
        )

    return [
        post("/api/extra/websearch", fixed([]), "websearch", "Search the web: nothing is found"),
        *(
            post(
                f"/api/extra/multiplayer/{name}",
                fixed(NO_MULTIPLAYER),
                f"multiplayer_{name}",
                "Share a story: not offered",
            )
            for name in ("status", "getstory", "setstory")
        ),
        post("/mcp", mcp, "mcp", "Call tools: none are offered"),
    ]
