"""Checks that what a client sends as a JSON schema is one."""

import asyncio
import json
from typing import Any

from callboard_contracts.errors import CallboardError, ErrorCode

MAX_SCHEMA_BYTES = 64 * 1024
"""A larger schema would make a grammar that no engine loads in reasonable time."""


async def check_schema(schema: dict[str, Any], param: str) -> None:
    """Checks a schema off the event loop, since a large one takes a while.

    Raises:
        CallboardError: `invalid_request`, with the place inside the schema.
    """
    if len(json.dumps(schema)) > MAX_SCHEMA_BYTES:
        raise CallboardError(
            ErrorCode.INVALID_REQUEST, f"The schema is larger than {MAX_SCHEMA_BYTES} bytes.", param=param
        )
    problem = await asyncio.to_thread(_problem, schema)
    if problem is not None:
        raise CallboardError(ErrorCode.INVALID_REQUEST, f"Not a valid JSON schema: {problem}.", param=param)


def _problem(schema: dict[str, Any]) -> str | None:
    # Loaded only when the first schema comes, to keep the process small.
    from jsonschema import Draft202012Validator
    from jsonschema.exceptions import SchemaError

    try:
        Draft202012Validator.check_schema(schema)
    except SchemaError as error:
        place = "/".join(str(part) for part in error.path)
        return f"the keyword at '{place}' does not have an allowed value" if place else "it is not an object"
    except RecursionError:
        return "it is nested too deeply"
    return None
