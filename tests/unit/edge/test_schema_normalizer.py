"""Schemas of all drafts come to one form, and what it cannot say is refused with its keyword and place."""

from collections.abc import Iterable
from typing import Any

import pytest

from callboard_edge.domain.schema_keywords import (
    ANNOTATIONS,
    ENFORCED,
    LIMITED,
    REFUSED,
    MalformedSchemaError,
    UnsupportedSchemaError,
)
from callboard_edge.domain.schema_normalizer import normalized
from tests.support.grammars import SchemaGrammar

pytestmark = pytest.mark.unit

LISTS = {"definitions": {"a": {"type": "array"}}}
DRAFT_4, DRAFT_7 = "http://json-schema.org/draft-04/schema#", "http://json-schema.org/draft-07/schema#"


@pytest.mark.parametrize(
    ("schema", "form"),
    [
        ({"items": [{"type": "null"}], "additionalItems": False}, {"prefixItems": [{"type": "null"}], "items": False}),
        ({"$schema": DRAFT_4, "minimum": 1, "exclusiveMinimum": True}, {"exclusiveMinimum": 1}),
        ({"maximum": 1, "exclusiveMaximum": True}, {"exclusiveMaximum": 1}),
        ({"maxItems": 2.0}, {"maxItems": 2}),
        ({"const": "a"}, {"enum": ["a"]}),
        ({"enum": [1, "a", 2.5], "type": "integer"}, {"enum": [1], "type": "integer"}),
        ({"unevaluatedProperties": False}, {"additionalProperties": False}),
        ({"uniqueItems": False, "then": False, "minContains": 3, "x-note": 1, "default": 2}, {}),
        ({"properties": {"a": {"not": {}}}}, {"properties": {"a": False}}),
        ({"format": "int32"}, {"allOf": [{"minimum": -(2**31), "maximum": 2**31 - 1}]}),
        ({"type": "integer", "maximum": 2**63}, {"type": "integer", "maximum": 2**53}),
        ({"propertyNames": {"enum": ["a"]}}, {"properties": {"a": True}, "additionalProperties": False}),
        (
            {"propertyNames": {"pattern": "^a"}, "properties": {"b": {}}},
            {"patternProperties": {"^a": True}, "properties": {"b": False}, "additionalProperties": False},
        ),
        (
            {"patternProperties": {"^a": {"type": "null"}}, "properties": {"ab": {"type": "string"}, "b": True}},
            {
                "patternProperties": {"^a": {"type": "null"}},
                "properties": {"ab": {"allOf": [{"type": "string"}, {"type": "null"}]}, "b": True},
            },
        ),
        ({"contains": {"type": "null"}, "minContains": 0}, {}),
        ({"$id": "http://a/b", "$ref": "#/$defs/c", "$defs": {"c": {"type": "null"}}}, {"$ref": "#/$defs/1"}),
        ({"$ref": "c", "$defs": {"c": {"$id": "c", "type": "null"}}}, {"$ref": "#/$defs/1"}),
        ({"$ref": "#c", "$defs": {"c": {"$anchor": "c", "type": "null"}}}, {"$ref": "#/$defs/1"}),
        ({"items": {"$ref": "#"}}, {"items": {"$ref": "#"}}),
        (
            {"$schema": DRAFT_7, "items": {"$ref": "#/definitions/a", "maxItems": 2, "title": "x"}, **LISTS},
            {"items": {"$ref": "#/$defs/1", "title": "x"}},
        ),
        (
            {"items": {"$ref": "#/definitions/a", "maxItems": 2}, **LISTS},
            {"items": {"$ref": "#/$defs/1", "maxItems": 2}},
        ),
    ],
)
def test_form_of_keywords(schema: dict[str, Any], form: dict[str, Any]) -> None:
    found = normalized(schema, strict=True)
    assert {name: part for name, part in found.items() if name != "$defs"} == form or found == form
    assert SchemaGrammar(found)


@pytest.mark.parametrize(
    ("schema", "keyword", "place"),
    [
        ({"properties": {"a": {"not": {"type": "null"}}}}, "not", "properties/a"),
        ({"uniqueItems": True}, "uniqueItems", ""),
        ({"if": True, "then": False}, "if", ""),
        ({"contains": True, "maxContains": 2}, "maxContains", ""),
        ({"$dynamicRef": "#a"}, "$dynamicRef", ""),
        ({"$schema": "https://json-schema.org/draft/2019-09/schema", "$recursiveRef": "#"}, "$recursiveRef", ""),
        ({"allOf": [{"properties": {}}], "unevaluatedProperties": False}, "unevaluatedProperties", ""),
        ({"items": {"$ref": "http://localhost/a"}}, "$ref", "items"),
        ({"$ref": "#/nowhere"}, "$ref", ""),
        ({"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}}, "$ref", ""),
        ({"$ref": "#"}, "$ref", ""),
        ({"anyOf": [{"type": "null"}, {"$ref": "#"}]}, "$ref", ""),
        ({"$ref": "#/$defs/a", "$defs": {"a": {"allOf": [{"$ref": "#/$defs/a"}]}}}, "$ref", ""),
        ({"properties": dict.fromkeys("abcdefghij", True), "minProperties": 5}, "minProperties", ""),
        (
            {"properties": dict.fromkeys("abcdefghij", True), "additionalProperties": False, "maxProperties": 5},
            "maxProperties",
            "",
        ),
        ({"minLength": 2**63}, "minLength", ""),
        ({"exclusiveMinimum": 0, "maximum": 0.05}, "exclusiveMinimum", ""),
        ({"$schema": "http://json-schema.org/draft-03/schema#"}, "$schema", ""),
        ({"$schema": DRAFT_7, "prefixItems": []}, "prefixItems", ""),
        ({"anyOf": [{}, {"pattern": r"\bx"}]}, "pattern", "anyOf/1"),
        ({"format": "iban"}, "format", ""),
        ({"minimum": 2**54}, "minimum", ""),
        ({"enum": [2**53 + 1]}, "enum", ""),
        ({"minProperties": 3}, "minProperties", ""),
        ({"items": {"mystery": 1}}, "mystery", "items"),
    ],
)
def test_what_cannot_be_enforced_is_named_with_its_place(schema: dict[str, Any], keyword: str, place: str) -> None:
    with pytest.raises(UnsupportedSchemaError) as refused:
        normalized(schema, strict=True)
    assert (refused.value.keyword, refused.value.place) == (keyword, place)


def test_unknown_keywords_are_ignored_where_the_client_is_not_strict() -> None:
    assert normalized({"mystery": 1}, strict=False) == {}


@pytest.mark.parametrize("schema", [{"type": "objekt"}, {"properties": 5}, {"$schema": DRAFT_7, "items": 5}])
def test_what_its_draft_does_not_allow_is_malformed(schema: dict[str, Any]) -> None:
    with pytest.raises(MalformedSchemaError):
        normalized(schema, strict=False)


def test_alternatives_that_name_their_kind_exclude_each_other_through_references() -> None:
    kinds = {
        kind: {"type": "object", "properties": {"kind": {"const": kind}}, "required": ["kind"]} for kind in ("a", "b")
    }
    schema = {"oneOf": [{"$ref": f"#/$defs/{kind}"} for kind in kinds], "$defs": kinds, "discriminator": {}}
    grammar = SchemaGrammar(normalized(schema, strict=True))
    assert grammar.accepts({"kind": "b"})
    assert not grammar.accepts({"kind": "c"})


NULL, ONE = {"type": "null"}, {"const": 1}
TWO_OF_THREE = {"type": "object", "properties": dict.fromkeys("abc", ONE), "additionalProperties": False}
COUNTED: dict[str, tuple[dict[str, Any], list[Any], list[Any]]] = {
    "none": ({"properties": {"a": ONE}, "maxProperties": 0}, [{}, 1], [{"a": 1}, {"x": 1}]),
    "at most two": ({**TWO_OF_THREE, "maxProperties": 2}, [{}, {"a": 1, "c": 1}], [{"a": 1, "b": 1, "c": 1}]),
    "at most three of three": ({**TWO_OF_THREE, "maxProperties": 3}, [{"a": 1, "b": 1, "c": 1}], []),
    "at least two": ({**TWO_OF_THREE, "minProperties": 2}, [{"b": 1, "c": 1}], [{}, {"a": 1}]),
    "exactly two": (
        {**TWO_OF_THREE, "minProperties": 2, "maxProperties": 2},
        [{"a": 1, "b": 1}, {"b": 1, "c": 1}],
        [{"a": 1}, {"a": 1, "b": 1, "c": 1}],
    ),
    "one more than is required": (
        {**TWO_OF_THREE, "required": ["b"], "minProperties": 2, "maxProperties": 2},
        [{"a": 1, "b": 1}],
        [{"b": 1}, {"a": 1, "c": 1}],
    ),
    "one that is not forbidden": (
        {"type": "object", "properties": {"a": False, "b": ONE}, "minProperties": 1},
        [{"b": 1}],
        [{}, {"a": 1}],
    ),
    "some item after the first ones": (
        {"type": "array", "prefixItems": [NULL, NULL], "contains": ONE},
        [[None, None, 1]],
        [[None, None], [1, None, None]],
    ),
}


@pytest.mark.parametrize("case", COUNTED)
def test_what_is_counted(case: str) -> None:
    schema, good, bad = COUNTED[case]
    grammar = SchemaGrammar(normalized(schema, strict=True))
    assert [value for value in good if not grammar.accepts(value)] == []
    assert [value for value in bad if grammar.accepts(value)] == []


@pytest.mark.parametrize("values", [range(60), "abc", [True, None, 1]])
def test_alternatives_that_differ_in_a_property_exclude_each_other(values: Iterable[Any]) -> None:
    branches = [
        {"type": "object", "properties": {"kind": {"const": value}, "x": {"const": str(value)}}, "required": ["kind"]}
        for value in values
    ]
    beside = {"anyOf": [{"required": ["x"]}, {"required": ["y"]}]}
    grammar = SchemaGrammar(normalized({"oneOf": branches, **beside}, strict=True))
    for value in values:
        assert grammar.accepts({"kind": value, "x": str(value)})
        assert not grammar.accepts({"kind": value, "x": "other"})


def test_every_keyword_is_told_once() -> None:
    lists = [set(REFUSED), set(LIMITED), ENFORCED, ANNOTATIONS]
    assert sum(map(len, lists)) == len(set().union(*lists))
