"""Errors as the Horde's clients know them: a `message`, a word for its kind, and the fields at fault."""

import json
from typing import Any

from aiohttp import web

from callboard_contracts.errors import CallboardError, ErrorCode, ErrorInfo
from callboard_edge.http.bodies import AnswerBody
from callboard_edge.http.call import Call
from callboard_edge.http.route import Answer, Handler

NODE = "callboard"

RETURN_CODES: dict[ErrorCode, str] = {
    ErrorCode.INVALID_REQUEST: "BadRequest",
    ErrorCode.UNSUPPORTED: "BadRequest",
    ErrorCode.UNKNOWN_MODEL: "UnsupportedModel",
    ErrorCode.CONTEXT_LENGTH_EXCEEDED: "InvalidPromptSize",
    ErrorCode.INVALID_API_KEY: "InvalidAPIKey",
    ErrorCode.NOT_FOUND: "RequestNotFound",
    ErrorCode.UNKNOWN_ACCOUNT: "UserNotFound",
    ErrorCode.METHOD_NOT_ALLOWED: "BadRequest",
    ErrorCode.BODY_TOO_LARGE: "BadRequest",
    ErrorCode.QUOTA_EXCEEDED: "TooManyPrompts",
    ErrorCode.QUEUE_FULL: "TooManyPrompts",
    ErrorCode.NO_WORKER: "NoValidWorkers",
}
"""The Horde's own words; where it has none, the code of the catalogue stands for it."""
_STATUSES = {ErrorCode.UNKNOWN_MODEL: 400}


class ErrorAnswer(AnswerBody):
    """What went wrong; `errors` says what is wrong with single fields."""

    message: str
    rc: str
    errors: dict[str, str] | None = None


ANSWERS = {
    400: Answer("A field is malformed, or asks for what is not offered.", ErrorAnswer),
    401: Answer("The API key is not known.", ErrorAnswer),
    403: Answer("The caller may not do this.", ErrorAnswer),
    404: Answer("Nothing is known of what the path names.", ErrorAnswer),
    413: Answer("The body is over the size limit.", ErrorAnswer),
    429: Answer("A limit is reached; Retry-After says when to try again.", ErrorAnswer),
    503: Answer("No worker is there, or the site cannot take work at the moment.", ErrorAnswer),
}


class Refusal(CallboardError):  # noqa: N818 - an answer, in the protocol's form
    """An error with a status and a word of the Horde's own."""

    def __init__(self, status: int, rc: str, message: str, param: str | None = None) -> None:
        code = {401: ErrorCode.INVALID_API_KEY, 404: ErrorCode.NOT_FOUND}.get(status, ErrorCode.INVALID_REQUEST)
        super().__init__(code, message, param=param)
        self.status = status
        self.rc = rc


def served(handler: Handler) -> Handler:
    """A handler whose answers name the node and their encoding, and are kept by no cache."""

    async def answer(call: Call) -> web.StreamResponse:
        call.headers["Horde-Node"] = NODE
        call.headers["Cache-Control"] = "no-store"
        response = await handler(call)
        response.charset = "utf-8"
        return response

    return answer


def render_error(error: CallboardError) -> web.Response:
    """An error as an answer."""
    info = error.info
    if isinstance(error, Refusal):
        status, rc = error.status, error.rc
    else:
        status, rc = _STATUSES.get(info.code, info.kind.status), RETURN_CODES.get(info.code, info.code.value)
    body = json.dumps(_body(info, rc), ensure_ascii=False, separators=(",", ":"))
    return web.Response(body=body.encode(), status=status, content_type="application/json", charset="utf-8")


def _body(info: ErrorInfo, rc: str) -> dict[str, Any]:
    body: dict[str, Any] = {"message": info.message, "rc": rc}
    if info.param is not None:
        body["errors"] = {info.param: info.message}
    return body
