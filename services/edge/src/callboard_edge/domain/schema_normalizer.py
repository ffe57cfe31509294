"""Brings JSON schemas of drafts 4 to 2020-12 into one form of draft 2020-12 that engines can enforce."""

import json
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from graphlib import CycleError, TopologicalSorter
from itertools import combinations
from math import comb
from typing import Any

from jsonschema import Draft202012Validator
from referencing import Registry, Resource, Specification
from referencing.exceptions import Unresolvable
from referencing.jsonschema import DRAFT201909, DRAFT202012

from callboard_contracts.schema_patterns import ENFORCED_FORMATS, UnsupportedPatternError, enforced, enforced_name
from callboard_edge.domain.schema_drafts import draft_of
from callboard_edge.domain.schema_keywords import (
    ANNOTATIONS,
    LIMITED,
    MAX_CONTAINED,
    MAX_COUNT,
    MAX_DEPENDENCIES,
    MAX_INTEGER,
    REFUSED,
    UnsupportedSchemaError,
)
from callboard_edge.domain.schema_properties import meet_names, meet_patterns

Json = Any
Schema = dict[str, Any] | bool

MAX_ALTERNATIVES = 64
MAX_NODES = 20_000
"""How many schemas the normalised form may have; alternatives of `oneOf` are copied into it."""

FOR_REPLIES = frozenset({"title", "description"})
FOR_MODELS = FOR_REPLIES | {"default", "examples"}
"""What is kept of a schema that only a grammar is made of, and of one that a model reads too."""
_LOWER_BOUNDS = ("minimum", "exclusiveMinimum")
_UPPER_BOUNDS = ("maximum", "exclusiveMaximum")
_INTEGER_FORMATS = {"int32": 2**31, "int64": MAX_INTEGER}
_NUMBER_FORMATS = {"float", "double"}
_APPLICATORS = frozenset({"$ref", "allOf", "anyOf", "oneOf", "dependentSchemas", "dependencies", "if"})
_UNEVALUATED = (
    ("unevaluatedProperties", "additionalProperties", _APPLICATORS),
    ("unevaluatedItems", "items", _APPLICATORS | {"contains"}),
)


def normalized(schema: dict[str, Any], *, strict: bool, kept: Collection[str] = FOR_REPLIES) -> dict[str, Any]:
    """A schema of draft 2020-12 that allows nothing that `schema` forbids, with references to its own `$defs` only.

    Raises:
        MalformedSchemaError: it is not what its draft allows.
        UnsupportedSchemaError: it says what cannot be enforced or, if `strict`, has a keyword that is not known.
    """
    return _Normalizer(schema, draft_of(schema), strict=strict, kept=kept).root()


class _Normalizer:
    def __init__(
        self, schema: dict[str, Any], specification: Specification[Json], *, strict: bool, kept: Collection[str]
    ) -> None:
        self._specification = specification
        self._strict, self._kept = strict, kept
        self._old = "$schema" in schema and specification is not DRAFT202012
        resource: Resource[Json] = Resource(contents=schema, specification=specification)
        base = resource.id() or ""
        registry: Registry[Json] = Registry().with_resource(base, resource)
        self._root, self._resolver = schema, registry.resolver(base)
        self._definitions: dict[str, Schema] = {}
        self._pending: list[tuple[str, Json, Json, str]] = []
        self._names: dict[int, str] = {id(schema): "#"}
        self._inlined: set[int] = set()
        self._nodes = 0

    def root(self) -> dict[str, Any]:
        found = self._schema(self._root, self._resolver, "")
        # One after another: references can be a longer chain than Python's stack.
        while self._pending:
            key, target, resolver, place = self._pending.pop()
            self._definitions[key] = self._schema(target, resolver, place)
        if found is False:
            raise UnsupportedSchemaError("not", "", "nothing can satisfy it")
        found = {} if found is True else found
        self._refuse_circles(found)
        return found | ({"$defs": self._definitions} if self._definitions else {})

    def _refuse_circles(self, root: dict[str, Any]) -> None:
        schemas = {"#": root, **{f"#/$defs/{key}": one for key, one in self._definitions.items()}}
        try:
            TopologicalSorter({name: set(_references(schema)) for name, schema in schemas.items()}).prepare()
        except CycleError:
            raise UnsupportedSchemaError("$ref", "", "it comes back to itself") from None

    def _schema(self, schema: Json, resolver: Json, place: str) -> Schema:
        if isinstance(schema, bool):
            return schema
        if not isinstance(schema, dict):
            raise UnsupportedSchemaError("$ref", place, "it refers to what is no schema")
        if schema is not self._root:
            resolver = self._entered(schema, resolver, place)
        schema = _without_unevaluated(schema, place)
        found: dict[str, Any] = {}
        extra: list[Schema] = []
        for keyword, value in schema.items():
            at = f"{place}/{keyword}" if place else keyword
            if keyword in self._kept:
                found[keyword] = value
            elif keyword in ANNOTATIONS or keyword.startswith("x-"):
                continue
            elif (rule := _RULES.get(keyword)) is not None:
                rule(self, _Call(schema, keyword, value, resolver, place, at, found, extra))
            elif self._strict:
                raise UnsupportedSchemaError(keyword, place, "this keyword is not known")
        return _joined(found, extra, place)

    def _entered(self, schema: dict[str, Any], resolver: Json, place: str) -> Json:
        self._nodes += 1
        if self._nodes > MAX_NODES:
            raise UnsupportedSchemaError("$ref", place, "it is too complex")
        if schema.get("$schema", self._root.get("$schema")) != self._root.get("$schema"):
            raise UnsupportedSchemaError("$schema", place, LIMITED["$schema"])
        return resolver.in_subresource(self._specification.create_resource(schema))

    def reference(self, call: "_Call") -> None:
        target, resolver = self._resolved(call)
        if isinstance(target, bool):
            call.extra.append(target)
            return
        name = self._names.get(id(target))
        if name is None:
            name = self._names[id(target)] = f"#/$defs/{len(self._names)}"
            self._pending.append((name.removeprefix("#/$defs/"), target, resolver, call.at))
        call.found["$ref"] = name

    def _resolved(self, call: "_Call") -> tuple[Json, Json]:
        try:
            found = call.resolver.lookup(str(call.value))
        except (Unresolvable, ValueError, KeyError, TypeError, AttributeError, LookupError):
            raise UnsupportedSchemaError("$ref", call.place, "it refers to what is not in the schema") from None
        return found.contents, found.resolver

    def one_of(self, call: "_Call") -> None:
        """Alternatives with their references replaced, because llguidance sees only so that they exclude each other."""
        branches = [
            self._inlined_branch(branch, call.resolver, f"{call.at}/{index}") for index, branch in enumerate(call.value)
        ]
        if not (_are_distinct(list(map(_values_of, branches))) or _are_discriminated(branches)):
            call.found["oneOf"] = branches
        elif "anyOf" in call.schema:
            call.extra.append({"anyOf": branches})
        else:
            call.found["anyOf"] = branches

    def _inlined_branch(self, branch: Json, resolver: Json, place: str) -> Schema:
        if not isinstance(branch, dict) or {"$ref"} != set(branch) - ANNOTATIONS:
            return self._schema(branch, resolver, place)
        target, inner = self._resolved(_Call(branch, "$ref", branch["$ref"], resolver, place, place, {}, []))
        if id(target) in self._inlined or target is self._root:
            return self._schema(branch, resolver, place)
        self._inlined.add(id(target))
        try:
            return self._inlined_branch(target, inner, place)
        finally:
            self._inlined.discard(id(target))

    def copy(self, call: "_Call") -> None:
        call.found[call.keyword] = call.value

    def drop(self, call: "_Call") -> None:
        pass

    def count(self, call: "_Call") -> None:
        if call.value <= MAX_COUNT:
            call.found[call.keyword] = int(call.value)
        elif call.keyword.startswith("min"):
            raise UnsupportedSchemaError(call.keyword, call.place, f"it is over {MAX_COUNT}")

    def map_of_schemas(self, call: "_Call") -> None:
        call.found[call.keyword] = {
            name: self._schema(part, call.resolver, f"{call.at}/{name}") for name, part in call.value.items()
        }

    def pattern_properties(self, call: "_Call") -> None:
        for pattern in call.value:
            self._name_pattern(pattern, call)
        if call.value:
            self.map_of_schemas(call)

    def pattern(self, call: "_Call") -> None:
        try:
            enforced(call.value)
        except UnsupportedPatternError as error:
            raise UnsupportedSchemaError(call.keyword, call.place, f"it has {error}") from None
        call.found["pattern"] = call.value

    def _name_pattern(self, pattern: str, call: "_Call") -> None:
        try:
            enforced_name(pattern, exact=True)
        except UnsupportedPatternError as error:
            raise UnsupportedSchemaError(call.keyword, call.place, f"it has {error}") from None

    def list_of_schemas(self, call: "_Call") -> None:
        if call.keyword == "prefixItems" and self._old:
            raise UnsupportedSchemaError("prefixItems", call.place, LIMITED["prefixItems"])
        call.found[call.keyword] = [
            self._schema(part, call.resolver, f"{call.at}/{index}") for index, part in enumerate(call.value)
        ]

    def one_schema(self, call: "_Call") -> None:
        call.found[call.keyword] = self._schema(call.value, call.resolver, call.at)

    def items(self, call: "_Call") -> None:
        if isinstance(call.value, list):
            call.found["prefixItems"] = [
                self._schema(part, call.resolver, f"{call.at}/{index}") for index, part in enumerate(call.value)
            ]
        else:
            self.one_schema(call)

    def additional_items(self, call: "_Call") -> None:
        if isinstance(call.schema.get("items"), list):
            call.found["items"] = self._schema(call.value, call.resolver, call.at)

    def bound(self, call: "_Call") -> None:
        if isinstance(call.value, bool):
            return
        lower, keyword = "inimum" in call.keyword, call.keyword
        exclusive = f"exclusiveM{keyword[1:]}"
        if not keyword.startswith("exclusive") and call.schema.get(exclusive) is True:
            keyword = exclusive
        is_exclusive = keyword.startswith("exclusive")
        bounds: list[Json] = [call.schema.get(name) for name in (_UPPER_BOUNDS if lower else _LOWER_BOUNDS)]
        others = [bound if lower else -bound for bound in bounds if _is_number(bound)]
        value = call.value if lower else -call.value
        if any(other <= value if is_exclusive else other < value for other in others):
            # llguidance says what contradicts what.
            call.found[keyword] = call.value
            return
        if (call.value > MAX_INTEGER) if lower else (call.value < -MAX_INTEGER):
            raise UnsupportedSchemaError(keyword, call.place, f"it is a number that is too large: over {MAX_INTEGER}")
        if is_exclusive and any(other - value < 1 for other in others):
            # llguidance takes 0 for more than 0 there.
            raise UnsupportedSchemaError(keyword, call.place, LIMITED["exclusiveMinimum"])
        call.found[keyword] = max(call.value, -MAX_INTEGER) if lower else min(call.value, MAX_INTEGER)

    def multiple_of(self, call: "_Call") -> None:
        if call.value > MAX_INTEGER:
            raise UnsupportedSchemaError("multipleOf", call.place, f"it is over 2^53 ({MAX_INTEGER})")
        call.found["multipleOf"] = call.value

    def values(self, call: "_Call") -> None:
        if any(_is_number(leaf) and abs(leaf) > MAX_INTEGER for leaf in _leaves(call.value)):
            raise UnsupportedSchemaError(call.keyword, call.place, f"a number in it is too large: over {MAX_INTEGER}")
        # llama.cpp's copy of llguidance gives up where a value is not of the type beside it.
        types = call.schema.get("type", ())
        types = (types,) if isinstance(types, str) else types
        listed = call.value if call.keyword == "enum" else [call.value]
        values = {"enum": [value for value in listed if not types or _is_one_of(value, types)]}
        if "enum" in call.found:
            call.extra.append(values)
        else:
            call.found.update(values)

    def format(self, call: "_Call") -> None:
        if call.value in _INTEGER_FORMATS:
            most = _INTEGER_FORMATS[call.value]
            call.extra.append({"minimum": -most, "maximum": most - 1})
        elif call.value in ENFORCED_FORMATS:
            call.found["format"] = call.value
        elif call.value not in _NUMBER_FORMATS:
            raise UnsupportedSchemaError("format", call.place, f"this format is not enforced; {LIMITED['format']} are")

    def least_properties(self, call: "_Call") -> None:
        """Llguidance counts repeated names, so a lower bound must follow from names that cannot repeat."""
        required = set(call.schema.get("required", ()))
        missing = call.value - len(required)
        optional = _optional(call.schema)
        if call.value > call.schema.get("maxProperties", call.value):
            # llguidance says what contradicts what.
            call.found["minProperties"] = int(call.value)
        elif missing <= 0:
            return
        elif missing == 1 and not optional and required.issuperset(call.schema.get("properties", ())):
            call.found["minProperties"] = int(call.value)
        elif 0 < comb(len(optional), int(missing)) <= MAX_ALTERNATIVES:
            chosen = combinations(optional, int(missing))
            call.extra.append({"anyOf": [*({"required": list(names)} for names in chosen), _OTHER_TYPES]})
        else:
            raise UnsupportedSchemaError("minProperties", call.place, LIMITED["minProperties"])

    def most_properties(self, call: "_Call") -> None:
        """Llguidance does not count optional properties, so an upper bound must say which of them are left out."""
        optional = _optional(call.schema)
        free = int(call.value) - len(set(call.schema.get("required", ())))
        is_closed = call.schema.get("additionalProperties") is False and not call.schema.get("patternProperties")
        if call.value == 0:
            call.extra.append({"additionalProperties": False})
        elif not (is_closed and optional) or free < 0:
            self.count(call)
        elif free < len(optional):
            if comb(len(optional), free) > MAX_ALTERNATIVES:
                raise UnsupportedSchemaError("maxProperties", call.place, LIMITED["maxProperties"])
            left_out = combinations(optional, len(optional) - free)
            call.extra.append({"anyOf": [{"properties": dict.fromkeys(names, False)} for names in left_out]})

    def contains(self, call: "_Call") -> None:
        least = call.schema.get("minContains", 1) if self._specification in (DRAFT201909, DRAFT202012) else 1
        if least > MAX_CONTAINED:
            raise UnsupportedSchemaError("minContains", call.place, LIMITED["contains"])
        inner = self._schema(call.value, call.resolver, call.at)
        if not least:
            return
        first = call.schema.get("prefixItems", call.schema.get("items"))
        places = (0, len(first)) if isinstance(first, list) else (0,)
        call.extra.append(
            {
                "anyOf": [
                    {"prefixItems": [True] * place + [inner] * int(least), "minItems": place + int(least)}
                    for place in places
                ]
            }
        )

    def max_contains(self, call: "_Call") -> None:
        if "contains" in call.schema:
            raise UnsupportedSchemaError("maxContains", call.place, REFUSED["maxContains"])

    def condition(self, call: "_Call") -> None:
        if "then" in call.schema or "else" in call.schema:
            raise UnsupportedSchemaError("if", call.place, REFUSED["if"])

    def negation(self, call: "_Call") -> None:
        if call.value not in ({}, True, False):
            raise UnsupportedSchemaError("not", call.place, LIMITED["not"])
        call.extra.append(call.value is False)

    def unique(self, call: "_Call") -> None:
        if call.value and call.schema.get("maxItems", 2) > 1:
            raise UnsupportedSchemaError("uniqueItems", call.place, REFUSED["uniqueItems"])

    def dependencies(self, call: "_Call") -> None:
        if len(call.value) > MAX_DEPENDENCIES:
            raise UnsupportedSchemaError(call.keyword, call.place, LIMITED["dependentSchemas"])
        for name, needed in call.value.items():
            if isinstance(needed, list):
                then: Schema = {"required": [name, *(one for one in needed if one != name)]}
            else:
                inner = self._schema(needed, call.resolver, f"{call.at}/{name}")
                then = {"required": [name], "allOf": [inner]} if inner is not False else False
            call.extra.append({"anyOf": [{"properties": {name: False}}, then]})

    def property_names(self, call: "_Call") -> None:
        if call.value in (True, {}):
            return
        if call.value is False:
            call.extra.append({"additionalProperties": False})
            return
        rules = {name: rule for name, rule in call.value.items() if name not in ANNOTATIONS}
        lengths = "minLength" in rules or "maxLength" in rules
        known = {"type", "minLength", "maxLength"} if lengths else {"type", "const", "enum", "pattern"}
        single = lengths or len(set(rules) - {"type"}) <= 1
        if not set(rules) <= known or not single or rules.pop("type", "string") != "string":
            raise UnsupportedSchemaError("propertyNames", call.place, LIMITED["propertyNames"])
        if "patternProperties" in call.schema:
            raise UnsupportedSchemaError("propertyNames", call.place, LIMITED["propertyNames"])
        if lengths:
            least, most = int(rules.get("minLength", 0)), rules.get("maxLength")
            rules = {"pattern": f"^[\\s\\S]{{{least},{'' if most is None else int(most)}}}$"}
        elif "pattern" in rules:
            self._name_pattern(rules["pattern"], call)
        if rules:
            call.found["propertyNames"] = rules


class _Call:
    """One keyword of one schema, and what has been found of the schema so far."""

    __slots__ = ("at", "extra", "found", "keyword", "place", "resolver", "schema", "value")

    def __init__(
        self,
        schema: dict[str, Any],
        keyword: str,
        value: Json,
        resolver: Json,
        place: str,
        at: str,
        found: dict[str, Any],
        extra: list[Schema],
    ) -> None:
        self.schema, self.keyword, self.value, self.resolver = schema, keyword, value, resolver
        self.place, self.at, self.found, self.extra = place, at, found, extra


_OTHER_TYPES: Schema = {"type": ["null", "boolean", "number", "string", "array"]}


def _refuse(reason: str) -> Callable[[_Normalizer, _Call], None]:
    def rule(_normalizer: _Normalizer, call: _Call) -> None:
        raise UnsupportedSchemaError(call.keyword, call.place, reason)

    return rule


_RULES: Mapping[str, Callable[[_Normalizer, _Call], None]] = {
    **dict.fromkeys(("type", "required"), _Normalizer.copy),
    **dict.fromkeys(("minItems", "maxItems", "minLength", "maxLength"), _Normalizer.count),
    **dict.fromkeys(("$schema", "$id", "id", "$anchor", "$defs", "definitions", "then", "else"), _Normalizer.drop),
    **dict.fromkeys(("$dynamicAnchor", "$recursiveAnchor", "minContains"), _Normalizer.drop),
    **dict.fromkeys(("allOf", "anyOf", "prefixItems"), _Normalizer.list_of_schemas),
    **dict.fromkeys(("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"), _Normalizer.bound),
    **dict.fromkeys(("const", "enum"), _Normalizer.values),
    **dict.fromkeys(("dependencies", "dependentRequired", "dependentSchemas"), _Normalizer.dependencies),
    **{keyword: _refuse(REFUSED[keyword]) for keyword in ("$dynamicRef", "$recursiveRef")},
    "$ref": _Normalizer.reference,
    "additionalItems": _Normalizer.additional_items,
    "additionalProperties": _Normalizer.one_schema,
    "contains": _Normalizer.contains,
    "format": _Normalizer.format,
    "if": _Normalizer.condition,
    "items": _Normalizer.items,
    "maxContains": _Normalizer.max_contains,
    "maxProperties": _Normalizer.most_properties,
    "minProperties": _Normalizer.least_properties,
    "multipleOf": _Normalizer.multiple_of,
    "not": _Normalizer.negation,
    "oneOf": _Normalizer.one_of,
    "pattern": _Normalizer.pattern,
    "patternProperties": _Normalizer.pattern_properties,
    "properties": _Normalizer.map_of_schemas,
    "propertyNames": _Normalizer.property_names,
    "uniqueItems": _Normalizer.unique,
}


def _joined(found: dict[str, Any], extra: list[Schema], place: str) -> Schema:
    if any(one is False for one in extra):
        return False
    if "propertyNames" in found:
        meet_names(found, place)
    if "patternProperties" in found:
        meet_patterns(found, place)
    if more := [one for one in extra if one is not True]:
        found["allOf"] = [*found.get("allOf", ()), *more]
    return found


def _without_unevaluated(schema: dict[str, Any], place: str) -> dict[str, Any]:
    """The same schema with `additionalProperties` and `items` for what means the same there."""
    found = dict(schema)
    for keyword, rest, beside in _UNEVALUATED:
        value = found.pop(keyword, True)
        if value is True or value == {}:
            continue
        if beside & set(found):
            raise UnsupportedSchemaError(keyword, place, LIMITED[keyword])
        found.setdefault("additionalItems" if rest == "items" and isinstance(found.get("items"), list) else rest, value)
    return found


def _is_one_of(value: Json, types: Sequence[str]) -> bool:
    return any(Draft202012Validator.TYPE_CHECKER.is_type(value, one) for one in types)


def _values_of(schema: Schema) -> list[Json] | None:
    """The only values that a schema allows, where it does nothing but list them."""
    if isinstance(schema, bool) or not set(schema) <= {"enum", "type", *FOR_MODELS}:
        return None
    return schema.get("enum")


def _are_distinct(listed: list[list[Json] | None]) -> bool:
    """Whether lists of values have none in common; None is a list that is not known."""
    written = [_written(value) for values in listed if values is not None for value in values]
    return None not in listed and len(set(written)) == len(written)


def _are_discriminated(branches: list[Schema]) -> bool:
    """Whether objects differ in the value of a property that all of them have."""
    objects = [branch for branch in branches if isinstance(branch, dict) and branch.get("type") == "object"]
    if not objects or len(objects) < len(branches):
        return False
    properties: list[dict[str, Schema]] = [one.get("properties", {}) for one in objects]
    common = set[str].intersection(*(set(one.get("required", ())) for one in objects))
    return any(_are_distinct([_values_of(named.get(name, True)) for named in properties]) for name in common)


def _optional(schema: dict[str, Any]) -> list[str]:
    """The names of the properties that a schema allows and does not require."""
    required = set(schema.get("required", ()))
    return [name for name, part in schema.get("properties", {}).items() if name not in required and part is not False]


def _references(schema: Schema) -> Iterator[str]:
    """What a schema refers to for the same value."""
    if isinstance(schema, dict):
        if "$ref" in schema:
            yield schema["$ref"]
        for keyword in ("allOf", "anyOf", "oneOf"):
            for part in schema.get(keyword, ()):
                yield from _references(part)


def _written(value: Json) -> str:
    """JSON that is the same for equal values."""
    return json.dumps(int(value) if isinstance(value, float) and value.is_integer() else value, sort_keys=True)


def _leaves(value: Json) -> Iterator[Json]:
    if isinstance(value, dict):
        for below in value.values():
            yield from _leaves(below)
    elif isinstance(value, list):
        for below in value:
            yield from _leaves(below)
    else:
        yield value


def _is_number(value: Json) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
