"""Errors in OpenAI's form: the one place that decides their type, status and headers."""

import json
import math
from collections.abc import Sequence
from typing import Any

from aiohttp import web

from callboard_contracts.errors import CallboardError, ErrorCode, ErrorInfo
from callboard_contracts.quota import LimitState
from callboard_edge.domain.job_stream import FailedAfterOutput, Refused
from callboard_edge.http.rate_limits import rate_limit_headers

LONGEST_RETRY_S = 60.0
"""A client that waits longer than this for its retry is better told to give up."""

_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "invalid_request_error",
    405: "invalid_request_error",
    408: "timeout_error",
    409: "invalid_request_error",
    413: "invalid_request_error",
    429: "rate_limit_error",
}
_OPENAI_CODES = {
    ErrorCode.UNKNOWN_MODEL: "model_not_found",
    ErrorCode.QUOTA_EXCEEDED: "rate_limit_exceeded",
}
_NO_RETRY = frozenset({ErrorCode.DEADLINE_EXCEEDED})
"""A retry would run just as long again."""


def error_object(info: ErrorInfo) -> dict[str, Any]:
    """The `error` object of a body or of an event in a stream."""
    error = {
        "message": info.message,
        "type": _TYPES.get(info.kind.status, "server_error"),
        "param": info.param,
        "code": _OPENAI_CODES.get(info.code, info.code.value),
    }
    # OpenAI's own clients pass over what they do not know.
    return error if info.limit is None else {**error, "limit": info.limit}


def error_event(info: ErrorInfo) -> bytes:
    """An error in the middle of a stream; it names the limit and the wait, which an answer's headers would tell."""
    error = error_object(info)
    if info.retry_after_s is not None:
        error["retry_after"] = max(1, math.ceil(info.retry_after_s))
    return b"data: " + json.dumps({"error": error}, ensure_ascii=False).encode() + b"\n\n"


def openai_error(info: ErrorInfo, *, charged: bool = False, states: Sequence[LimitState] = ()) -> web.Response:
    """An error as an answer; `charged` says that work was done, so that a retry would be a second generation."""
    response = web.Response(
        body=json.dumps({"error": error_object(info)}, ensure_ascii=False).encode(),
        status=info.kind.status,
        content_type="application/json",
    )
    wait_s = info.retry_after_s
    response.headers["x-should-retry"] = "true" if _can_retry(info, charged=charged) else "false"
    if wait_s is not None:
        response.headers["Retry-After"] = str(max(1, math.ceil(wait_s)))
        response.headers["retry-after-ms"] = str(max(1, math.ceil(wait_s * 1000)))
    if info.code in (ErrorCode.INVALID_API_KEY, ErrorCode.INVALID_ADMIN_TOKEN):
        response.headers["WWW-Authenticate"] = "Bearer"
    response.headers.update(rate_limit_headers(states))
    return response


def _can_retry(info: ErrorInfo, *, charged: bool) -> bool:
    if charged or not info.kind.retryable or info.code in _NO_RETRY:
        return False
    if info.retry_after_s is None:
        # Quota names no time where the request is larger than the whole limit.
        return info.code is not ErrorCode.QUOTA_EXCEEDED
    return info.retry_after_s <= LONGEST_RETRY_S


def openai_style(error: CallboardError) -> web.Response:
    """An error raised by a handler, as an answer."""
    states = error.states if isinstance(error, Refused) else ()
    return openai_error(error.info, charged=isinstance(error, FailedAfterOutput), states=states)
