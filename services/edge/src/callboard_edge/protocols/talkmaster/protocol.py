"""AI Talkmaster's protocol as the edge serves it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from aiohttp import web

from callboard_contracts.errors import CallboardError
from callboard_edge.http.context import EdgeContext
from callboard_edge.http.protocol import bearer
from callboard_edge.http.route import Route
from callboard_edge.protocols.talkmaster import conversations, errors, generation, models, rooms, stream, translations

PREFIXES = (
    "/ait",
    "/conversation",
    "/generate",
    "/translation",
    "/chat_models",
    "/audio_models",
    "/statusAitalkmaster",
)


@dataclass(frozen=True, slots=True)
class Talkmaster:
    """Rooms of characters, conversations, single messages and translations, posted and then polled.

    Paths that belong to no protocol are answered as AI Talkmaster's server does.
    """

    name: str = "talkmaster"
    prefixes: Sequence[str] = (*PREFIXES, "")
    browsers: bool = True

    def routes(self, context: EdgeContext) -> Sequence[Route]:
        """All routes."""
        modules = (models, rooms, conversations, generation, translations, stream)
        return [route for module in modules for route in module.routes(context)]

    def credentials(self, headers: Mapping[str, str]) -> str:
        """Scripts have no key; programs may send one."""
        return bearer(headers)

    def render_error(self, error: CallboardError) -> web.Response:
        """A status and body that scripts know."""
        return errors.render_error(error)
