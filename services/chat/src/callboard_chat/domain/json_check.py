"""Checks JSON that an engine wrote against the schemas that clients send."""

import functools
import json
import math
import sys
from typing import Any

from jsonschema_rs import Draft4Validator, Draft7Validator, FancyRegexOptions, ValidationError, Validator, validator_for

MAX_REMEMBERED = 128
MAX_REMEMBERED_BYTES = 8192
"""The validator of a larger schema, or of one with patterns, takes memory and is made anew in a few milliseconds."""
_PATTERNS = FancyRegexOptions(backtrack_limit=10_000, dfa_size_limit=1024 * 1024)
_KINDS = (validator_for, Draft7Validator, Draft4Validator)
"""How a schema is read, as the edge reads it: by the first draft that allows it, the declared or newest one before."""


def parsed(text: str) -> Any:
    """The value of a text in JSON; numbers that are too large for a float are the largest, as validators know no other.

    Raises:
        ValueError: it is not JSON.
        RecursionError: it is nested too deeply.
    """
    return json.loads(text, parse_float=_finite, parse_constant=_no_constant)


def satisfies(value: Any, schema: dict[str, Any]) -> bool:
    """Whether a value satisfies a schema; a schema that no validator can be made of is satisfied by nothing."""
    if not schema:
        return True
    validator = _validator_of(schema)
    try:
        return validator is not None and validator.is_valid(value)
    except ValueError:
        # Half of a surrogate pair, which is no text.
        return False


def can_be_checked(schema: dict[str, Any]) -> bool:
    """Whether a validator can be made of a schema; of one with an immense pattern it cannot."""
    return not schema or _validator_of(schema) is not None


def _validator_of(schema: dict[str, Any]) -> Validator | None:
    text = json.dumps(schema)
    is_small = len(text) <= MAX_REMEMBERED_BYTES and '"pattern' not in text
    return _remembered(text) if is_small else _validator(schema)


@functools.lru_cache(MAX_REMEMBERED)
def _remembered(schema: str) -> Validator | None:
    return _validator(json.loads(schema))


def _validator(schema: dict[str, Any]) -> Validator | None:
    """A validator whose patterns take bounded time, and which reads nothing from anywhere.

    Formats count for nothing in any draft, as the newest has it: engines follow them by rules of their own, and do not
    agree with validators on the rare ones, such as the address `a@b6--c`.
    """
    for kind in _KINDS[:1] if "$schema" in schema else _KINDS:
        try:
            return kind(schema, pattern_options=_PATTERNS, retriever=_nothing, validate_formats=False)
        except (ValueError, ValidationError):
            continue
    return None


def _nothing(uri: str) -> Any:
    raise ValueError(f"{uri} is not read")


def _finite(text: str) -> float:
    value = float(text)
    return math.copysign(sys.float_info.max, value) if math.isinf(value) else value


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")
