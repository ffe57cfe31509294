"""OpenAI's protocol as the edge serves it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from aiohttp import web

from callboard_contracts.errors import CallboardError
from callboard_edge.http.context import EdgeContext
from callboard_edge.http.protocol import bearer
from callboard_edge.http.route import Route
from callboard_edge.protocols.openai import (
    chat,
    completions,
    embeddings,
    errors,
    models,
    realtime,
    responses,
    speech,
    transcriptions,
    usage,
    voices,
)


@dataclass(frozen=True, slots=True)
class OpenAI:
    """Chat, completions, responses, embeddings, speech, transcriptions, conversation, models, voices and usage."""

    name: str = "openai"
    prefixes: Sequence[str] = ("/v1",)
    browsers: bool = True

    def routes(self, context: EdgeContext) -> Sequence[Route]:
        """All routes."""
        modules = (chat, completions, responses, embeddings, models, speech, transcriptions, realtime, voices, usage)
        return [route for module in modules for route in module.routes(context)]

    def credentials(self, headers: Mapping[str, str]) -> str:
        """The bearer token; other programs put the same key into headers of their own, and pages into a subprotocol."""
        return (
            bearer(headers)
            or headers.get("x-api-key", "").strip()
            or headers.get("apikey", "").strip()
            or realtime.key_in(headers)
        )

    def render_error(self, error: CallboardError) -> web.Response:
        """An `error` object."""
        return errors.render_error(error)
