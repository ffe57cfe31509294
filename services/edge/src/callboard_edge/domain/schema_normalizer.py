"""Brings JSON schemas of drafts 4 to 2020-12 into one form of draft 2020-12 that engines can enforce."""

import json
from collections.abc import Collection, Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from typing import Any

from referencing import Registry, Resource, Specification
from referencing.exceptions import Unresolvable
from referencing.jsonschema import DRAFT4, DRAFT6, DRAFT7, DRAFT202012

from callboard_edge.domain.schema_arrays import ARRAY_RULES
from callboard_edge.domain.schema_drafts import draft_of
from callboard_edge.domain.schema_keywords import ANNOTATIONS, LIMITED, REFUSED, UnsupportedSchemaError
from callboard_edge.domain.schema_objects import OBJECT_RULES, meet_names, meet_patterns
from callboard_edge.domain.schema_rules import Call, Rule, Schema, dropped, list_of_schemas, refused
from callboard_edge.domain.schema_values import VALUE_RULES

Json = Any

MAX_NODES = 20_000
"""How many schemas the normalised form may have; alternatives of `oneOf` are copied into it."""

FOR_REPLIES = frozenset({"title", "description"})
FOR_MODELS = FOR_REPLIES | {"default", "examples"}
"""What is kept of a schema that only a grammar is made of, and of one that a model reads too."""
_WITHOUT_SIBLINGS = (DRAFT4, DRAFT6, DRAFT7)
"""Drafts in which nothing beside a `$ref` counts."""
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
        if self._old and self._specification in _WITHOUT_SIBLINGS and "$ref" in schema:
            schema = {
                keyword: value for keyword, value in schema.items() if keyword == "$ref" or keyword in ANNOTATIONS
            }
        schema = _without_unevaluated(schema, place)
        found: dict[str, Any] = {}
        extra: list[Schema] = []

        def inner(part: Json, at: str) -> Schema:
            return self._schema(part, resolver, at)

        for keyword, value in schema.items():
            self._add(Call(schema, keyword, value, place, self._specification, found, extra, inner), resolver)
        return _joined(found, extra, place)

    def _add(self, call: Call, resolver: Json) -> None:
        keyword = call.keyword
        if keyword in self._kept:
            call.found[keyword] = call.value
        elif keyword in ANNOTATIONS or keyword.startswith("x-"):
            return
        elif keyword == "$ref":
            self._reference(call, resolver)
        elif keyword == "oneOf":
            self._one_of(call, resolver)
        elif keyword == "prefixItems" and self._old:
            raise call.refusal(LIMITED["prefixItems"])
        elif (rule := _RULES.get(keyword)) is not None:
            rule(call)
        elif self._strict:
            raise call.refusal("this keyword is not known")

    def _entered(self, schema: dict[str, Any], resolver: Json, place: str) -> Json:
        self._nodes += 1
        if self._nodes > MAX_NODES:
            raise UnsupportedSchemaError("$ref", place, "it is too complex")
        if schema.get("$schema", self._root.get("$schema")) != self._root.get("$schema"):
            raise UnsupportedSchemaError("$schema", place, LIMITED["$schema"])
        return resolver.in_subresource(self._specification.create_resource(schema))

    def _reference(self, call: Call, resolver: Json) -> None:
        target, resolver = _resolved(call.value, resolver, call.place)
        if isinstance(target, bool):
            call.extra.append(target)
            return
        name = self._names.get(id(target))
        if name is None:
            name = self._names[id(target)] = f"#/$defs/{len(self._names)}"
            self._pending.append((name.removeprefix("#/$defs/"), target, resolver, call.at))
        call.found["$ref"] = name

    def _one_of(self, call: Call, resolver: Json) -> None:
        """Alternatives with their references replaced, because llguidance sees only so that they exclude each other."""
        branches = [
            self._inlined_branch(branch, resolver, f"{call.at}/{index}") for index, branch in enumerate(call.value)
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
        target, inner = _resolved(branch["$ref"], resolver, place)
        if id(target) in self._inlined or target is self._root:
            return self._schema(branch, resolver, place)
        self._inlined.add(id(target))
        try:
            return self._inlined_branch(target, inner, place)
        finally:
            self._inlined.discard(id(target))


def _resolved(reference: Json, resolver: Json, place: str) -> tuple[Json, Json]:
    try:
        found = resolver.lookup(str(reference))
    except (Unresolvable, ValueError, KeyError, TypeError, AttributeError, LookupError):
        raise UnsupportedSchemaError("$ref", place, "it refers to what is not in the schema") from None
    return found.contents, found.resolver


def _condition(call: Call) -> None:
    if "then" in call.schema or "else" in call.schema:
        raise call.refusal(REFUSED["if"])


def _negation(call: Call) -> None:
    if call.value not in ({}, True, False):
        raise call.refusal(LIMITED["not"])
    call.extra.append(call.value is False)


_RULES: Mapping[str, Rule] = {
    **ARRAY_RULES,
    **OBJECT_RULES,
    **VALUE_RULES,
    **dict.fromkeys(("$schema", "$id", "id", "$anchor", "$dynamicAnchor", "$recursiveAnchor"), dropped),
    **dict.fromkeys(("$defs", "definitions", "then", "else"), dropped),
    **{keyword: refused(REFUSED[keyword]) for keyword in ("$dynamicRef", "$recursiveRef")},
    **dict.fromkeys(("allOf", "anyOf", "prefixItems"), list_of_schemas),
    "if": _condition,
    "not": _negation,
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
