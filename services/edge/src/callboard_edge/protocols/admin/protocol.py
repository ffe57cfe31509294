"""The admin API as the edge serves it: there is none without a token in the configuration."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from aiohttp import web

from callboard_contracts.errors import CallboardError
from callboard_edge.http.context import EdgeContext
from callboard_edge.http.protocol import no_credentials
from callboard_edge.http.route import Route
from callboard_edge.protocols.admin import accounts, characters, errors, kudos, rooms, usage
from callboard_edge.protocols.admin.auth import AdminAuth


@dataclass(frozen=True, slots=True)
class Admin:
    """Accounts, usage, kudos, rooms and characters, for whoever has the admin token; web pages may not call it."""

    name: str = "admin"
    prefixes: Sequence[str] = ("/admin",)
    browsers: bool = False

    def routes(self, context: EdgeContext) -> Sequence[Route]:
        """All routes, or none."""
        if context.admin is None:
            return []
        auth = AdminAuth(context.admin, context.metrics)
        modules = (accounts, usage, kudos, rooms, characters)
        return [route for module in modules for route in module.routes(context.admin, auth)]

    def credentials(self, headers: Mapping[str, str]) -> str:
        """An operator is no caller."""
        return no_credentials(headers)

    def render_error(self, error: CallboardError) -> web.Response:
        """An `error` object."""
        return errors.render_error(error)
