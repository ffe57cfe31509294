"""JSON schemas in the form that llguidance enforces exactly, for the edge's check and the engine's grammar alike."""

from collections.abc import Mapping
from typing import Any

from callboard_contracts.schema_patterns import ENFORCED_FORMATS, enforced, enforced_name

Json = Any

_MAPS = frozenset({"properties", "patternProperties", "$defs"})
_LISTS = frozenset({"allOf", "anyOf", "oneOf", "prefixItems"})
_SINGLE = frozenset({"items", "additionalProperties"})


def grammar_schema(schema: Mapping[str, Json]) -> dict[str, Json]:
    """A normalised schema with patterns and formats as llguidance reads them, and without white space in its values.

    Raises:
        UnsupportedPatternError: a pattern has what grammars cannot express.
    """
    return {**_translated(schema), "x-guidance": {"whitespace_flexible": False}}


def _translated(schema: Json) -> Json:
    if not isinstance(schema, Mapping):
        return schema
    found: dict[str, Json] = {}
    patterns: list[str] = []
    for keyword, value in schema.items():
        if keyword == "patternProperties" and isinstance(value, Mapping):
            # A name that does not match falls to additionalProperties, so it has to be told exactly.
            exact = schema.get("additionalProperties") is not False
            found[keyword] = {enforced_name(name, exact=exact): _translated(part) for name, part in value.items()}
        elif keyword in _MAPS and isinstance(value, Mapping):
            found[keyword] = {name: _translated(part) for name, part in value.items()}
        elif keyword in _LISTS and isinstance(value, list | tuple):
            found[keyword] = [_translated(part) for part in value]
        elif keyword in _SINGLE:
            found[keyword] = _translated(value)
        elif keyword == "pattern" and isinstance(value, str):
            patterns.extend(enforced(value))
        elif keyword != "format":
            found[keyword] = value
    if (name := schema.get("format")) is not None:
        if (expression := ENFORCED_FORMATS.get(str(name))) is None:
            found["format"] = name
        else:
            patterns.append(expression)
    if patterns:
        found["allOf"] = [*found.get("allOf", ()), *({"pattern": one} for one in patterns)]
    return found
