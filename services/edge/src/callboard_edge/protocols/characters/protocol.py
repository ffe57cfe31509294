"""The characters' own protocol as the edge serves it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from aiohttp import web

from callboard_contracts.errors import CallboardError
from callboard_edge.http.context import EdgeContext
from callboard_edge.http.protocol import bearer
from callboard_edge.http.route import Route
from callboard_edge.protocols.characters import errors, routes


@dataclass(frozen=True, slots=True)
class CharactersProtocol:
    """Characters, what is said to them, and what they remember."""

    name: str = "characters"
    prefixes: Sequence[str] = (routes.PREFIX,)
    browsers: bool = True

    def routes(self, context: EdgeContext) -> Sequence[Route]:
        """All routes."""
        return routes.routes(context)

    def credentials(self, headers: Mapping[str, str]) -> str:
        """The bearer token, or a header of its own."""
        return bearer(headers) or headers.get("x-api-key", "").strip()

    def render_error(self, error: CallboardError) -> web.Response:
        """An `error` object."""
        return errors.render_error(error)
