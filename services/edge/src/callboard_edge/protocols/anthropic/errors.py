"""Errors in Anthropic's words."""

import json
import re
from typing import Any

from aiohttp import web

from callboard_contracts.errors import CallboardError, ErrorCode, ErrorInfo
from callboard_edge.http.error_objects import answer_with_retry
from callboard_edge.http.route import Answer
from callboard_edge.protocols.anthropic.bodies import MessageError

OVERLOADED = 529
"""The status of a server that has too much work."""
_STATUSES = {ErrorCode.QUEUE_FULL: OVERLOADED, ErrorCode.OVERLOADED: OVERLOADED}
"""Where the status is another than the catalogue's."""
_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    408: "timeout_error",
    409: "conflict_error",
    413: "request_too_large",
    429: "rate_limit_error",
    504: "timeout_error",
    OVERLOADED: "overloaded_error",
}
"""The types of single statuses; all others are the client's fault or the server's."""
_PARAMS = (
    (re.compile(r"output_format(\.json_schema|\.schema)"), "output_config.format.schema"),
    (re.compile(r"output_format"), "output_config.format"),
    (re.compile(r"(tools\[\d+\])\.parameters"), r"\1.input_schema"),
    # A neutral request counts its messages otherwise.
    (re.compile(r"(messages)\[\d+\](?:\.tool_calls)?"), r"\1"),
    (re.compile(r"prompt|text"), "messages"),
)
"""What Anthropic calls the fields of a request."""
PROMPT_TOO_LONG = "prompt is too long: "
"""By this beginning of a message clients know that they have to send less."""

ANSWERS = {
    400: Answer("A field is missing, malformed, out of range, or asks for what the model cannot do.", MessageError),
    401: Answer("The API key is unknown, expired or revoked.", MessageError),
    404: Answer("No model of that name is on offer.", MessageError),
    413: Answer("The body is over the size limit.", MessageError),
    422: Answer("Workers died while they worked on the request; it is not tried again.", MessageError),
    429: Answer("A limit is reached; Retry-After says when to try again.", MessageError),
    502: Answer("The engine failed.", MessageError),
    503: Answer("The engine, the bus or quota is not there at the moment.", MessageError),
    504: Answer("The deadline passed.", MessageError),
    OVERLOADED: Answer("Too many requests wait; Retry-After says when to try again.", MessageError),
}


def invalid(message: str, param: str) -> CallboardError:
    """The error for a field that is not as it has to be."""
    return CallboardError(ErrorCode.INVALID_REQUEST, message, param=param)


def missing(param: str) -> CallboardError:
    """The error for a field that is left out."""
    return invalid(f"Missing required field: '{param}'.", param)


def error_object(info: ErrorInfo) -> dict[str, Any]:
    """An error; its message begins with the field at fault where it does not name it, as there is no other place."""
    message, param = info.message, _translated(info.param)
    if info.code is ErrorCode.CONTEXT_LENGTH_EXCEEDED:
        message = PROMPT_TOO_LONG + message
    elif param is not None and f"'{param}'" not in message:
        message = f"{param}: {message}"
    status = _status(info)
    kind = _TYPES.get(status, "invalid_request_error" if status < 500 else "api_error")
    details = {"error_code": info.code.value, **({} if info.limit is None else {"limit": info.limit})}
    return {"type": "error", "error": {"type": kind, "message": message, "details": details}}


def render_error(error: CallboardError) -> web.Response:
    """An error as an answer."""
    return answer_with_retry(error, error_object(error.info), _status(error.info))


def error_event(info: ErrorInfo) -> bytes:
    """An error in the middle of a stream."""
    return b"event: error\ndata: " + json.dumps(error_object(info), separators=(",", ":")).encode() + b"\n\n"


def _status(info: ErrorInfo) -> int:
    return _STATUSES.get(info.code, info.kind.status)


def _translated(param: str | None) -> str | None:
    for pattern, name in _PARAMS:
        if param is not None and pattern.fullmatch(param):
            return pattern.sub(name, param)
    return param
