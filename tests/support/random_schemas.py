"""Random JSON schemas of the kinds that clients send, with all keywords that are enforced."""

from random import Random
from typing import Any

Json = Any

NAMES = ("a", "b", "ab", "x y", "é", '"', "\\", "\n", "a1", "")
PATTERNS = (
    "^a", "b$", "^[a-z]+$", r"^\d{2,4}$", r"^\w+ \w+$", '[^"]{2}', '^".*"$', r"\\n", "^[^a-c]*$", 'a|"b',
    r"^(?:\s|-)+$", "^.{0,3}$", r"\D", r"^\W+$", r"^\S+$", r"^a\tb$", r"^[\w.-]+@[\w-]+$", r"^[\x00-\x7f]{1,3}$", "^$",
    '"', r"\u00e9?$", r'^[^\s"\\]+$', r'^"[a-z]+"$', r"^\\+\w?$", r'^[^"\\]$',
)  # fmt: skip
FORMATS = ("date", "time", "date-time", "email", "uuid", "ipv4", "ipv6", "hostname", "uri", "duration")
TYPES = ("string", "integer", "null", "array", "object", "number", "boolean")
VALUES: tuple[Json, ...] = (
    1, "a", 'q"x', None, True, [1, "b"], {"k": "v"}, 2.5, "\\n", "é", -3, "", {"a": 1, "b": []}, "tab\t", 'a\\b"c', 0,
)  # fmt: skip


def random_schema(chance: Random) -> dict[str, Json]:
    """An object, with definitions that its references name."""
    schema = _schema(chance, 0)
    while not isinstance(schema, dict):
        schema = _schema(chance, 0)
    return {**schema, "$defs": {"d": _schema(chance, 2), "e": _schema(chance, 3)}}


def in_older_draft(schema: Json, draft: str) -> Json:
    """The same schema in draft 4, 6 or 7, without what that draft has no keyword for."""
    if isinstance(schema, bool):
        return schema if draft != "draft4" else {} if schema else {"not": {}}
    found: dict[str, Json] = {}
    for keyword, value in schema.items():
        if keyword in {"properties", "patternProperties", "$defs"}:
            found[keyword] = {name: in_older_draft(part, draft) for name, part in value.items()}
        elif keyword in {"allOf", "anyOf", "oneOf"}:
            found[keyword] = [in_older_draft(part, draft) for part in value]
        elif keyword == "prefixItems":
            found["items"] = [in_older_draft(part, draft) for part in value]
        elif keyword == "items":
            found["additionalItems" if "prefixItems" in schema else "items"] = in_older_draft(value, draft)
        elif keyword == "additionalProperties" or (keyword in {"contains", "propertyNames"} and draft != "draft4"):
            found[keyword] = in_older_draft(value, draft)
        elif keyword in {"dependentRequired", "dependentSchemas"}:
            parts = {name: one if isinstance(one, list) else in_older_draft(one, draft) for name, one in value.items()}
            found["dependencies"] = {name: one for name, one in parts.items() if one != []}
        elif keyword.startswith("exclusive") and draft == "draft4":
            found.update({keyword.replace("exclusiveM", "m"): value, keyword: True})
        elif keyword == "const" and draft == "draft4":
            found["enum"] = [value]
        elif keyword == "required":
            found |= {keyword: value} if value else {}
        elif keyword not in {"contains", "propertyNames", "minContains", "unevaluatedProperties"}:
            found.setdefault(keyword, value)
    return found


def _schema(chance: Random, depth: int) -> Json:
    kinds = [_integer, _number, _string, _values, _values, _type, _format, _reference]
    if depth < 3:
        kinds += [_array, _tuple, _contains, _object, _object, _object, _combined, _anything, _typed]
    return chance.choice(kinds)(chance, depth)


def _with(chance: Random, schema: Json, **keywords: tuple[float, Json]) -> Json:
    """The schema with some of the keywords, each with its likelihood."""
    return schema | {name: value for name, (likely, value) in keywords.items() if chance.random() < likely}


def _integer(chance: Random, _depth: int) -> Json:
    return _with(
        chance,
        {"type": "integer"},
        minimum=(0.5, chance.choice([0, -5, 1.5, 10, -100, 2**31])),
        maximum=(0.5, chance.choice([7, 12, 99.5, 1000, 2**40])),
        exclusiveMinimum=(0.3, chance.randint(-3, 3)),
        multipleOf=(0.3, chance.choice([1, 2, 3, 5, 7, 10])),
    )


def _number(chance: Random, _depth: int) -> Json:
    return _with(
        chance,
        {"type": "number"},
        minimum=(0.6, chance.choice([0, -1.5, 0.25, 1e-3, -1e6, 3])),
        maximum=(0.4, chance.choice([1, 0.5, 2.75, 100, 1e9, 3.0001])),
        exclusiveMaximum=(0.3, chance.choice([1, 4, 100])),
        multipleOf=(0.2, chance.choice([0.5, 0.25, 2, 1])),
    )


def _string(chance: Random, _depth: int) -> Json:
    return _with(
        chance,
        {"type": "string"},
        pattern=(0.7, chance.choice(PATTERNS)),
        minLength=(0.3, chance.randint(0, 4)),
        maxLength=(0.3, chance.randint(1, 8)),
    )


def _format(chance: Random, _depth: int) -> Json:
    return {"type": "string", "format": chance.choice(FORMATS)}


def _type(chance: Random, _depth: int) -> Json:
    return {"type": chance.choice(TYPES)}


def _anything(chance: Random, _depth: int) -> Json:
    return chance.choice([{}, True])


def _typed(chance: Random, _depth: int) -> Json:
    bounds = {"minLength": 2, "maximum": 5, "maxItems": 2, "pattern": chance.choice(PATTERNS)}
    return {"type": chance.sample(TYPES, 2), **bounds}


def _values(chance: Random, _depth: int) -> Json:
    if chance.random() < 0.3:
        return {"const": chance.choice(VALUES)}
    return _with(
        chance,
        {"enum": chance.sample(VALUES, chance.randint(1, 4))},
        type=(0.3, chance.choice(["string", "integer", ["string", "null"]])),
        minLength=(0.2, chance.randint(0, 3)),
        pattern=(0.1, chance.choice(PATTERNS)),
    )


def _reference(chance: Random, _depth: int) -> Json:
    return _with(chance, {"$ref": chance.choice(["#/$defs/d", "#/$defs/e"])}, minLength=(0.2, 1))


def _array(chance: Random, depth: int) -> Json:
    least, most = chance.randint(0, 3), chance.randint(1, 4)
    return _with(
        chance, {"type": "array", "items": _schema(chance, depth + 1)}, minItems=(0.4, least), maxItems=(0.6, most)
    )


def _tuple(chance: Random, depth: int) -> Json:
    first = [_schema(chance, depth + 1) for _ in range(chance.randint(1, 3))]
    rest = chance.choice([False, _schema(chance, depth + 1)])
    return _with(
        chance, {"type": "array", "prefixItems": first}, items=(0.6, rest), minItems=(0.5, chance.randint(0, 3))
    )


def _contains(chance: Random, depth: int) -> Json:
    return _with(
        chance,
        {"type": "array", "contains": _schema(chance, depth + 1)},
        items=(0.5, _schema(chance, depth + 1)),
        minContains=(0.4, chance.randint(0, 2)),
        maxItems=(0.4, chance.randint(1, 3)),
    )


def _object(chance: Random, depth: int) -> Json:
    names = chance.sample(NAMES, chance.randint(0, 4))
    name_rules = [{"pattern": "^a"}, {"enum": ["a", "b"]}, {"maxLength": 2}, {"minLength": 1}, {"const": "ab"}]
    pattern = chance.choice(["^a", "b$", r"^\d+$", ".", "^[^a]"])
    return _with(
        chance,
        {"type": "object", "properties": {name: _schema(chance, depth + 1) for name in names}},
        required=(0.7, chance.sample(NAMES, chance.randint(0, 2))),
        additionalProperties=(0.6, chance.choice([False, False, True, _schema(chance, depth + 1)])),
        minProperties=(0.15, chance.randint(0, 3)),
        maxProperties=(0.15, chance.randint(0, 3)),
        dependentRequired=(0.1, {chance.choice(NAMES): chance.sample(NAMES, 2)}),
        dependentSchemas=(0.1, {chance.choice(NAMES): _schema(chance, depth + 1)}),
        propertyNames=(0.15, chance.choice(name_rules)),
        patternProperties=(0.15, {pattern: _schema(chance, depth + 1)}),
        unevaluatedProperties=(0.1, False),
    )


def _combined(chance: Random, depth: int) -> Json:
    word = chance.choice(["allOf", "anyOf", "oneOf"])
    found = {word: [_schema(chance, depth + 1) for _ in range(chance.randint(1, 3))]}
    beside = _schema(chance, 3)
    return {**beside, **found} if chance.random() < 0.4 else found
