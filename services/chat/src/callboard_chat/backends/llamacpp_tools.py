"""The parameters of tools as the embedded llama.cpp gets them.

It makes grammars of its own for tools, and some schemas take it minutes or all memory: repeated and alternative parts
multiply. So only what reads a reply in one way, step by step, is left for its grammar; all else stands in the
description, where the model sees it.
"""

import json
from typing import Any

Json = dict[str, Any]

MAX_DEPTH = 16
MAX_PROPERTIES = 64
"""So many properties of one object; every optional one can be followed by each of the later ones."""
MAX_VALUES = 128
_TYPES = {"string", "number", "integer", "boolean", "null", "array", "object"}
_KEPT = {"type", "properties", "required", "items", "enum", "const", "additionalProperties", "description", "title"}
_HARMLESS = {"default", "examples", "$schema", "$id", "$comment", "deprecated", "readOnly", "writeOnly", "nullable"}


def bounded_parameters(schema: Json) -> Json:
    """A tool's parameters whose grammar is small and never ambiguous."""
    return _bounded(schema, MAX_DEPTH) if schema else schema


def _bounded(schema: object, depth: int) -> Json:
    if not isinstance(schema, dict):
        return {}
    fits = depth > 0 and _fits(schema)
    kept: Json = {}
    if fits:
        kept = {name: schema[name] for name in ("type", "title", "required", "enum", "const") if name in schema}
        if schema.get("additionalProperties") is False:
            kept["additionalProperties"] = False
        if "properties" in schema:
            kept["properties"] = {name: _bounded(part, depth - 1) for name, part in schema["properties"].items()}
        if "items" in schema:
            kept["items"] = _bounded(schema["items"], depth - 1)
    elif schema.get("type") == "object":
        kept = {"type": "object"}
    told = _KEPT | _HARMLESS if fits else _HARMLESS | {"description"}
    left_out = {name: part for name, part in schema.items() if name not in told}
    described = [str(schema["description"])] if "description" in schema else []
    if left_out and left_out != kept:
        described.append(json.dumps(left_out))
    return kept | ({"description": " ".join(described)} if described else {})


def _fits(schema: Json) -> bool:
    """Whether an object, array or value of this schema is small enough and begins in one way only."""
    properties, values = schema.get("properties", {}), schema.get("enum", [])
    kind = schema.get("type")
    kinds = kind if isinstance(kind, list) else [kind] if kind else []
    unambiguous = _TYPES.issuperset(kinds) and len(set(kinds) & {"number", "integer"}) < 2
    simple = unambiguous and len(kinds) <= 2 and isinstance(properties, dict) and isinstance(values, list)
    return simple and len(properties) <= MAX_PROPERTIES and len(values) <= MAX_VALUES and len(set(kinds)) == len(kinds)
