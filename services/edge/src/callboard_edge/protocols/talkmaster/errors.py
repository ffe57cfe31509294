"""Errors as scripts print them, and as the FastAPI server that they were written for sends them."""

import json
from collections.abc import Mapping
from typing import Any, TypeVar

from aiohttp import web
from pydantic import BaseModel, ValidationError

from callboard_contracts.errors import CallboardError, ErrorCode
from callboard_edge.http.bodies import validated
from callboard_edge.http.call import Call
from callboard_edge.http.route import Handler

M = TypeVar("M", bound=BaseModel)

JSON_TYPES = ("application/json", "text/json")


class Refusal(CallboardError):  # noqa: N818 - an answer, in the protocol's form
    """An answer other than what was asked for, with the status and body that it has on the wire."""

    def __init__(self, code: ErrorCode, status: int, body: Mapping[str, Any] | str) -> None:
        super().__init__(code, "The request was refused.")
        self.status = status
        self.body = body


def served(handler: Handler) -> Handler:
    """A handler whose errors are told in this protocol's form; only the exact path and method lead to it."""

    async def answer(call: Call) -> web.StreamResponse:
        if call.request.method == "HEAD":
            raise Refusal(ErrorCode.METHOD_NOT_ALLOWED, 405, {"detail": "Method Not Allowed"})
        if call.request.rel_url.raw_path.partition("?")[0].endswith("/"):
            raise CallboardError(ErrorCode.NOT_FOUND, "Nothing is served at this path.")
        try:
            return await handler(call)
        except Refusal:
            raise
        except CallboardError as error:
            raise told(error, call) from error

    return answer


def told(error: CallboardError, call: Call) -> Refusal:
    """An error of the edge in this protocol's form."""
    info = error.info
    body: dict[str, Any] = {"error": info.message}
    status = info.kind.status
    match info.code:
        case ErrorCode.UNKNOWN_MODEL:
            status = 400
            body["available_models"] = info.offered
        case ErrorCode.UNKNOWN_VOICE:
            body["allowed_voices"] = info.offered
        case ErrorCode.QUOTA_EXCEEDED | ErrorCode.QUEUE_FULL:
            body["ip_address"] = call.caller.address
        case ErrorCode.ROOM_SECRET_REQUIRED | ErrorCode.NOT_FOUND | ErrorCode.CONFLICT:
            status = 400
        case _:
            pass
    refusal = Refusal(info.code, status, body)
    refusal.info = info
    return refusal


def render_error(error: CallboardError) -> web.Response:
    """An error as an answer; a path or method that leads nowhere is 401, as scripts know it."""
    if isinstance(error, Refusal):
        return web.json_response(error.body, status=error.status, dumps=_dumps)
    status = error.info.kind.status
    if error.info.code in (ErrorCode.NOT_FOUND, ErrorCode.METHOD_NOT_ALLOWED):
        return web.json_response({"message": "Nothing is served at this path and method."}, status=401)
    if error.info.code is ErrorCode.INVALID_API_KEY:
        return web.json_response({"message": error.info.message}, status=401)
    return web.json_response({"error": error.info.message}, status=status, dumps=_dumps)


async def body_of(call: Call, model: type[M]) -> M:
    """The request's body, checked.

    Raises:
        Refusal: 422, with each field at fault.
        CallboardError: the body is too large or did not arrive.
    """
    raw = await call.read()
    media_type = call.request.content_type.lower()
    if media_type not in JSON_TYPES and not media_type.endswith("+json"):
        raise _unprocessable([_detail("model_attributes_type", (), "Input should be a valid dictionary")])
    try:
        return validated(model, raw)
    except ValidationError as error:
        raise _unprocessable(_details(error, "body")) from None


def query_of(call: Call, model: type[M]) -> M:
    """What stands behind the question mark, checked; raises a Refusal of 422."""
    try:
        return model.model_validate(dict(call.request.query))
    except ValidationError as error:
        raise _unprocessable(_details(error, "query")) from None


def _details(error: ValidationError, place: str) -> list[dict[str, Any]]:
    # What was sent is not sent back: it may be what somebody said.
    return [
        _detail("json_invalid", (0,), "JSON decode error", place)
        if one["type"] == "json_invalid"
        else _detail(one["type"], one["loc"], one["msg"], place)
        for one in error.errors(include_url=False, include_context=False, include_input=False)
    ]


def _detail(kind: str, loc: tuple[int | str, ...], message: str, place: str = "body") -> dict[str, Any]:
    return {"type": kind, "loc": [place, *loc], "msg": message, "input": None}


def _unprocessable(details: list[dict[str, Any]]) -> Refusal:
    return Refusal(ErrorCode.INVALID_REQUEST, 422, {"detail": details})


def _dumps(body: Any) -> str:
    return json.dumps(body, ensure_ascii=False, separators=(",", ":"))
