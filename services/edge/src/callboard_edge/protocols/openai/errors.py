"""Errors in OpenAI's words."""

import json
import math
import re
from collections.abc import Sequence
from typing import Any

from aiohttp import web

from callboard_contracts.errors import CallboardError, ErrorCode, ErrorInfo
from callboard_edge.http.error_objects import ErrorAnswer, error_answer, error_object
from callboard_edge.http.route import Answer

_CODES = {
    ErrorCode.UNKNOWN_MODEL: "model_not_found",
    ErrorCode.QUOTA_EXCEEDED: "rate_limit_exceeded",
}
_PARAMS = (
    (re.compile(r"output_format\.json_schema"), "response_format.json_schema.schema"),
    (re.compile(r"output_format\.schema"), "response_format.schema"),
    (re.compile(r"output_format"), "response_format"),
    (re.compile(r"(tools\[\d+\])\.parameters"), r"\1.function.parameters"),
    (re.compile(r"text"), "input"),
    (re.compile(r"word_timestamps"), "timestamp_granularities"),
    (re.compile(r"inputs(\[\d+\])?"), "input"),
)
"""What OpenAI calls the fields of a request."""
_RESPONSES_PARAMS = (
    (re.compile(r"output_format\.json_schema"), "text.format.schema"),
    (re.compile(r"output_format.*"), "text.format"),
    (re.compile(r"messages.*"), "input"),
)
"""What `/v1/responses` calls them."""


class NamedError(CallboardError):
    """An error whose field is named as its client knows it."""


ANSWERS = {
    400: Answer("A field is missing, malformed, out of range, or asks for what the model cannot do.", ErrorAnswer),
    401: Answer("The API key is unknown, expired or revoked.", ErrorAnswer),
    404: Answer("No model of that name is on offer.", ErrorAnswer),
    413: Answer("The body is over the size limit.", ErrorAnswer),
    422: Answer("Workers died while they worked on the request; it is not tried again.", ErrorAnswer),
    429: Answer("A limit is reached, or too many requests wait; Retry-After says when to try again.", ErrorAnswer),
    502: Answer("The engine failed.", ErrorAnswer),
    503: Answer("The engine, the bus or quota is not there at the moment.", ErrorAnswer),
    504: Answer("The deadline passed.", ErrorAnswer),
}


def error_fields(info: ErrorInfo) -> dict[str, Any]:
    """The fields of an error's object."""
    return error_object(_translated(info, _PARAMS), _CODES)


def error_event(info: ErrorInfo) -> bytes:
    """An error in the middle of a stream; it names the limit and the wait, which an answer's headers would tell."""
    error = error_fields(info)
    if info.retry_after_s is not None:
        error["retry_after"] = max(1, math.ceil(info.retry_after_s))
    return b"data: " + json.dumps({"error": error}, ensure_ascii=False).encode() + b"\n\n"


def render_error(error: CallboardError) -> web.Response:
    """An error as an answer."""
    info = error.info if isinstance(error, NamedError) else _translated(error.info, _PARAMS)
    return error_answer(error, error_object(info, _CODES))


def responses_error(error: CallboardError) -> CallboardError:
    """An error of `/v1/responses`, whose fields have names of their own there."""
    return error if error.info.param is None else NamedError.of(_translated(error.info, _RESPONSES_PARAMS))


def _translated(info: ErrorInfo, params: Sequence[tuple[re.Pattern[str], str]]) -> ErrorInfo:
    for pattern, name in params:
        if info.param is not None and pattern.fullmatch(info.param):
            return info.model_copy(update={"param": pattern.sub(name, info.param)})
    return info
