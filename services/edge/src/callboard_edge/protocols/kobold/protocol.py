"""The protocols of KoboldAI, KoboldCpp and text-generation-webui as the edge serves them: they share paths."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from aiohttp import web

from callboard_contracts.errors import CallboardError
from callboard_edge.http.context import EdgeContext
from callboard_edge.http.protocol import bearer
from callboard_edge.http.route import Route
from callboard_edge.protocols.kobold import (
    embeddings,
    errors,
    generation,
    info,
    perf,
    running,
    saves,
    server,
    speech,
    textgen,
    tokens,
    transcription,
    unavailable,
)
from callboard_edge.protocols.kobold.perf import Figures

PREFIXES = ("/api/v1", "/api/latest", "/api/extra", "/sdapi")


@dataclass(frozen=True, slots=True)
class Kobold:
    """Texts that go on, and what KoboldAI Lite, SillyTavern and Evennia ask beside that."""

    name: str = "kobold"
    prefixes: Sequence[str] = PREFIXES
    browsers: bool = True

    def routes(self, context: EdgeContext) -> Sequence[Route]:
        """All routes, and the same once more below the prefix for a page of KoboldAI Lite that is not at the root."""
        figures = Figures()
        modules = (info, server, running, tokens, embeddings, saves, speech, textgen, unavailable)
        found = [route for module in modules for route in module.routes(context)]
        found += [route for module in (generation, perf, transcription) for route in module.routes(context, figures)]
        first: dict[str, Route] = {}
        for route in found:
            first.setdefault(route.name, route)
        # Paths that do the same are shown once.
        found = [
            replace(route, handler=errors.served(route.handler), documented=first[route.name] is route)
            for route in found
        ]
        prefix = context.settings.kobold_prefix
        below = [replace(route, path=prefix + route.path, documented=False) for route in found] if prefix else []
        return [*found, *below]

    def credentials(self, headers: Mapping[str, str]) -> str:
        """The password of these clients is a key."""
        return bearer(headers)

    def render_error(self, error: CallboardError) -> web.Response:
        """A `detail` object."""
        return errors.render_error(error)
