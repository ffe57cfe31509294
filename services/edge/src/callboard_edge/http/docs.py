"""The API document and a page that shows it without anything from another host."""

import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from aiohttp import web

from callboard_edge.http.call import Call
from callboard_edge.http.openapi import document
from callboard_edge.http.route import Answer, Route

PAGE = "docs.html"


def routes(documented: Sequence[Route]) -> list[Route]:
    """The routes of this module, for the routes that the document shall show."""

    @cache
    def openapi() -> bytes:
        return json.dumps(document(documented)).encode()

    @cache
    def page() -> bytes:
        return (Path(__file__).parent / PAGE).read_bytes()

    async def show_openapi(_call: Call) -> web.StreamResponse:
        return web.Response(body=openapi(), content_type="application/json")

    async def show_page(_call: Call) -> web.StreamResponse:
        return web.Response(body=page(), content_type="text/html", charset="utf-8")

    return [
        Route(
            "GET",
            "/openapi.json",
            show_openapi,
            name="openapi",
            summary="The API document",
            security="none",
            answers={200: Answer("The document.")},
            documented=False,
        ),
        Route(
            "GET",
            "/docs",
            show_page,
            name="docs",
            summary="The API document as a page",
            security="none",
            answers={200: Answer("The page.", media_types=("text/html",))},
            documented=False,
        ),
    ]
