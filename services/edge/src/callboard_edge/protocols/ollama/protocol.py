"""Ollama's own protocol as the edge serves it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from aiohttp import web

from callboard_contracts.errors import CallboardError
from callboard_edge.http.context import EdgeContext
from callboard_edge.http.protocol import bearer
from callboard_edge.http.route import Route
from callboard_edge.protocols.ollama import embeddings, errors, management, models, text


@dataclass(frozen=True, slots=True)
class Ollama:
    """Conversations, prompts, embeddings and the models on offer; others have paths of their own below `/api`."""

    name: str = "ollama"
    prefixes: Sequence[str] = ("/api",)
    browsers: bool = True

    def routes(self, context: EdgeContext) -> Sequence[Route]:
        """All routes."""
        modules = (text, embeddings, models, management)
        return [route for module in modules for route in module.routes(context)]

    def credentials(self, headers: Mapping[str, str]) -> str:
        """The bearer token, which clients take from `OLLAMA_API_KEY`."""
        return bearer(headers)

    def render_error(self, error: CallboardError) -> web.Response:
        """An object whose `error` is a text."""
        return errors.render_error(error)
