"""Errors as JSON objects."""

from aiohttp import web

from callboard_contracts.errors import CallboardError, ErrorCode, ErrorInfo
from callboard_edge.http.error_objects import ErrorAnswer, error_answer, error_object
from callboard_edge.http.route import Answer

CODES: dict[ErrorCode, str] = {ErrorCode.UNKNOWN_MODEL: "unknown_character"}
_FIELDS = {"messages": "text", "prompt": "text", "model": "name"}
"""What the fields of a request are called here."""

ANSWERS = {
    400: Answer("A field is missing, malformed or out of range.", ErrorAnswer),
    401: Answer("The API key is unknown, expired or revoked.", ErrorAnswer),
    404: Answer("There is no character of that name.", ErrorAnswer),
    413: Answer("The body is over the size limit.", ErrorAnswer),
    429: Answer("A limit is reached, or too many requests wait; Retry-After says when to try again.", ErrorAnswer),
    502: Answer("The engine failed.", ErrorAnswer),
    503: Answer("The engine, the bus or quota is not there at the moment.", ErrorAnswer),
    504: Answer("The deadline passed.", ErrorAnswer),
}


def error_of(info: ErrorInfo) -> dict[str, object]:
    """An error in the words of this protocol."""
    param = _FIELDS.get(info.param or "", info.param)
    return error_object(info.model_copy(update={"param": param}), CODES)


def render_error(error: CallboardError) -> web.Response:
    """An error as an answer."""
    return error_answer(error, error_of(error.info))
