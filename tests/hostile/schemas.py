"""Values of JSON schemas, random schemas, and the kinds of schemas that have felled engines."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hypothesis import strategies as st

from tests.support.json_schema_suite import DRAFTS, groups

Json = Any
Schema = Mapping[str, Any] | bool

ANY: st.SearchStrategy[Json] = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-1000, 1000), st.text(max_size=5)),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=5), inner, max_size=4)),
    max_leaves=10,
)


def values_of(schema: Schema, definitions: Mapping[str, Schema] | None = None) -> "st.SearchStrategy[Json]":
    """Values that satisfy a schema as pydantic writes them for the bodies of the API document.

    hypothesis-jsonschema, which is made for this, does not work with the Hypothesis of today.
    """
    if isinstance(schema, bool) or not schema:
        return ANY
    below: Mapping[str, Schema] = schema.get("$defs", definitions or {})
    if "$ref" in schema:
        name = str(schema["$ref"]).rpartition("/")[2]
        return st.deferred(lambda: values_of(below[name], below))
    for choices in (schema.get("anyOf"), schema.get("oneOf")):
        if choices:
            return st.one_of([values_of(choice, below) for choice in choices])
    if "const" in schema or "enum" in schema:
        return st.sampled_from(schema.get("enum") or [schema["const"]])
    match schema.get("type"):
        case "object":
            return _objects(schema, below)
        case "array":
            size = schema.get("minItems", 0)
            return st.lists(values_of(schema.get("items", True), below), min_size=size, max_size=size + 2)
        case "string":
            pattern = schema.get("pattern")
            return st.from_regex(pattern, fullmatch=True) if pattern else st.text(max_size=20)
        case "integer":
            return st.integers(schema.get("minimum"), schema.get("maximum"))
        case "number":
            bounds = schema.get("minimum"), schema.get("maximum")
            return st.floats(*bounds, allow_nan=False, allow_infinity=False)
        case "boolean":
            return st.booleans()
        case "null":
            return st.none()
        case _:
            return ANY


def _objects(schema: Mapping[str, Any], definitions: Mapping[str, Schema]) -> "st.SearchStrategy[Json]":
    properties: Mapping[str, Schema] = schema.get("properties", {})
    required = set(schema.get("required", ()))
    if not properties:
        return st.dictionaries(st.text(max_size=8), values_of(schema.get("additionalProperties", True)), max_size=3)
    fields = {name: values_of(below, definitions) for name, below in properties.items()}
    needed = {name: one for name, one in fields.items() if name in required}
    return st.fixed_dictionaries(needed, optional={name: one for name, one in fields.items() if name not in required})


NUMBERS = st.one_of(st.integers(-3, 12), st.sampled_from([0, 1e-9, 1e300, 2**63, -(2**31), 10**6, 10**9, 0.1]))
SIZES = st.one_of(st.integers(0, 6), st.sampled_from([100, 10_000, 10**6, 2**31, 2**63]))
PATTERNS = st.one_of(
    st.sampled_from(
        [
            "^a+$", r"^\d{4}-\d{2}$", "[", "(", "a{5,2}", "^(a|b)*c$", r"\bword\b", "(?=a)b", r"(a)\1", ".*", "^$", "",
            r"^\p{L}+$", r"\u0041", "[^\\x00-\\x7f]+", "^(a{1,300}){1,300}$", "(a?){500}a{500}", "(?i)[a-z]{1,64}",
            "^((((((a*)*)*)*)*)*)*$", "x" * 3000, "[a-z]{0,60000}", "(" * 300 + ")" * 300, "\U0001f3ad+", "a|" * 2000,
        ]
    ),
    st.text(alphabet="ab01.*+?()[]{}|^$\\,-dwsDWS", max_size=30),
)  # fmt: skip
NAMES = st.sampled_from(["a", "b", "x", "", "$ref", "a/b", "~", "é", '"', "\\", "\n", "type", "__proto__"])


def _keywords(inner: "st.SearchStrategy[Json]") -> "st.SearchStrategy[Json]":
    objects = st.dictionaries(NAMES, inner, max_size=4)
    some = st.lists(inner, min_size=1, max_size=4)
    words: dict[str, st.SearchStrategy[Json]] = {
        "type": st.one_of(TYPES, st.lists(TYPES, min_size=1, max_size=3, unique=True)),
        "properties": objects,
        "required": st.lists(NAMES, max_size=3, unique=True),
        "additionalProperties": inner,
        "items": st.one_of(inner, some),
        "anyOf": some,
        "oneOf": some,
        "allOf": some,
        "not": inner,
        "enum": st.lists(ANY, max_size=5),
        "const": ANY,
        "$ref": st.sampled_from(["#", "#/$defs/d", "#/properties/a", "#/nowhere", "elsewhere.json"]),
        "$defs": st.fixed_dictionaries({"d": inner}),
        "$schema": st.sampled_from(["http://json-schema.org/draft-07/schema#", "urn:none", 7]),
        "format": st.sampled_from(["date-time", "email", "uuid", "ipv4", "regex", "none-such"]),
        "pattern": PATTERNS,
        "description": st.text(max_size=20),
        **dict.fromkeys(INNER, inner),
        **dict.fromkeys(("prefixItems",), some),
        **dict.fromkeys(("patternProperties", "dependentSchemas", "definitions"), objects),
        **dict.fromkeys(RANGES, NUMBERS),
        **dict.fromkeys(COUNTS, SIZES),
        "uniqueItems": st.booleans(),
        "dependentRequired": st.dictionaries(NAMES, st.lists(NAMES, max_size=2, unique=True), max_size=2),
    }
    return st.one_of(
        st.lists(st.sampled_from(sorted(words)), min_size=1, max_size=5, unique=True).flatmap(
            lambda chosen: st.fixed_dictionaries({word: words[word] for word in chosen})
        ),
        st.fixed_dictionaries({"type": st.just("object"), "properties": objects, "additionalProperties": inner}),
    )


TYPES = st.sampled_from(["object", "array", "string", "integer", "number", "boolean", "null"])
INNER = ("contains", "propertyNames", "if", "then", "else", "unevaluatedProperties", "additionalItems")
RANGES = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf")
COUNTS = (
    "minItems", "maxItems", "minLength", "maxLength", "minProperties", "maxProperties", "minContains", "maxContains",
)  # fmt: skip
SIMPLE: st.SearchStrategy[Json] = st.one_of(
    st.booleans(),
    st.fixed_dictionaries({"type": TYPES}),
    st.fixed_dictionaries({"type": st.just("string"), "pattern": PATTERNS}),
    st.fixed_dictionaries({"type": st.just("string"), "minLength": SIZES, "maxLength": SIZES}),
    st.fixed_dictionaries({"type": st.just("array"), "minItems": SIZES, "maxItems": SIZES}),
    st.fixed_dictionaries({"type": st.sampled_from(["integer", "number"]), "minimum": NUMBERS, "maximum": NUMBERS}),
)
RANDOM: st.SearchStrategy[Json] = st.recursive(SIMPLE, _keywords, max_leaves=12).filter(
    lambda one: isinstance(one, dict)
)


def official() -> Sequence[Json]:
    """Every schema of the official test suite, of all drafts from 4 on."""
    return [group.schema for draft in DRAFTS for group in groups(draft)]


def of_property(schema: Schema) -> Json:
    """A schema of an object with one property, which it must have."""
    return {"type": "object", "properties": {"x": schema}, "required": ["x"], "additionalProperties": False}


@dataclass(frozen=True, slots=True)
class Contradiction:
    """A schema that nothing satisfies; the error names all `words`."""

    name: str
    schema: Json
    words: tuple[str, ...]


BOUNDS = (
    ("array", "minItems", 5, "maxItems", 2),
    ("array", "minItems", 1, "maxItems", 0),
    ("array", "minItems", 10**6, "maxItems", 3),
    ("string", "minLength", 9, "maxLength", 4),
    ("string", "minLength", 2**31, "maxLength", 1),
    ("integer", "minimum", 5, "maximum", 2),
    ("integer", "minimum", 1, "maximum", -1),
    ("integer", "exclusiveMinimum", 7, "maximum", 7),
    ("number", "minimum", 2.5, "exclusiveMaximum", 2.5),
    ("number", "minimum", 1e300, "maximum", -1e300),
    ("object", "minProperties", 4, "maxProperties", 1),
)


def contradictions() -> Iterator[Contradiction]:
    """Bounds that exclude each other, at every place of a schema where they cannot be avoided."""
    for kind, lower, least, upper, most in BOUNDS:
        bare: Json = {"type": kind, lower: least, upper: most}
        places: dict[str, Json] = {
            "property": of_property(bare),
            "items": of_property({"type": "array", "items": bare, "minItems": 1}),
            "all of": of_property({"allOf": [{"type": kind, lower: least}, {"type": kind, upper: most}]}),
            "any of": of_property({"anyOf": [bare, bare]}),
            "definition": {**of_property({"$ref": "#/$defs/d"}), "$defs": {"d": bare}},
            "below": of_property(of_property(of_property(bare))),
        }
        for place, schema in places.items():
            # The places say where, and may say it of the last branch that was tried.
            words = (lower, upper) if place == "property" else ()
            yield Contradiction(f"{lower} {least} {upper} {most} of a {place}", schema, words)


def explosive() -> Iterator[tuple[str, Json]]:
    """Schemas that are small on the wire and large in an engine."""
    patterns = [
        "^(.?.?.?.?.?.?.?.?.?.?){190}$",
        "^" + "a*" * 2000 + "$",
        "^((.?.?){30}){30}$",
        "^(a{1,1000}){1,1000}$",
        "^(((a{0,9}){0,9}){0,9}){0,9}$",
        "^(a|aa|aaa)*b{3000}$",
        "^([a-z]{0,100}[0-9]{0,100}){50}$",
        "(.*a){60}",
        "^(" + "|".join(f"w{n}.*" for n in range(1500)) + ")*$",
        r"^(\w+\s?){40}[\p{Lu}]{400}$",
        "^" + "(" * 200 + "a" + ")?" * 200 + "$",
        "^(?:" + "[^a]" * 1500 + ")+$",
        ".{100000}",
        "^" + "[a-zA-Z0-9_]{1,63}\\." * 60 + "$",
    ]
    for number, pattern in enumerate(patterns):
        yield f"pattern {number}", {"type": "string", "pattern": pattern}
        yield f"pattern {number} of a property", of_property({"type": "string", "pattern": pattern})
    strings = {f"p{number}": {"type": "string"} for number in range(2000)}
    yield "2000 optional properties", {"type": "object", "properties": strings}
    yield "2000 optional and no others", {"type": "object", "properties": strings, "additionalProperties": False}
    yield "2000 required", {"type": "object", "properties": strings, "required": sorted(strings)}
    yield (
        "300 optional of 300",
        of_property({"type": "object", "properties": {f"p{n}": {"enum": list(range(20))} for n in range(300)}}),
    )
    yield "60 patterns of names", {"type": "object", "patternProperties": {f"^{n}.*x": {} for n in range(60)}}
    yield "an enum of 5000", {"enum": [f"value {n}" for n in range(5000)]}
    yield "any of 1500", {"anyOf": [of_property({"const": n}) for n in range(1500)]}
    yield "one of 300", {"oneOf": [{"type": "string", "pattern": f"^.*{n}"} for n in range(300)]}
    pairs = [
        {"anyOf": [{"type": "object", "properties": {f"a{n}{m}": {"const": n}}} for m in (0, 1)]} for n in range(20)
    ]
    yield "2^20 products", {"allOf": pairs}
    for size in (10**6, 2**31, 2**63):
        yield f"at least {size} items", {"type": "array", "items": {"type": "boolean"}, "minItems": size}
        yield f"at most {size} items", {"type": "array", "items": {"type": "boolean"}, "maxItems": size}
        yield f"at least {size} characters", {"type": "string", "minLength": size}
        yield f"{size} properties", {"type": "object", "minProperties": size}
        yield f"a multiple of 1/{size}", {"type": "number", "multipleOf": 1 / size, "minimum": 0, "maximum": 1}
    deep: Json = {"type": "string"}
    for _ in range(60):
        deep = of_property({"type": "array", "items": deep, "maxItems": 9})
    yield "nested deeply", deep
    fan = {
        f"d{n}": {"anyOf": [{"$ref": f"#/$defs/d{n + 1}"}, {"items": {"$ref": f"#/$defs/d{n + 1}"}}]} for n in range(30)
    }
    yield "definitions that double", {"$ref": "#/$defs/d0", "$defs": {**fan, "d30": {"type": "string"}}}
    both = {f"d{n}": {"allOf": [{"$ref": f"#/$defs/d{n + 1}"}] * 2} for n in range(30)}
    yield "definitions that double in all", {"$ref": "#/$defs/d0", "$defs": {**both, "d30": {"type": "string"}}}
    yield (
        "a circle of references",
        {"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}},
    )
    yield "itself", {"type": "object", "properties": {"x": {"$ref": "#"}}, "required": ["x"]}
    yield (
        "unicode classes",
        {"type": "object", "properties": {f"p{n}": {"pattern": "(?i)[\u0001-\uffff]{9}"} for n in range(60)}},
    )
