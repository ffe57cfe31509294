"""The drafts of JSON Schema, and by which of them a schema is read."""

from collections.abc import Mapping
from typing import Any

from jsonschema.protocols import Validator
from jsonschema.validators import (
    Draft4Validator,
    Draft6Validator,
    Draft7Validator,
    Draft201909Validator,
    Draft202012Validator,
)
from referencing import Specification
from referencing.jsonschema import DRAFT4, DRAFT6, DRAFT7, DRAFT201909, DRAFT202012

from callboard_edge.domain.schema_keywords import LIMITED, MalformedSchemaError, UnsupportedSchemaError

Json = Any

_DRAFTS: Mapping[str, tuple[type[Validator], Specification[Json]]] = {
    "json-schema.org/draft-04/schema": (Draft4Validator, DRAFT4),
    "json-schema.org/draft-06/schema": (Draft6Validator, DRAFT6),
    "json-schema.org/draft-07/schema": (Draft7Validator, DRAFT7),
    "json-schema.org/draft/2019-09/schema": (Draft201909Validator, DRAFT201909),
    "json-schema.org/draft/2020-12/schema": (Draft202012Validator, DRAFT202012),
}
_UNDECLARED = (
    "json-schema.org/draft/2020-12/schema",
    "json-schema.org/draft-07/schema",
    "json-schema.org/draft-04/schema",
)
"""How a schema that names no draft is read: by the first of these that allows it."""


def draft_of(schema: dict[str, Any]) -> Specification[Json]:
    """The draft that a schema declares, else the newest that allows it.

    Raises:
        MalformedSchemaError: it is not what its draft allows.
        UnsupportedSchemaError: its draft is not known.
    """
    declared = schema.get("$schema")
    names = _UNDECLARED if declared is None else (str(declared).partition("://")[2].removesuffix("#"),)
    if names[0] not in _DRAFTS:
        raise UnsupportedSchemaError("$schema", "", LIMITED["$schema"])
    problems: list[str] = []
    for name in names:
        validator, specification = _DRAFTS[name]
        if (problem := _malformed(schema, validator)) is None:
            return specification
        problems.append(problem)
    raise MalformedSchemaError(problems[0])


def _malformed(schema: dict[str, Any], validator: type[Validator]) -> str | None:
    try:
        # No format is checked: to compile a pattern can take minutes.
        error = next(iter(validator(validator.META_SCHEMA).iter_errors(schema)), None)
    except RecursionError:
        return "it is nested too deeply"
    if error is None:
        return None
    place = "/".join(str(part) for part in error.path)
    return f"the keyword at '{place}' does not have an allowed value" if place else "it is not an object"
