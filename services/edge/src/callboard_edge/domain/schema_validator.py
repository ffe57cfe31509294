"""Checks that what a client sends as JSON schemas are such."""

import asyncio
import hashlib
import json
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

from callboard_contracts.chat import MAX_GRAMMAR_SYMBOLS, MAX_LEXER_FUEL, MAX_LEXER_STATES
from callboard_contracts.errors import CallboardError, ErrorCode

MAX_SCHEMA_BYTES = 64 * 1024
"""A larger schema would make a grammar that no engine loads in reasonable time."""
MAX_ALL_BYTES = 256 * 1024
MAX_ALL_NODES = 5000
"""All schemas of a request have at most so many objects; to check one of them takes some 75 microseconds."""
MAX_REMEMBERED = 1000
WAIT_S = 10.0
_UNSATISFIABLE = "Unsatisfiable schema: "
_TOO_COMPLEX = ("too big", "too large", "too many", "limit exceeded", "fuel")


class SchemaValidator:
    """Checks schemas in one thread, since each keeps the interpreter from all other work, and remembers the good."""

    def __init__(self) -> None:
        self._one_at_a_time = asyncio.Lock()
        self._good: OrderedDict[bytes, None] = OrderedDict()

    async def check(self, schemas: Sequence[tuple[str, dict[str, Any]]]) -> None:
        """Checks all schemas of a request, each with the name of its field.

        Raises:
            CallboardError: `invalid_request` with the place inside the schema, or too many others are being checked.
        """
        left_bytes, left_nodes = MAX_ALL_BYTES, MAX_ALL_NODES
        for param, schema in schemas:
            text = json.dumps(schema)
            left_bytes -= len(text)
            if len(text) > MAX_SCHEMA_BYTES:
                raise _invalid(f"The schema is larger than {MAX_SCHEMA_BYTES} bytes.", param)
            left_nodes -= text.count("{")
            if left_bytes < 0 or left_nodes < 0:
                raise _invalid(
                    f"All schemas together may have {MAX_ALL_BYTES} bytes and {MAX_ALL_NODES} objects.", param
                )
            await self._check(param, schema, hashlib.sha256(text.encode()).digest())

    async def _check(self, param: str, schema: dict[str, Any], digest: bytes) -> None:
        if digest in self._good:
            self._good.move_to_end(digest)
            return
        try:
            async with asyncio.timeout(WAIT_S), self._one_at_a_time:
                problem = await asyncio.to_thread(_problem, schema)
        except TimeoutError:
            raise CallboardError(
                ErrorCode.QUEUE_FULL, "Too many schemas are being checked; try again shortly.", retry_after_s=WAIT_S
            ) from None
        if problem is not None:
            raise _invalid(f"Not a valid JSON schema: {problem}.", param)
        self._good[digest] = None
        if len(self._good) > MAX_REMEMBERED:
            self._good.popitem(last=False)


def _invalid(message: str, param: str) -> CallboardError:
    return CallboardError(ErrorCode.INVALID_REQUEST, message, param=param)


def _problem(schema: dict[str, Any]) -> str | None:
    return _malformed(schema) or _impossible(schema)


def _malformed(schema: dict[str, Any]) -> str | None:
    # Loaded only when the first schema comes, to keep the process small.
    from jsonschema import Draft202012Validator
    from jsonschema.exceptions import SchemaError
    from jsonschema.validators import validator_for

    try:
        validator_for(schema, default=Draft202012Validator).check_schema(schema)
    except SchemaError as error:
        place = "/".join(str(part) for part in error.path)
        return f"the keyword at '{place}' does not have an allowed value" if place else "it is not an object"
    except RecursionError:
        return "it is nested too deeply"
    return None


def _impossible(schema: dict[str, Any]) -> str | None:
    """Why no reply can satisfy a schema, or why its grammar is too large for an engine.

    The grammar is built as an engine builds it, which takes milliseconds and no memory to speak of, even for schemas
    that other converters never finish.
    """
    from llguidance import LLMatcher, LLParserLimits

    limits = LLParserLimits(
        max_grammar_size=MAX_GRAMMAR_SYMBOLS, initial_lexer_fuel=MAX_LEXER_FUEL, max_lexer_states=MAX_LEXER_STATES
    )
    try:
        problem = LLMatcher.validate_grammar(LLMatcher.grammar_from_json_schema(schema), limits=limits)
    except ValueError:
        return "it holds a number that is too large"
    if problem.startswith(_UNSATISFIABLE):
        return f"nothing can satisfy it: {problem.removeprefix(_UNSATISFIABLE)}"
    return "it is too complex" if any(words in problem for words in _TOO_COMPLEX) else None
