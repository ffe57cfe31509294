"""What changes the models of an Ollama server, and is refused here: the site's configuration names its models."""

from aiohttp import web

from callboard_contracts.errors import CallboardError, ErrorCode
from callboard_edge.http.call import Call
from callboard_edge.http.context import EdgeContext
from callboard_edge.http.route import Answer, Method, Route
from callboard_edge.protocols.ollama.bodies import AnyBody
from callboard_edge.protocols.ollama.errors import ErrorAnswer
from callboard_edge.protocols.ollama.text import TAG

REFUSED_STATUS = 501
REFUSAL = {
    "error": "the models of this server are set by its operator; /api/tags lists those on offer",
    "code": "unsupported",
}
_CHANGES: tuple[tuple[Method, str, str, str], ...] = (
    ("POST", "/api/pull", "pull", "Fetch a model"),
    ("POST", "/api/push", "push", "Publish a model"),
    ("POST", "/api/create", "create", "Make a model"),
    ("POST", "/api/copy", "copy", "Copy a model"),
    ("DELETE", "/api/delete", "delete", "Remove a model"),
    ("POST", "/api/blobs/{digest}", "blob_create", "Upload a file"),
)


def routes(context: EdgeContext) -> list[Route]:
    """The routes of this module."""
    del context

    async def refuse(call: Call) -> web.StreamResponse:
        await call.read()
        return call.answer(REFUSAL, REFUSED_STATUS)

    async def no_blob(_call: Call) -> web.StreamResponse:
        raise CallboardError(ErrorCode.NOT_FOUND, "There is no such file here.")

    refused = {REFUSED_STATUS: Answer("Always.", ErrorAnswer)}
    found = [
        Route(
            method,
            path,
            refuse,
            f"ollama_{name}",
            f"{summary}: refused",
            TAG,
            body=AnyBody,
            security="none",
            answers=refused,
        )
        for method, path, name, summary in _CHANGES
    ]
    blob = Route(
        "GET",
        "/api/blobs/{digest}",
        no_blob,
        "ollama_blob",
        "Find a file: there is none",
        TAG,
        security="none",
        answers={404: Answer("Always.", ErrorAnswer)},
    )
    return [*found, blob]
