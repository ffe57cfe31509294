"""OpenAI's `/v1/realtime`: a conversation by voice over a WebSocket."""

import asyncio
from collections.abc import Mapping

from aiohttp import web

from callboard_contracts.errors import CallboardError, ErrorCode
from callboard_edge.http.bodies import Body, parse_query
from callboard_edge.http.call import Call
from callboard_edge.http.context import EdgeContext
from callboard_edge.http.cors import Cors
from callboard_edge.http.event_socket import PROTOCOLS, EventSocket, offered_protocols
from callboard_edge.http.route import Answer, Route
from callboard_edge.protocols.openai.errors import ANSWERS
from callboard_edge.protocols.openai.realtime_hearing import NAME
from callboard_edge.protocols.openai.realtime_settings import Shape
from callboard_edge.protocols.openai.realtime_talk import Talk

PROTOCOL = "realtime"
KEY_PROTOCOL = "openai-insecure-api-key."
BETA_PROTOCOL = "openai-beta.realtime-v1"
BETA_HEADER, BETA = "OpenAI-Beta", "realtime=v1"
HARD_LIMIT = 2
"""An event that is so many times too large ends the session, since it is not read."""


class RealtimeQuery(Body):
    """What a session begins with; left out, the site's own model answers."""

    model: str | None = None


def key_in(headers: Mapping[str, str]) -> str:
    """The key that a page puts into a subprotocol, since it can set no header; nothing where there is none."""
    names = offered_protocols(headers.get(PROTOCOLS, ""))
    return next((name.removeprefix(KEY_PROTOCOL) for name in names if name.startswith(KEY_PROTOCOL)), "")


def shape_of(headers: Mapping[str, str]) -> Shape:
    """Which form of the protocol a client speaks."""
    is_beta = BETA in headers.get(BETA_HEADER, "") or BETA_PROTOCOL in offered_protocols(headers.get(PROTOCOLS, ""))
    return "beta" if is_beta else "ga"


def routes(context: EdgeContext) -> list[Route]:
    """The routes of this module."""
    cors = Cors(context.settings.cors_origins)

    async def talk(call: Call) -> web.StreamResponse:
        query = parse_query(RealtimeQuery, call.request.query)
        await context.admission.identify(call.caller)
        offer = await context.offers.to(call.caller)
        model = offer.chat_models.resolve(query.model)
        headers, limits = call.request.headers, context.live_sessions.limits
        if not cors.allows(headers.get("Origin"), headers.get("Host")):
            raise CallboardError(ErrorCode.INVALID_REQUEST, "Pages of this origin may not call here.")
        with context.live_sessions.entered(call.caller):
            socket = await EventSocket.accept(
                call,
                (PROTOCOL,),
                heartbeat_s=limits.heartbeat_s,
                max_bytes=limits.max_event_bytes * HARD_LIMIT,
                max_unsent_bytes=limits.max_unsent_bytes,
            )
            try:
                await Talk(context, call, socket, offer, model, shape_of(headers)).run()
            except asyncio.CancelledError:
                # The library cancels the handler of every connection that ends, also of one that is closed in order.
                if not socket.said_goodbye or (task := asyncio.current_task()) is None:
                    raise
                task.uncancel()
        assert call.response is not None
        return call.response

    return [
        Route(
            "GET",
            "/v1/realtime",
            talk,
            name=NAME,
            summary="Speak with a model, over a WebSocket",
            tag="Audio",
            query=RealtimeQuery,
            answers={101: Answer("The session; JSON events go both ways."), **ANSWERS},
        )
    ]
