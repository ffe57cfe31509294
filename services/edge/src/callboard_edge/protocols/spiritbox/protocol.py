"""The spirit box as the edge serves it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from aiohttp import web

from callboard_contracts.errors import CallboardError
from callboard_edge.http.context import EdgeContext
from callboard_edge.http.protocol import no_credentials, plain_error
from callboard_edge.http.route import Route
from callboard_edge.protocols.spiritbox.connections import Connections


@dataclass(frozen=True, slots=True)
class SpiritBoxProtocol:
    """A recorded question, and a voice that answers and goes on; served where the site has a spirit box."""

    name: str = "spiritbox"
    prefixes: Sequence[str] = ("/socket.io",)
    browsers: bool = True

    def routes(self, context: EdgeContext) -> Sequence[Route]:
        """The one path of Socket.IO."""
        return Connections(context, context.spirit_box).routes() if context.spirit_box is not None else ()

    def credentials(self, headers: Mapping[str, str]) -> str:
        """Nothing: a page says its password once it is connected."""
        return no_credentials(headers)

    def render_error(self, error: CallboardError) -> web.Response:
        """One line of text; clients of Socket.IO read the status alone."""
        return plain_error(error)
