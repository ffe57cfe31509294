"""A client's schemas are checked before anything is held for the request."""

from typing import Any

import pytest

from callboard_contracts.chat import ChatRequest, OutputFormat, Tool
from callboard_contracts.errors import CallboardError, ErrorCode
from callboard_edge.domain.schema_validator import MAX_DEPTH, SchemaValidator

pytestmark = pytest.mark.unit


def nested(levels: int) -> dict[str, Any]:
    """A schema of so many dictionaries, one in the other."""
    schema: dict[str, Any] = {}
    for _ in range(levels - 1):
        schema = {"items": schema}
    return schema


def asking(schema: dict[str, Any], carrier: str) -> ChatRequest:
    """A request for a reply under a schema, or with a tool that has it."""
    if carrier == "reply":
        wanted = OutputFormat(kind="json_schema", name="x", json_schema=schema)
        return ChatRequest(model="owl", max_output_tokens=9, output_format=wanted)
    tool = Tool(name="f", parameters=schema, strict=carrier == "strict tool")
    return ChatRequest(model="owl", max_output_tokens=9, tools=(tool,))


async def enforced(schema: dict[str, Any], carrier: str) -> dict[str, Any] | None:
    request = await SchemaValidator().enforceable(asking(schema, carrier))
    return request.tools[0].parameters if request.tools else request.output_format.json_schema


CARRIERS = {
    "reply": "output_format.json_schema",
    "tool": "tools[0].parameters",
    "strict tool": "tools[0].parameters",
}
DRAFT_4, DRAFT_7 = "http://json-schema.org/draft-04/schema#", "http://json-schema.org/draft-07/schema#"


@pytest.mark.parametrize(
    ("schema", "named"),
    [
        (nested(MAX_DEPTH + 2), "levels"),
        (nested(5000), "levels"),
        ({"type": "array", "minItems": 5, "maxItems": 2}, "minItems (5) is greater than maxItems (2)"),
        ({"type": "object", "properties": {f"p{number}": {} for number in range(3000)}}, "too complex"),
        ({"$schema": "http://json-schema.org/draft-07/schema#", "items": 5}, "'items'"),
        ({"type": "object", "propertyNames": {"pattern": "^a"}, "required": ["b"]}, "nothing can satisfy it"),
        ({"type": "array", "maxItems": 10**6}, "items of arrays"),
        ({"type": "array", "maxItems": 10**6, "x-note": {"minItems": -(10**9)}}, "items of arrays"),
        ({"type": "array", "maxItems": 10**6, "x-note": {"minItems": float("nan")}}, "a number"),
        ({"type": "number", "maximum": float("inf")}, "a number"),
    ],
)
@pytest.mark.parametrize("carrier", CARRIERS)
async def test_what_no_engine_can_follow_is_refused_by_name(schema: dict[str, Any], named: str, carrier: str) -> None:
    with pytest.raises(CallboardError) as refused:
        await enforced(schema, carrier)
    assert refused.value.info.code is ErrorCode.INVALID_REQUEST
    assert refused.value.info.param == CARRIERS[carrier]
    assert named in refused.value.info.message


@pytest.mark.parametrize(
    ("schema", "form"),
    [
        (nested(MAX_DEPTH), nested(MAX_DEPTH)),
        (
            {"$schema": DRAFT_7, "type": "array", "items": [{"type": "integer"}]},
            {"type": "array", "prefixItems": [{"type": "integer"}]},
        ),
        (
            {"$schema": DRAFT_4, "type": "number", "minimum": 0, "exclusiveMinimum": True},
            {"type": "number", "exclusiveMinimum": 0},
        ),
        ({"minimum": 0, "exclusiveMinimum": True}, {"exclusiveMinimum": 0}),
        ({"propertyNames": {"enum": ["a"]}}, {"properties": {"a": True}, "additionalProperties": False}),
    ],
)
@pytest.mark.parametrize("carrier", CARRIERS)
async def test_schemas_of_all_drafts_come_to_one_form(
    schema: dict[str, Any], form: dict[str, Any], carrier: str
) -> None:
    assert await enforced(schema, carrier) == form


@pytest.mark.parametrize(
    ("schema", "keyword"),
    [
        ({"type": "object", "properties": {"a": {"type": "array", "uniqueItems": True}}}, "'uniqueItems'"),
        ({"type": "object", "properties": {"a": {"format": "owl"}}}, "'format'"),
        ({"$schema": "urn:none", "type": "object"}, "'$schema'"),
        # There are values, but none that the limits of the keyword leave.
        (
            {"type": "object", "properties": {"a": {}}, "patternProperties": {"a$": False}, "minProperties": 1},
            "'minProperties'",
        ),
        ({"contains": {"const": 5}, "allOf": [{"prefixItems": [{"const": 1}]}], "type": "array"}, "'contains'"),
        ({"type": "object", "properties": {"a": {"pattern": "^(?!b)a"}}}, "look-around"),
    ],
)
async def test_what_cannot_be_enforced_is_refused_unless_a_tool_is_not_strict(
    schema: dict[str, Any], keyword: str
) -> None:
    for carrier in ("reply", "strict tool"):
        with pytest.raises(CallboardError) as refused:
            await enforced(schema, carrier)
        assert (refused.value.info.code, refused.value.info.param) == (ErrorCode.UNSUPPORTED, CARRIERS[carrier])
        assert keyword in refused.value.info.message
    assert await enforced(schema, "tool") == schema


async def test_keywords_that_nobody_knows_are_refused_of_a_strict_tool() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "integer", "minimun": 5}}}
    with pytest.raises(CallboardError) as refused:
        await enforced(schema, "strict tool")
    assert "'minimun'" in refused.value.info.message
    assert await enforced(schema, "tool") == {"type": "object", "properties": {"a": {"type": "integer"}}}


async def test_models_read_what_is_said_about_the_parameters_of_tools() -> None:
    part = {"type": "string", "title": "A", "description": "Where.", "default": "box", "examples": ["box"]}
    schema = {"type": "object", "properties": {"a": part}}
    assert await enforced(schema, "tool") == schema
    for name in ("default", "examples"):
        del part[name]
    assert await enforced({**schema, "default": {}}, "reply") == schema
