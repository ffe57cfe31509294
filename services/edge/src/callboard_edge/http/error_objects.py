"""Errors as JSON objects, the form that OpenAI made common: which fields, and whether a retry can help."""

import json
import math
from collections.abc import Mapping
from typing import Any

from aiohttp import web

from callboard_contracts.errors import CallboardError, ErrorCode, ErrorInfo
from callboard_edge.domain.job_stream import FailedAfterOutput
from callboard_edge.http.bodies import AnswerBody

LONGEST_RETRY_S = 60.0
"""A client that waits longer than this for its retry is better told to give up."""

_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    408: "timeout_error",
    429: "rate_limit_error",
}
"""The types of single statuses; all others are the client's fault or the server's."""
_NO_RETRY = frozenset({ErrorCode.DEADLINE_EXCEEDED})
"""A retry would run just as long again."""


class ErrorObject(AnswerBody):
    """What went wrong; `limit` names the limit that was hit, and is there only then."""

    message: str
    type: str
    param: str | None
    code: str | None
    limit: str | None = None


class ErrorAnswer(AnswerBody):
    """An error."""

    error: ErrorObject


def error_object(info: ErrorInfo, codes: Mapping[ErrorCode, str]) -> dict[str, Any]:
    """The fields of an error; `codes` are those that a protocol calls otherwise."""
    error = {
        "message": info.message,
        "type": _type(info.kind.status),
        "param": info.param,
        "code": codes.get(info.code, info.code.value),
    }
    # Clients pass over what they do not know.
    return error if info.limit is None else {**error, "limit": info.limit}


def _type(status: int) -> str:
    return _TYPES.get(status, "invalid_request_error" if status < 500 else "server_error")


def error_answer(error: CallboardError, body: Mapping[str, Any]) -> web.Response:
    """An error as an answer, with the status of the catalogue."""
    return answer_with_retry(error, {"error": body}, error.info.kind.status)


def answer_with_retry(error: CallboardError, content: Mapping[str, Any], status: int) -> web.Response:
    """An answer with the headers that tell a client whether to send its request again."""
    info = error.info
    response = web.Response(
        body=json.dumps(content, ensure_ascii=False).encode(), status=status, content_type="application/json"
    )
    response.headers["x-should-retry"] = "true" if _can_retry(error) else "false"
    if info.retry_after_s is not None:
        response.headers["retry-after-ms"] = str(max(1, math.ceil(info.retry_after_s * 1000)))
    if info.kind.status == 401:
        response.headers["WWW-Authenticate"] = "Bearer"
    return response


def _can_retry(error: CallboardError) -> bool:
    info = error.info
    # Work that was done is charged, and a retry would be charged again.
    if isinstance(error, FailedAfterOutput) or not info.kind.retryable or info.code in _NO_RETRY:
        return False
    if info.retry_after_s is None:
        # Quota names no time where the request is larger than the whole limit.
        return info.code is not ErrorCode.QUOTA_EXCEEDED
    return info.retry_after_s <= LONGEST_RETRY_S
