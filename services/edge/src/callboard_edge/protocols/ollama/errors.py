"""Errors as Ollama's clients know them: an object whose `error` is a text."""

import json
from typing import Any

from aiohttp import web

from callboard_contracts.errors import CallboardError, ErrorCode, ErrorInfo
from callboard_edge.http.bodies import AnswerBody
from callboard_edge.http.route import Answer

_STATUSES = {
    ErrorCode.QUEUE_FULL: 503,
    ErrorCode.ENGINE_FAILED: 500,
    ErrorCode.WORKER_DIED: 500,
    ErrorCode.DEADLINE_EXCEEDED: 500,
}
"""Where the status is another than the catalogue's: Ollama says 503 where its queue is full, and 500 of what failed."""
_PARAMS = {
    "output_format": "format",
    "output_format.json_schema": "format",
    "output_format.schema": "format",
    "text": "prompt",
    "inputs": "input",
}
"""What Ollama calls the fields of a request."""


class ErrorAnswer(AnswerBody):
    """An error; `code` is this server's own word for it, `param` the field at fault."""

    error: str
    code: str
    param: str | None = None


ANSWERS = {
    400: Answer("A field is malformed, or asks for what the model cannot do.", ErrorAnswer),
    401: Answer("The API key is missing, unknown, expired or revoked.", ErrorAnswer),
    404: Answer("No model of that name is on offer.", ErrorAnswer),
    413: Answer("The body is over the size limit.", ErrorAnswer),
    429: Answer("A limit is reached; Retry-After says when to try again.", ErrorAnswer),
    500: Answer("The engine failed, or the deadline passed.", ErrorAnswer),
    503: Answer("Too many requests wait, or no engine is there at the moment.", ErrorAnswer),
}


def error_object(info: ErrorInfo) -> dict[str, Any]:
    """The fields of an error."""
    found = {"error": info.message, "code": info.code.value}
    param = _PARAMS.get(info.param or "", info.param)
    return found if param is None else {**found, "param": _tool_field(param)}


def render_error(error: CallboardError) -> web.Response:
    """An error as an answer; a path that leads nowhere is plain text."""
    info = error.info
    if info.code is ErrorCode.NOT_FOUND:
        return web.Response(text=info.message, status=info.kind.status)
    body = json.dumps(error_object(info), ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")
    status = _STATUSES.get(info.code, info.kind.status)
    return web.Response(body=body, status=status, content_type="application/json")


def _tool_field(param: str) -> str:
    head, dot, rest = param.partition(".")
    return f"{head}.function.{rest}" if dot and head.startswith("tools[") and rest == "parameters" else param
