"""What a protocol is to the rest of the edge."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol as Interface
from typing import runtime_checkable

from aiohttp import web

from callboard_contracts.errors import CallboardError
from callboard_contracts.quota import LimitState
from callboard_edge.http.context import EdgeContext
from callboard_edge.http.route import Route


class Protocol(Interface):
    """A client protocol: its routes, where it finds a caller's key, and how it shows an error.

    `prefixes` are the beginnings of the paths that belong to it, known ones and unknown ones alike; an empty one is for
    all that belong to no other. `browsers` says whether web pages of other origins may call it.
    """

    @property
    def name(self) -> str:
        """The protocol's name in metrics, a fixed word."""
        ...

    @property
    def prefixes(self) -> Sequence[str]:
        """The beginnings of its paths, such as `/v1`."""
        ...

    @property
    def browsers(self) -> bool:
        """Whether web pages of other origins may call it."""
        ...

    def routes(self, context: EdgeContext) -> Sequence[Route]:
        """Its routes."""
        ...

    def credentials(self, headers: Mapping[str, str]) -> str:
        """The API key that a request carries, or nothing."""
        ...

    def render_error(self, error: CallboardError) -> web.Response:
        """An error as this protocol's clients understand it; `Retry-After` and rate limits are added by the caller."""
        ...


@runtime_checkable
class NamesRequests(Interface):
    """A protocol whose clients look for a request's id in a header of their own."""

    @property
    def request_id_header(self) -> str:
        """The header's name."""
        ...


@runtime_checkable
class NamesLimits(Interface):
    """A protocol whose clients look for their limits in headers of their own too."""

    def limit_headers(self, states: Iterable[LimitState]) -> Mapping[str, str]:
        """The headers that tell where limits stand."""
        ...


def bearer(headers: Mapping[str, str]) -> str:
    """The credentials that a request carries as `Authorization: Bearer`, or nothing."""
    scheme, _, credentials = headers.get("Authorization", "").partition(" ")
    return credentials.strip() if scheme.lower() == "bearer" else ""


SITE = "site"
"""The name of the pages that belong to no protocol."""


def no_credentials(_headers: Mapping[str, str]) -> str:
    """The key of a protocol whose clients have none."""
    return ""


def plain_error(error: CallboardError) -> web.Response:
    """An error as one line of text."""
    return web.Response(text=f"{error}\n", status=error.info.kind.status)


@dataclass(frozen=True, slots=True)
class SitePages:
    """What the edge serves beside the protocols: health, the API document and a page; errors are plain text."""

    pages: Callable[[EdgeContext], Sequence[Route]]
    name: str = SITE
    prefixes: Sequence[str] = ("",)
    browsers: bool = True

    def routes(self, context: EdgeContext) -> Sequence[Route]:
        """The pages."""
        return self.pages(context)

    def credentials(self, headers: Mapping[str, str]) -> str:
        """Nobody needs a key."""
        return no_credentials(headers)

    def render_error(self, error: CallboardError) -> web.Response:
        """One line of text."""
        return plain_error(error)
