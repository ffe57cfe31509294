"""The admin API: there is none without a token in the configuration."""

from callboard_edge.http.context import EdgeContext
from callboard_edge.http.route import Route
from callboard_edge.protocols.admin import accounts, kudos, usage
from callboard_edge.protocols.admin.auth import AdminAuth


def routes(context: EdgeContext) -> list[Route]:
    """The routes of this module."""
    if context.admin is None:
        return []
    auth = AdminAuth(context.admin, context.metrics)
    return [route for module in (accounts, usage, kudos) for route in module.routes(context.admin, auth)]
