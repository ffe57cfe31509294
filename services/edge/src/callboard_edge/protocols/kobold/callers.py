"""Who asks, on paths that cost nothing and so take no hold, which would tell a wrong key."""

from aiohttp import web

from callboard_edge.http.call import Call
from callboard_edge.http.context import EdgeContext
from callboard_edge.http.route import Handler


def known_caller(context: EdgeContext, handler: Handler) -> Handler:
    """A handler that refuses a key which quota does not know."""

    async def answer(call: Call) -> web.StreamResponse:
        if call.caller.key_digest is not None:
            await context.admission.identify(call.caller)
        return await handler(call)

    return answer
