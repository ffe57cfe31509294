"""Is the edge alive, can it take work."""

from aiohttp import web

from callboard_edge.http.call import Call
from callboard_edge.http.context import EdgeContext
from callboard_edge.http.route import Answer, Route


def routes(context: EdgeContext) -> list[Route]:
    """The routes of this module."""

    async def healthz(call: Call) -> web.StreamResponse:
        return call.answer({"status": "ok"})

    async def readyz(call: Call) -> web.StreamResponse:
        reason = context.ready()
        if reason is None:
            return call.answer({"status": "ready"})
        return call.answer({"status": "not ready", "reason": reason}, status=503)

    return [
        Route(
            "GET",
            "/healthz",
            healthz,
            name="healthz",
            summary="Whether the process is alive",
            protocol="site",
            tag="Health",
            answers={200: Answer("It is.")},
        ),
        Route(
            "GET",
            "/readyz",
            readyz,
            name="readyz",
            summary="Whether the process can take work",
            protocol="site",
            tag="Health",
            answers={200: Answer("It can."), 503: Answer("It cannot, for the reason given.")},
        ),
    ]
