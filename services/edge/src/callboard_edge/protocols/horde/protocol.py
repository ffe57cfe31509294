"""The AI Horde's protocol as the edge serves it to those who ask for text."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from aiohttp import web

from callboard_contracts.errors import CallboardError
from callboard_edge.http.context import EdgeContext
from callboard_edge.http.route import Route
from callboard_edge.protocols.horde import errors, generation, requesters, status, users, volunteers, workers
from callboard_edge.protocols.horde.rate_limits import RateLimits


@dataclass(frozen=True, slots=True)
class Horde:
    """Texts that are asked for once and fetched later, written by the site's own pools."""

    name: str = "horde"
    prefixes: Sequence[str] = ("/api/v2",)
    browsers: bool = True

    def routes(self, context: EdgeContext) -> Sequence[Route]:
        """All routes."""
        limits = RateLimits(context.settings.horde)
        modules = (generation, volunteers, status, workers, users)
        found = [route for module in modules for route in module.routes(context, limits)]
        return [replace(route, handler=errors.served(route.handler)) for route in found]

    def credentials(self, headers: Mapping[str, str]) -> str:
        """The key in `apikey`; the anonymous key is none."""
        return requesters.key_of(headers)

    def render_error(self, error: CallboardError) -> web.Response:
        """A `message` and its `rc`."""
        return errors.render_error(error)
