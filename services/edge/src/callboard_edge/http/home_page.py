"""The page that a browser gets at the root: what is on offer, a chat, and addresses for other clients."""

from collections.abc import Mapping
from functools import cache
from pathlib import Path

from aiohttp import web

from callboard_edge.http.call import Call
from callboard_edge.http.route import Answer, Handler, Route

FOLDER = "home"
"""Where the page's files are, here and in the addresses that it loads."""
PAGE = "index.html"
MEDIA_TYPES: Mapping[str, str] = {
    ".html": "text/html",
    ".css": "text/css",
    ".js": "text/javascript",
    ".svg": "image/svg+xml",
}
HEADERS: Mapping[str, str] = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; media-src blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}


def routes() -> list[Route]:
    """The routes of this module; the page's other files are found relative to it, so a proxy may serve it anywhere."""
    return [
        Route(
            "GET",
            "/" if name == PAGE else f"/{FOLDER}/{name}",
            _handler(name),
            name="home" if name == PAGE else "home_file",
            summary="A page for people" if name == PAGE else "A file of that page",
            security="none",
            answers={200: Answer("The file.", media_types=(_media_type(name),))},
            documented=False,
            media_type="text/html" if name == PAGE else None,
        )
        for name in _files()
    ]


@cache
def _files() -> Mapping[str, bytes]:
    folder = Path(__file__).parent / FOLDER
    return {file.name: file.read_bytes() for file in sorted(folder.iterdir()) if file.suffix in MEDIA_TYPES}


def _handler(name: str) -> Handler:
    async def show(call: Call) -> web.StreamResponse:
        if name == PAGE:
            call.headers.add("Vary", "Accept")
        return web.Response(body=_files()[name], content_type=_media_type(name), charset="utf-8", headers=HEADERS)

    return show


def _media_type(name: str) -> str:
    return MEDIA_TYPES[Path(name).suffix]
