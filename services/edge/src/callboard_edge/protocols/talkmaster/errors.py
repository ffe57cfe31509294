"""Errors as scripts print them, and as the FastAPI server that they were written for sends them."""

import json
from collections.abc import Mapping
from typing import Any, TypeVar

from aiohttp import web
from pydantic import BaseModel, ValidationError

from callboard_contracts.errors import CallboardError, ErrorCode, ErrorInfo
from callboard_edge.domain.submission import QuotaRefused
from callboard_edge.http.bodies import validated
from callboard_edge.http.call import Call
from callboard_edge.http.route import Handler

M = TypeVar("M", bound=BaseModel)

JSON_TYPES = ("application/json", "text/json")


class Refusal(CallboardError):  # noqa: N818 - an answer, in the protocol's form
    """An answer other than what was asked for, with the status and body that it has on the wire."""

    def __init__(
        self, code: ErrorCode, status: int, body: Mapping[str, Any] | str, info: ErrorInfo | None = None
    ) -> None:
        super().__init__(code, "The request was refused.")
        self.info = info or self.info
        self.status = status
        self.body = body


def served(handler: Handler) -> Handler:
    """A handler to which only the exact path and method lead, and whose refusals by a limit name the address."""

    async def answer(call: Call) -> web.StreamResponse:
        if call.request.method == "HEAD":
            raise Refusal(ErrorCode.METHOD_NOT_ALLOWED, 405, {"detail": "Method Not Allowed"})
        if call.request.rel_url.raw_path.partition("?")[0].endswith("/"):
            raise CallboardError(ErrorCode.NOT_FOUND, "Nothing is served at this path.")
        try:
            return await handler(call)
        except QuotaRefused as error:
            if error.info.kind.status != 429:
                raise
            call.tell_limits(error.states)
            body = {"error": error.info.message, "ip_address": call.caller.address}
            raise Refusal(error.info.code, 429, body, error.info) from error

    return answer


def repeated(error: CallboardError, message_id: str) -> CallboardError:
    """An error, which names the message where the room has it already."""
    if error.info.code is not ErrorCode.DUPLICATE_MESSAGE:
        return error
    return Refusal(error.info.code, 400, {"message_id": message_id, "error": error.info.message})


def render_error(error: CallboardError) -> web.Response:
    """An error as an answer; a path or method that leads nowhere is 401, as scripts know it."""
    if isinstance(error, Refusal):
        return web.json_response(error.body, status=error.status, dumps=_dumps)
    info = error.info
    status, body = info.kind.status, {"error": info.message}
    match info.code:
        case ErrorCode.NOT_FOUND | ErrorCode.METHOD_NOT_ALLOWED | ErrorCode.INVALID_API_KEY:
            status, body = 401, {"message": info.message}
        case ErrorCode.UNKNOWN_MODEL:
            status, body = 400, {**body, "available_models": info.offered}
        case ErrorCode.UNKNOWN_VOICE:
            body = {**body, "allowed_voices": info.offered}
        case ErrorCode.ROOM_SECRET_REQUIRED | ErrorCode.CONFLICT | ErrorCode.DUPLICATE_MESSAGE:
            status = 400
        case _:
            pass
    return web.json_response(body, status=status, dumps=_dumps)


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
