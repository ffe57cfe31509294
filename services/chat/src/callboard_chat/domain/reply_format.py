"""Checks whole replies against the form that was asked of them, whatever engine wrote them."""

import asyncio
from typing import Any

from callboard_chat.domain.json_check import can_be_checked, parsed, satisfies
from callboard_contracts.chat import ChatRequest
from callboard_contracts.errors import ErrorCode, ErrorInfo

_OBJECT: dict[str, Any] = {"type": "object"}
_NO_JSON = "The engine's reply is not JSON."
_VIOLATION = "The engine's reply does not satisfy the JSON schema."


async def uncheckable(request: ChatRequest) -> ErrorInfo | None:
    """Why a reply could not be checked against a schema of the request, or None where it could be."""
    if not request.tools and request.output_format.json_schema is None:
        return None
    schemas = {f"tools[{index}].parameters": tool.parameters for index, tool in enumerate(request.tools)}
    if (schema := request.output_format.json_schema) is not None:
        schemas["output_format.json_schema"] = schema
    if not any(schemas.values()):
        return None
    return await asyncio.to_thread(_first_uncheckable, schemas)


def _first_uncheckable(schemas: dict[str, dict[str, Any]]) -> ErrorInfo | None:
    for param, schema in schemas.items():
        if not can_be_checked(schema):
            message = "No reply can be checked against this schema: a pattern in it is too large."
            return ErrorInfo(code=ErrorCode.UNSUPPORTED, message=message, param=param)
    return None


def is_checked(request: ChatRequest) -> bool:
    """Whether a reply is to be checked against the form that was asked of it."""
    return request.output_format.kind in {"json_object", "json_schema"}


async def check_format(request: ChatRequest, text: str) -> ErrorInfo | None:
    """Why a reply that was not cut at a limit is not in the form that was asked for, or None where it is."""
    wanted = request.output_format
    if not is_checked(request):
        return None
    schema = _OBJECT if wanted.kind == "json_object" else wanted.json_schema or _OBJECT
    problem = await asyncio.to_thread(_problem, schema, text)
    if problem is None or (problem == _NO_JSON and request.sampling.stop):
        # Engines do not say which stop sequence ended a reply, and one may cut JSON anywhere.
        return None
    return ErrorInfo(code=ErrorCode.ENGINE_FAILED, message=problem)


def _problem(schema: dict[str, Any], text: str) -> str | None:
    try:
        value = parsed(text)
    except (ValueError, RecursionError):
        return _NO_JSON
    return None if satisfies(value, schema) else _VIOLATION
