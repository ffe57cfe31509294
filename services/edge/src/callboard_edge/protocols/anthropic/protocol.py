"""Anthropic's protocol as the edge serves it."""

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from aiohttp import web

from callboard_contracts.errors import CallboardError
from callboard_contracts.quota import LimitState
from callboard_edge.http.context import EdgeContext
from callboard_edge.http.protocol import bearer
from callboard_edge.http.route import Route
from callboard_edge.protocols.anthropic import errors, limits, messages, models


@dataclass(frozen=True, slots=True)
class Anthropic:
    """Messages, their tokens, and the models on offer."""

    name: str = "anthropic"
    prefixes: Sequence[str] = messages.PATHS
    browsers: bool = True
    request_id_header: str = "request-id"

    def routes(self, context: EdgeContext) -> Sequence[Route]:
        """All routes."""
        return [route for module in (messages, models) for route in module.routes(context)]

    def credentials(self, headers: Mapping[str, str]) -> str:
        """The key, or a token in its place."""
        return headers.get("x-api-key", "").strip() or bearer(headers)

    def limit_headers(self, states: Iterable[LimitState]) -> Mapping[str, str]:
        """`anthropic-ratelimit-*`."""
        return limits.limit_headers(states, time.time())

    def render_error(self, error: CallboardError) -> web.Response:
        """An `error` object below the type `error`."""
        return errors.render_error(error)
