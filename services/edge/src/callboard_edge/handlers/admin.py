"""The admin API: there is none without a token in the configuration."""

from callboard_edge.handlers import admin_accounts, admin_kudos, admin_usage
from callboard_edge.handlers.admin_guard import AdminGuard
from callboard_edge.handlers.context import EdgeContext
from callboard_edge.handlers.route import Route


def routes(context: EdgeContext) -> list[Route]:
    """The routes of this module."""
    if context.admin is None:
        return []
    guard = AdminGuard(context.admin, context.metrics)
    return [
        route for module in (admin_accounts, admin_usage, admin_kudos) for route in module.routes(context.admin, guard)
    ]
