"""Checks whole replies against the form that was asked of them, whatever engine wrote them."""

import asyncio
import json
from collections.abc import Iterator, Mapping
from decimal import Decimal, DecimalException
from functools import lru_cache
from typing import Any

from llguidance import LLMatcher, LLTokenizer

from callboard_contracts.chat import ChatRequest
from callboard_contracts.errors import ErrorCode, ErrorInfo
from callboard_contracts.schema_grammar import grammar_schema

Json = Any

MAX_PATTERNS = 256


_NO_JSON = "The engine's reply is not JSON."
_VIOLATION = "The engine's reply does not satisfy the JSON schema."


async def check_format(request: ChatRequest, text: str) -> ErrorInfo | None:
    """Why a reply that was not cut at a limit is not in the form that was asked for, or None where it is."""
    wanted = request.output_format
    if wanted.kind not in {"json_object", "json_schema"}:
        return None
    schema = {"type": "object"} if wanted.kind == "json_object" else wanted.json_schema or {"type": "object"}
    problem = await asyncio.to_thread(_problem, schema, text)
    if problem is None or (problem == _NO_JSON and request.sampling.stop):
        # Engines do not say which stop sequence ended a reply, and one may cut JSON anywhere.
        return None
    return ErrorInfo(code=ErrorCode.ENGINE_FAILED, message=problem)


def _problem(schema: Mapping[str, Json], text: str) -> str | None:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return _NO_JSON
    try:
        return None if _validator(schema).is_valid(value) else _VIOLATION
    except Exception:
        # A schema from an older edge may refer to what is not there; what cannot be checked is not delivered.
        return _VIOLATION


def _validator(schema: Mapping[str, Json]) -> Any:
    # Loaded only when the first schema comes, to keep the process small.
    from jsonschema import Draft202012Validator
    from jsonschema.validators import extend, validator_for

    own = {
        "pattern": _pattern,
        "patternProperties": _pattern_properties,
        "additionalProperties": _additional_properties,
        "multipleOf": _multiple_of,
    }
    # Older edges send schemas of older drafts.
    return extend(validator_for(schema, default=Draft202012Validator), own)(schema)


def _pattern(_validator: Json, pattern: str, value: Json, _schema: Json) -> Iterator[Exception]:
    if isinstance(value, str) and not _matches(pattern, value):
        yield _error(f"{pattern} does not match")


def _pattern_properties(validator: Json, patterns: Json, value: Json, _schema: Json) -> Iterator[Exception]:
    if isinstance(value, dict):
        for pattern, schema in patterns.items():
            for name in (name for name in value if _matches(pattern, name)):
                yield from validator.descend(value[name], schema, path=name)


def _additional_properties(validator: Json, schema: Json, value: Json, around: Json) -> Iterator[Exception]:
    if isinstance(value, dict):
        for name in value.keys() - around.get("properties", {}).keys():
            if not any(_matches(pattern, name) for pattern in around.get("patternProperties", ())):
                yield from validator.descend(value[name], schema, path=name)


def _multiple_of(_validator: Json, divisor: float, value: Json, _schema: Json) -> Iterator[Exception]:
    """Exact, where the library divides floats and finds that 0.3 is no multiple of 0.1."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        try:
            remainder = Decimal(str(value)) % Decimal(str(divisor))
        except DecimalException:
            return
        if remainder:
            yield _error(f"not a multiple of {divisor}")


def _error(message: str) -> Exception:
    from jsonschema import ValidationError

    return ValidationError(message)


def _matches(pattern: str, text: str) -> bool:
    """Whether a text matches, in linear time, which Python's own expressions do not promise."""
    matcher = _matcher(pattern).deep_copy()
    data = list(json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f").encode(errors="replace"))
    return matcher.try_consume_tokens(data) == len(data) and matcher.is_accepting()


@lru_cache(MAX_PATTERNS)
def _matcher(pattern: str) -> LLMatcher:
    grammar = LLMatcher.grammar_from_json_schema(grammar_schema({"type": "string", "pattern": pattern}))
    return LLMatcher(LLTokenizer("byte"), grammar, log_level=0)
