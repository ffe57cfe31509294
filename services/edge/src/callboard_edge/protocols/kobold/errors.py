"""Errors as KoboldCpp's clients know them: a `detail` whose `type` and `msg` they look at."""

import json
from typing import Any

from aiohttp import web

from callboard_contracts.errors import CallboardError, ErrorCode, ErrorInfo
from callboard_edge.http.bodies import AnswerBody
from callboard_edge.http.call import Call
from callboard_edge.http.route import Answer, Handler

_STATUSES = {ErrorCode.QUEUE_FULL: 503}
"""Where the status is another than the catalogue's: KoboldCpp's word for a queue that is full."""
_TYPES = {401: "unauthorized", 404: "not_found", 405: "not_found", 429: "rate_limited", 503: "service_unavailable"}
"""KoboldAI Lite asks for a password where it reads the first, and offers to stop other requests where the last."""
_PARAMS = {
    "output_format": "grammar",
    "output_format.json_schema": "grammar",
    "output_format.schema": "grammar",
    "tools[0].parameters": "tools",
    "text": "prompt",
    "inputs": "input",
}
"""What these clients call the fields of a request."""


class ErrorDetail(AnswerBody):
    """What went wrong; `code` is this server's own word for it."""

    msg: str
    type: str
    code: str
    param: str | None = None
    error: str | None = None


class ErrorAnswer(AnswerBody):
    """An error."""

    detail: ErrorDetail


ANSWERS = {
    400: Answer("A field is malformed, or asks for what the model cannot do.", ErrorAnswer),
    401: Answer("The password, which is an API key, is missing or wrong.", ErrorAnswer),
    413: Answer("The body is over the size limit.", ErrorAnswer),
    429: Answer("A limit is reached; Retry-After says when to try again.", ErrorAnswer),
    502: Answer("The engine failed.", ErrorAnswer),
    503: Answer("Too many requests wait, or no engine is there at the moment.", ErrorAnswer),
    504: Answer("The deadline passed.", ErrorAnswer),
}


def served(handler: Handler) -> Handler:
    """A handler whose answers are kept by no cache."""

    async def answer(call: Call) -> web.StreamResponse:
        call.headers["Cache-Control"] = "no-store"
        return await handler(call)

    return answer


def error_object(info: ErrorInfo) -> dict[str, Any]:
    """The fields of an error."""
    status = _status(info)
    kind = _TYPES.get(status, "bad_input" if status < 500 else "server_error")
    detail: dict[str, Any] = {"msg": info.message, "type": kind, "code": info.code.value}
    if info.param is not None:
        whole = info.param.partition("[")[0]
        detail["param"] = _PARAMS.get(info.param) or _PARAMS.get(whole, info.param)
    if status == 401:
        detail["error"] = "Unauthorized"
    return detail


def render_error(error: CallboardError) -> web.Response:
    """An error as an answer."""
    body = json.dumps({"detail": error_object(error.info)}, ensure_ascii=False, separators=(",", ":"))
    return web.Response(body=body.encode(), status=_status(error.info), content_type="application/json")


def _status(info: ErrorInfo) -> int:
    return _STATUSES.get(info.code, info.kind.status)
